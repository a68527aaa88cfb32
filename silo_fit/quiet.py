"""Optuna without a line a trial."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet(optuna: Any) -> Iterator[None]:
    """Its level is the caller's again afterwards. `optuna`: the module, which is imported where it is needed."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
