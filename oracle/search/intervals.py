"""One cycle's trials -> the optimum and the interval around it. Numbers only: no files, no training.

Accuracies are compared as exact fractions of correct images, summed over seeds, so that ties are ties and the tolerance
is inclusive: an accuracy n/N read back from a float is the fraction it came from for every N up to a million.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from oracle.errors import DivergedError, TableError
from oracle.search.trial_columns import trial_columns, trials_by_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    max_lr: float
    diverged: bool
    correct: Fraction  # validation accuracy summed over seeds
    loss: float  # mean validation loss over seeds


def find_interval(trials: Any, *, tolerance: float) -> dict[str, Any]:
    """The optimum of one cycle and the run of neighbouring candidates within `tolerance` of it.

    A candidate that lacks a seed which another one has takes no part, as if it had not been tried.

    `trials`: rows of one cycle as a pyarrow Table, a DataFrame, a mapping of columns or a sequence of rows; columns
    cycle, seed, max_lr, outcome ("finished" or "diverged"), val_accuracy (fraction), val_loss, and where they are known
    weights_remaining, test_accuracy, seconds. `tolerance`: fraction of accuracy, in (0, 1).

    Returns the columns of oracle.parquet. The optimum has the largest mean validation accuracy; ties go to the lower
    validation loss, then to the smaller max_lr. A candidate with a diverged seed cannot win and ends the interval.
    `lo` and `hi` are candidates, `lo_outside` and `hi_outside` the next ones beyond them, None on the grid's edge; `holes`
    counts candidates outside the tolerance between the interval and another candidate within it; `num_incomplete` those
    that lack a seed, and `num_diverged` and `seconds` are of all trials, theirs too. Standard deviations are over seeds,
    n - 1; None for one seed.

    Raises DivergedError where no candidate is left, TableError where no candidate has all seeds, where rows are missing,
    doubled or of several cycles, or the tolerance is no such fraction.

    >>> rows = [dict(cycle=0, seed=0, max_lr=r, outcome="finished", val_accuracy=a, val_loss=1 - a)
    ...         for r, a in [(0.1, 0.90), (0.2, 0.92), (0.3, 0.915), (0.4, 0.91)]]
    >>> row = find_interval(rows, tolerance=0.005)
    >>> row["lo"], row["max_lr"], row["hi"], row["hi_on_edge"]
    (0.2, 0.2, 0.3, False)
    """
    if not 0 < tolerance < 1:
        raise TableError(
            f"tolerance must be a fraction of accuracy in (0, 1), as 0.005 for half a point, found {tolerance}"
        )
    columns = trial_columns(trials)
    cycle = _one_cycle(columns)
    candidates, seeds, _ = _candidates(columns)
    best = _best(candidates, cycle)
    # Inclusive and exact: sums over seeds against seeds x tolerance.
    floor = candidates[best].correct - len(seeds) * _exact(tolerance)
    within = [not candidate.diverged and candidate.correct >= floor for candidate in candidates]
    first, last = best, best
    while first > 0 and within[first - 1]:
        first -= 1
    while last < len(candidates) - 1 and within[last + 1]:
        last += 1
    return {
        **_of_all(columns),
        "max_lr": candidates[best].max_lr,
        "lo": candidates[first].max_lr,
        "hi": candidates[last].max_lr,
        **ends_within(
            [each.max_lr for each in candidates], *(candidates[index].max_lr for index in (best, first, last))
        ),
        "holes": _holes(within, first, last),
        **_at_optimum(columns, candidates[best].max_lr),
    }


def describe_choice(trials: Any, *, max_lr: float, lo: float, hi: float, grid: Sequence[float]) -> dict[str, Any]:
    """The columns of oracle.parquet for an optimum and an interval that were found otherwise; holes has no meaning there.

    `trials`: of one cycle, as for `find_interval`. `grid`: all candidates, ascending, these among them.
    """
    columns = trial_columns(trials)
    return {
        **_of_all(columns),
        "max_lr": max_lr,
        "lo": lo,
        "hi": hi,
        **ends_within(grid, max_lr, lo, hi),
        "holes": None,
        **_at_optimum(columns, max_lr),
    }


def ends_within(grid: Sequence[float], max_lr: float, lo: float, hi: float) -> dict[str, Any]:
    """Whether optimum and ends lie on the edge of a grid (ascending), and the candidates next to the ends."""
    first, last = grid.index(lo), grid.index(hi)
    return {
        "lo_on_edge": first == 0,
        "hi_on_edge": last == len(grid) - 1,
        "optimum_on_edge": max_lr in (grid[0], grid[-1]),
        "lo_outside": grid[first - 1] if first > 0 else None,
        "hi_outside": grid[last + 1] if last < len(grid) - 1 else None,
    }


def _of_all(columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """What a row says of all of its cycle's trials."""
    cycle = _one_cycle(columns)
    candidates, seeds, num_incomplete = _candidates(columns)
    return {
        "cycle": cycle,
        "num_candidates": len(candidates),
        "num_seeds": len(seeds),
        "num_diverged": sum(outcome == "diverged" for outcome in columns["outcome"]),
        "num_incomplete": num_incomplete,
        "seconds": _total(columns["seconds"]) if "seconds" in columns else None,
    }


