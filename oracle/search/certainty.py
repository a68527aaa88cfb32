"""How sure a cycle's optimum and interval are: the posterior of the accuracy curve, read at the grid's candidates.

Numbers only: no files, no training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from threadpoolctl import threadpool_limits

from oracle.errors import DivergedError, TableError
from oracle.search.accuracy_curve import AccuracyCurve, CycleAccuracies, accuracy_curve
from oracle.search.trial_columns import trial_columns, trials_by_rate

DRAWS = 4000


def estimate_interval(
    trials: Any, *, candidates: Sequence[float], num_validation: int, tolerance: float, confidence: float = 0.95
) -> dict[str, Any]:
    """What the trials of a cycle say of its optimum and interval, and how surely; the cycles before help to tell noise.

    The statement: were every candidate trained with ever more seeds, their mean accuracies on these validation images
    would form a curve over log max_lr, and the candidates around its best within `tolerance` of it an interval. Of that
    curve and its interval the trials so far leave the probabilities given here. Assumed: the curve is smooth
    (`accuracy_curve` has the model), seeds are exchangeable, and a candidate at which a seed diverged is no part of it.
    What other validation images would say is not in it, but for image_se_lo and image_se_hi.

    `trials`: rows of cycles 0 to m, of which m is answered, in any form that `find_interval` takes; any candidates x seeds.
    val_correct (bits, one a validation image), where there, for image_se_*. `candidates`: the max_lr of cycle m that are
    asked about, those tried among them. `num_validation`: images. `tolerance`: fraction of accuracy.

    Returns, accuracies as fractions, ends as candidates:

    - max_lr: the best of the curve's mean among candidates that every seed trained and none diverged at
    - lo, hi: the interval of the curve's mean; that around max_lr, where no candidate of it could be chosen
    - lo_possible, hi_possible: not beyond these, and lo_sure, hi_sure: surely as far as these; each with probability
      1 - (1 - confidence) / 2; the sure ones None where no candidate is surely inside, or one seed says nothing of noise
    - lo_open, hi_open: whether that end may lie beyond the candidates
    - p_within: the probability that a candidate is inside, one a candidate, ascending; p_optimum_within: that max_lr is
      within the tolerance of the curve's best
    - val_accuracy_curve, val_accuracy_curve_std: of the curve at max_lr; not the largest of noisy means, as val_accuracy is
    - seed_se_lo, seed_se_hi: standard error, from seeds, of the accuracy lost from max_lr to the nearest candidate at or
      beyond that end that every seed trained; image_se_lo, image_se_hi: what the finite set of validation images alone
      leaves open of it (the covariance over images of two seeds' losses, averaged over pairs of seeds, over their number).
      None without such a candidate; the latter without val_correct and with one seed, too
    - evidence: "assumed" with one seed, "low" with two, "measured" with more
    - curve, curve_std: the posterior's mean and standard deviation, one a candidate

    4000 draws of the posterior, from a generator keyed by the cycle: the same trials give the same numbers. Raises
    DivergedError and TableError as `find_interval`, and TableError where candidates, num_validation or confidence are none.

    >>> rows = [dict(cycle=0, seed=s, max_lr=r, outcome="finished", val_accuracy=a + s / 1000, val_loss=1 - a)
    ...         for s in range(3) for r, a in [(0.01, 0.80), (0.02, 0.90), (0.04, 0.92), (0.08, 0.916), (0.16, 0.70)]]
    >>> row = estimate_interval(rows, candidates=[0.01, 0.02, 0.04, 0.08, 0.16], num_validation=500, tolerance=0.005)
    >>> row["lo"], row["max_lr"], row["hi"], row["evidence"]
    (0.04, 0.04, 0.08, 'measured')
    """
    named = _checked(candidates, num_validation, tolerance, confidence)
    found = read_curve(
        trials, candidates=named, num_validation=num_validation, tolerance=tolerance, confidence=confidence
    )
    unknown = sorted(set(found.grid) - set(named))
    if unknown:
        raise TableError(f"max_lr {unknown[0]!r} was tried, but is not among the {len(named)} candidates; add it")
    return found.summary()


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveReading:
    """A cycle's curve at candidates, and what it says of optimum and interval; indices are of `grid`."""

    grid: tuple[float, ...]  # ascending
    tried: tuple[int, ...]  # with any seed, ascending
    eligible: tuple[int, ...]  # of those, what every seed tried and none diverged at
    curve: AccuracyCurve
    best: int  # where the curve is highest, tried or not; no candidate that diverged
    chosen: int
    lo: int
    hi: int
    possible: tuple[int, int]
    sure: tuple[int, int] | None
    p_within: tuple[float, ...]
    p_near: tuple[float, ...]  # the probability of each to be within the tolerance of the best, in its run or not
    num_seeds: int
    errors: Mapping[str, float | None]  # seed_se_* and image_se_*

    @property
    def max_lr(self) -> float:
        """The optimum."""
        return self.grid[self.chosen]

    def summary(self) -> dict[str, Any]:
        """As `estimate_interval` returns it."""
        sure = self.sure if self.num_seeds > 1 else None
        spread = self.curve.std
        return {
            "max_lr": self.max_lr,
            "lo": self.grid[self.lo],
            "hi": self.grid[self.hi],
            "lo_possible": self.grid[self.possible[0]],
            "lo_sure": None if sure is None else self.grid[sure[0]],
            "hi_sure": None if sure is None else self.grid[sure[1]],
            "hi_possible": self.grid[self.possible[1]],
            "lo_open": self.possible[0] == 0,
            "hi_open": self.possible[1] == len(self.grid) - 1,
            "p_within": list(self.p_within),
            "p_optimum_within": self.p_near[self.chosen],
            "val_accuracy_curve": float(self.curve.mean[self.chosen]) / 100,
            "val_accuracy_curve_std": float(spread[self.chosen]) / 100,
            **self.errors,
            "evidence": {1: "assumed", 2: "low"}.get(self.num_seeds, "measured"),
            "curve": (self.curve.mean / 100).tolist(),
            "curve_std": (spread / 100).tolist(),
        }

    def columns(self) -> dict[str, Any]:
        """The columns of oracle.parquet."""
        found = self.summary()
        vectors = ("p_within", "curve", "curve_std")
        own = {name: f"curve_{name}" for name in ("max_lr", "lo", "hi")}
        return {own.get(name, name): value for name, value in found.items() if name not in vectors}

    def by_candidate(self, cycle: int) -> list[dict[str, Any]]:
        """The rows of p_within.parquet."""
        found = self.summary()
        names = ("p_within", "curve", "curve_std")
        return [
            {"cycle": cycle, "max_lr": max_lr, **{name: found[name][index] for name in names}}
            for index, max_lr in enumerate(self.grid)
        ]


def read_curve(
    trials: Any, *, candidates: Sequence[float], num_validation: int, tolerance: float, confidence: float
) -> CurveReading:
    """`estimate_interval`, with the curve itself; what the last cycle tried is among the candidates, named or not."""
    grid, columns = _checked(candidates, num_validation, tolerance, confidence), trial_columns(trials)
    last, by_cycle = _by_cycle(columns)
    seeds, tried = _by_seed_and_rate(by_cycle[last])
    grid = sorted({*grid, *tried})
    cycles = [_accuracies(rows, num_validation, tolerance) for _, rows in sorted(by_cycle.items())]
    barred = np.array([any(math.isinf(value) for value in tried.get(max_lr, {}).values()) for max_lr in grid])
    eligible = np.isin(grid, np.array(sorted(tried))[cycles[-1].complete])
    _check_eligible(last, grid, eligible, barred, seeds)
    with threadpool_limits(limits=1, user_api="blas"):  # on matrices this small, threads take twice the CPU time
        curve = accuracy_curve(cycles, np.log10(grid))
        chosen = int(np.flatnonzero(eligible)[np.argmax(curve.mean[eligible])])
        ends = _Ends(curve, barred, chosen, 100 * tolerance, confidence, cycle=last)
    lo, hi = ends.of_mean
    outwards = {"lo": range(lo, -1, -1), "hi": range(hi, len(grid))}
    errors: dict[str, float | None] = {}
    bits = _bits(by_cycle[last], num_validation)
    for end, indices in outwards.items():
        beyond = next((index for index in indices if eligible[index] and index != chosen), None)
        errors[f"seed_se_{end}"] = None if beyond is None else curve.std_of_gap(chosen, beyond) / 100
        errors[f"image_se_{end}"] = None if beyond is None else _image_error(bits, grid[chosen], grid[beyond])
    return CurveReading(
        grid=tuple(grid),
        tried=tuple(index for index, max_lr in enumerate(grid) if max_lr in tried),
        eligible=tuple(np.flatnonzero(eligible).tolist()),
        curve=curve,
        best=int(np.where(barred, -np.inf, curve.mean).argmax()),
        chosen=chosen,
        lo=lo,
        hi=hi,
        possible=ends.possible,
        sure=ends.sure,
        p_within=tuple(ends.p_within.tolist()),
        p_near=tuple(ends.p_near.tolist()),
        num_seeds=len(seeds),
        errors=errors,
    )


class _Ends:
    """Where draws of a curve end: for each, the run of candidates around its best that are within the tolerance of it."""

    def __init__(
        self,
        curve: AccuracyCurve,
        barred: Bool[ndarray, "G"],
        chosen: int,
        tolerance: float,
        confidence: float,
        *,
        cycle: int,
    ) -> None:
        """`barred`: candidates that are no part of any run. `tolerance` in points."""
        draws = np.where(barred, -np.inf, curve.draws(DRAWS, np.random.default_rng(cycle)))
        best = draws.argmax(1)
        self._tail = (1 - confidence) / 2
        self._runs = _runs(draws, best, tolerance)
        self._about_chosen = _runs(draws, np.full(DRAWS, chosen), tolerance)
        index, (lo, hi) = np.arange(len(barred)), self._runs
        self.p_within: Float[ndarray, "G"] = ((index >= lo[:, None]) & (index <= hi[:, None])).mean(0)
        self.p_near: Float[ndarray, "G"] = (draws >= draws.max(1)[:, None] - tolerance).mean(0)
        mean = np.where(barred, -np.inf, curve.mean)[None]
        (first,), (last,) = _runs(mean, mean.argmax(1), tolerance)
        if not first <= chosen <= last:  # no candidate of the run can be chosen
            (first,), (last,) = _runs(mean, np.array([chosen]), tolerance)
        self.of_mean = int(first), int(last)

    @property
    def possible(self) -> tuple[int, int]:
        """Ends that are no further out, measured from the draw's best or from the chosen optimum."""
        runs = (self._runs, self._about_chosen)
        lo = min(int(np.quantile(lo, self._tail, method="lower")) for lo, _ in runs)
        hi = max(int(np.quantile(hi, 1 - self._tail, method="higher")) for _, hi in runs)
        return min(lo, self.of_mean[0]), max(hi, self.of_mean[1])

    @property
    def sure(self) -> tuple[int, int] | None:
        """Ends that are at least as far out; None where no candidate is between them."""
        lo, hi = self._runs
        first = max(int(np.quantile(lo, 1 - self._tail, method="higher")), self.of_mean[0])
        last = min(int(np.quantile(hi, self._tail, method="lower")), self.of_mean[1])
        return (first, last) if first <= last else None


def _runs(
    curves: Float[ndarray, "D G"], start: Int[ndarray, "D"], tolerance: float
) -> tuple[Int[ndarray, "D"], Int[ndarray, "D"]]:
    """First and last index of the run around `start` that is within the tolerance of it."""
    index = np.arange(curves.shape[1])
    outside = curves < curves[np.arange(len(curves)), start][:, None] - tolerance
    first = np.where(outside & (index < start[:, None]), index + 1, 0).max(1)
    last = np.where(outside & (index > start[:, None]), index - 1, len(index) - 1).min(1)
    return first, last


Rows = dict[str, list[Any]]  # columns of one cycle
Bits = Mapping[tuple[float, int], Bool[ndarray, "V"]]  # by max_lr and seed


def _checked(candidates: Sequence[float], num_validation: int, tolerance: float, confidence: float) -> list[float]:
    """The candidates, ascending. TableError where one of these is not what it must be."""
    try:
        grid = sorted(math.nan if isinstance(max_lr, bool) else float(max_lr) for max_lr in candidates)
    except (TypeError, ValueError):
        grid = []
    if not grid or not all(0 < rate < math.inf for rate in grid) or len(set(grid)) < len(grid):
        raise TableError(f"candidates must be distinct learning rates above 0, found {candidates!r}")
    if isinstance(num_validation, bool) or not (isinstance(num_validation, Integral) and num_validation >= 1):
        raise TableError(f"num_validation must be a number of images, at least 1, found {num_validation!r}")
    if not (isinstance(tolerance, Real) and 0 < tolerance < 1):
        raise TableError(f"tolerance must be a fraction of accuracy in (0, 1), found {tolerance!r}")
    if not (isinstance(confidence, Real) and 0 < confidence < 1):
        raise TableError(f"confidence must be a probability in (0, 1), as 0.95, found {confidence!r}")
    return grid


def _by_cycle(columns: Rows) -> tuple[int, dict[int, Rows]]:
    """The last cycle, and the rows of each."""
    if not columns["cycle"]:
        raise TableError("expected the trials of a cycle, found none")
    rows: dict[int, list[int]] = {}
    for index, cycle in enumerate(columns["cycle"]):
        number = float(cycle) if isinstance(cycle, Real) and not isinstance(cycle, bool) else math.nan
        if not (number >= 0 and number.is_integer()):
            raise TableError(f"cycle must be a whole number from 0 on, found {cycle!r}")
        rows.setdefault(int(number), []).append(index)
    by_cycle = {
        cycle: {name: [values[index] for index in own] for name, values in columns.items()}
        for cycle, own in rows.items()
    }
    return max(by_cycle), by_cycle


def _by_seed_and_rate(rows: Rows) -> tuple[list[int], dict[float, dict[int, float]]]:
    """The seeds, and accuracies in points by max_lr and seed; -inf where diverged."""
    found = {
        max_lr: {
            seed: 100 * accuracy if outcome == "finished" else -math.inf
            for seed, (outcome, accuracy, _) in trials.items()
        }
        for max_lr, trials in trials_by_rate(rows).items()
    }
    return sorted({seed for trials in found.values() for seed in trials}), found


def _accuracies(rows: Rows, num_validation: int, tolerance: float) -> CycleAccuracies:
    seeds, tried = _by_seed_and_rate(rows)
    rates = sorted(tried)
    return CycleAccuracies(
        rates=np.log10(rates),
        accuracies=np.array([[tried[max_lr].get(seed, math.nan) for seed in seeds] for max_lr in rates]),
        num_validation=num_validation,
        tolerance=100 * tolerance,
    )


def _check_eligible(
    cycle: int, grid: Sequence[float], eligible: Bool[ndarray, "G"], barred: Bool[ndarray, "G"], seeds: Sequence[int]
) -> None:
    if eligible.any():
        return
    if barred.any():
        raise DivergedError(
            f"cycle {cycle}: every candidate of the grid [{grid[0]:g}, {grid[-1]:g}] that all seeds trained diverged with "
            "at least one of them; give a grid with smaller learning rates"
        )
    raise TableError(f"cycle {cycle}: no candidate has all seeds {list(seeds)}, so none can be chosen")


def _image_error(bits: Bits, max_lr: float, other: float) -> float | None:
    """Standard error, from the images alone, of the accuracy lost from one rate to another; None without two seeds."""
    seeds = sorted(seed for rate, seed in bits if rate == max_lr and (other, seed) in bits)
    if len(seeds) < 2:
        return None
    lost = np.array([bits[max_lr, seed].astype(float) - bits[other, seed] for seed in seeds])
    # The variance of a sum is the sum of all covariances: without each seed's own, those of pairs are left.
    pairs = lost.sum(0).var(ddof=1) - lost.var(1, ddof=1).sum()
    return math.sqrt(max(0.0, pairs / (len(seeds) * (len(seeds) - 1)) / lost.shape[1]))


def _bits(rows: Rows, num_validation: int) -> Bits:
    """Which validation images a trial had right, where that is known of all of them."""
    return {
        (float(max_lr), seed): np.unpackbits(np.frombuffer(content, dtype=np.uint8))[:num_validation].astype(bool)
        for max_lr, seed, content in zip(
            rows["max_lr"], rows["seed"], rows.get("val_correct", [None] * len(rows["seed"])), strict=True
        )
        if isinstance(content, bytes) and 8 * len(content) >= num_validation > 1
    }
