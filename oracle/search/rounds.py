"""What rounds are made of, and how many trainings they are: for strategies, one's own too."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from oracle.runs.decisions import Pair

ROUND = pa.field("round", pa.int64())  # in which a trial was asked for, from 0; null in earlier cycles


def every(candidates: Sequence[float], seeds: Sequence[int]) -> tuple[Pair, ...]:
    """Every candidate with every seed.

    >>> every([0.1, 0.2], [0, 1])
    ((0.1, 0), (0.2, 0), (0.1, 1), (0.2, 1))
    """
    return tuple((float(max_lr), seed) for seed in seeds for max_lr in candidates)


def of_cycle(rows: pa.Table, cycle: int) -> pa.Table:
    """The rows of one cycle."""
    return rows.filter(pc.equal(rows["cycle"], cycle))


def without(pairs: Sequence[Pair], there: Collection[Pair]) -> tuple[Pair, ...]:
    """The pairs that are not there, in order."""
    return tuple(pair for pair in pairs if pair not in there)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainings:
    """How many a whole search takes."""

    least: int
    likely: int
    most: int | None  # None: nobody knows
    rounds: int  # likely