def _one_cycle(columns: Mapping[str, list[Any]]) -> int:
    cycles = sorted(set(columns["cycle"]))
    if len(cycles) != 1:
        raise TableError(f"expected the trials of one cycle, found cycles {cycles}")
    return int(cycles[0])


def _exact(value: float) -> Fraction:
    return Fraction(value).limit_denominator(1_000_000)


def _candidates(columns: Mapping[str, list[Any]]) -> tuple[list[_Candidate], list[int], int]:
    """The candidates that have all seeds, ascending; the seeds; and how many candidates lack one."""
    by_rate = trials_by_rate(columns)
    seeds = sorted({seed for trials in by_rate.values() for seed in trials})
    candidates = []
    for max_lr, trials in sorted(by_rate.items()):
        if len(trials) < len(seeds):
            continue
        diverged = any(outcome == "diverged" for outcome, _, _ in trials.values())
        finished = [trials[seed] for seed in seeds] if not diverged else []  # by seed: a sum that keeps its bits
        correct = sum((_exact(accuracy) for _, accuracy, _ in finished), Fraction())
        loss = float(np.mean([loss for _, _, loss in finished])) if finished else float("inf")
        candidates.append(_Candidate(max_lr=max_lr, diverged=diverged, correct=correct, loss=loss))
    if not candidates:
        found = "; ".join(f"max_lr {max_lr:g} has {sorted(trials)}" for max_lr, trials in list(by_rate.items())[:3])
        raise TableError(f"no candidate has all seeds {seeds}, so none can be compared: {found}")
    return candidates, seeds, len(by_rate) - len(candidates)


def _best(candidates: Sequence[_Candidate], cycle: int) -> int:
    eligible = [index for index, candidate in enumerate(candidates) if not candidate.diverged]
    if not eligible:
        raise DivergedError(
            f"cycle {cycle}: every candidate of the grid [{candidates[0].max_lr:g}, {candidates[-1].max_lr:g}] "
            f"({len(candidates)} values) diverged with at least one seed; give a grid with smaller learning rates"
        )
    return min(eligible, key=lambda i: (-candidates[i].correct, candidates[i].loss, candidates[i].max_lr))


def _holes(within: Sequence[bool], first: int, last: int) -> int:
    """Candidates outside the tolerance that part the interval from another candidate within it."""
    inside = [index for index, value in enumerate(within) if value]
    return sum(not value for value in within[inside[0] : first]) + sum(not value for value in within[last : inside[-1]])


def _at_optimum(columns: Mapping[str, list[Any]], max_lr: float) -> dict[str, float | None]:
    """Means and standard deviations over the optimum's seeds."""
    seed_order = np.argsort(columns["seed"], kind="stable")
    rows = [index for index in seed_order if columns["max_lr"][index] == max_lr]

    def values(name: str) -> list[float]:
        found = [columns[name][index] for index in rows] if name in columns else []
        return [value for value in found if value is not None and value == value]  # pandas holds NaN for None

    def mean(name: str) -> float | None:
        return float(np.mean(values(name))) if values(name) else None

    def std(name: str) -> float | None:
        return float(np.std(values(name), ddof=1)) if len(values(name)) > 1 else None

    return {
        "weights_remaining": mean("weights_remaining"),
        "val_accuracy": mean("val_accuracy"),
        "val_accuracy_std": std("val_accuracy"),
        "val_loss": mean("val_loss"),
        "test_accuracy": mean("test_accuracy"),
        "test_accuracy_std": std("test_accuracy"),
    }


def _total(seconds: Sequence[float | None]) -> float:
    """The sum of what is known, the same in any order of rows."""
    return math.fsum(value for value in seconds if value is not None and value == value)
