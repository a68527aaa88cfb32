"""Random numbers by name: the one place that makes generators.

A key says what the numbers are for, e.g. ("batches", seed, cycle, epoch). The same key gives the same numbers in any
pack, process or machine, and drawing from one key moves no other.
"""

import hashlib

import torch


def generator(*key: str | int) -> torch.Generator:
    """A CPU generator for `key` alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)  # 63 bits: manual_seed takes an int64
