"""Torch's compilers, imported before anything else imports them, so that no folder of theirs is left behind.

Importing them (torchvision does) and tracing (`make_fx` does) make a folder in TMPDIR for compiled code, though nothing is
compiled here. Meanwhile its name is therefore that of a folder that is there already. Whoever compiles later gets the
usual one; a TORCHINDUCTOR_CACHE_DIR of the user's is used as it is.
"""

import contextlib
import os

import torch

_NAME = "TORCHINDUCTOR_CACHE_DIR"
_given = os.environ.get(_NAME)
os.environ.setdefault(_NAME, os.path.dirname(torch.__file__))
try:
    import torch._dynamo

    with contextlib.suppress(ImportError):  # not in every version
        import torch._inductor.compiler_bisector  # which the first trace imports
finally:
    if _given is None:
        del os.environ[_NAME]
