"""What people look at of many trials: mean accuracies, and how far below the best of its cycle each candidate lies."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

SMALLEST_CLIP = 0.05  # fraction of accuracy: a smaller one would give noise the colours of failures


def mean_accuracies(trials: Any) -> dict[tuple[int, float], float]:
    """Mean validation accuracy over seeds by (cycle, max_lr), ascending; NaN where a seed diverged.

    `trials`: a pyarrow Table, or rows as mappings, with cycle, seed, max_lr, outcome and val_accuracy (fraction). A trial
    that is there twice counts once. A candidate that lacks seeds has the mean of those that it has.

    >>> rows = [{"cycle": 0, "seed": seed, "max_lr": 0.1, "outcome": "finished", "val_accuracy": accuracy}
    ...         for seed, accuracy in enumerate([0.5, 0.7])]
    >>> mean_accuracies(rows)
    {(0, 0.1): 0.6}
    """
    found = _by_seed(trials)
    return {key: math.fsum(seeds.values()) / len(seeds) for key, seeds in sorted(found.items())}


def seed_counts(trials: Any) -> dict[tuple[int, float], int]:
    """How many seeds have trained each (cycle, max_lr); `trials` as above."""
    return {key: len(seeds) for key, seeds in sorted(_by_seed(trials).items())}


def searched_cycles(trials: Any) -> list[int]:
    """The cycles at which more than one max_lr was tried, ascending; `trials` as above.

    >>> searched_cycles([{"cycle": 0, "seed": 0, "max_lr": rate, "outcome": "diverged"} for rate in (0.1, 0.2)])
    [0]
    """
    rates: dict[int, set[float]] = defaultdict(set)
    for cycle, max_lr in _by_seed(trials):
        rates[cycle].add(max_lr)
    return sorted(cycle for cycle, tried in rates.items() if len(tried) > 1)


def best_accuracies(trials: Any) -> dict[int, float]:
    """The best mean of each cycle, among candidates that have every seed of the cycle and did not diverge.

    NaN where there is none; `trials` as above.
    """
    found, means = _by_seed(trials), mean_accuracies(trials)
    num_seeds: dict[int, int] = defaultdict(int)
    for (cycle, _), seeds in found.items():
        num_seeds[cycle] = max(num_seeds[cycle], len(seeds))
    best = dict.fromkeys(num_seeds, math.nan)
    for (cycle, max_lr), mean in means.items():
        if len(found[cycle, max_lr]) == num_seeds[cycle] and not math.isnan(mean):
            best[cycle] = max(mean, best[cycle]) if not math.isnan(best[cycle]) else mean
    return best


def _by_seed(trials: Any) -> dict[tuple[int, float], dict[int, float]]:
    rows: Iterable[Mapping[str, Any]] = trials
    if hasattr(trials, "to_pylist"):  # pyarrow
        rows = trials.select(["cycle", "seed", "max_lr", "outcome", "val_accuracy"]).to_pylist()
    found: dict[tuple[int, float], dict[int, float]] = defaultdict(dict)
    for row in rows:
        accuracy = row["val_accuracy"] if row["outcome"] == "finished" else math.nan
        found[row["cycle"], row["max_lr"]][row["seed"]] = accuracy
    return found


def training_seconds(trials: pa.Table) -> float:
    """What all trainings took, one after the other; those that do not tell count nothing."""
    return math.fsum(filter(None, trials["seconds"].to_pylist()))


def clip_of_gaps(tolerance: float | None = None) -> float:
    """The gap to a cycle's best at which colours end, a fraction of accuracy: at least four times the tolerance.

    A diverged or hopeless candidate would else take all colours for itself.
    """
    return max(SMALLEST_CLIP, 4 * (tolerance or 0.0))
