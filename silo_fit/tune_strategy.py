"""eps and delta coordinate by coordinate: eps on the dense network, then delta on the network of target sparsity.

The masks of the target come from one chain at eps, and are the same for every delta that is tried.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from oracle.errors import CurveError, ExperimentError
from oracle.experiment import Experiment
from oracle.runs.decisions import Pair
from oracle.runs.summaries import mean_accuracies
from oracle.runs.tables import Row
from oracle.search.intervals import find_interval
from oracle.search.rounds import Trainings, every, of_cycle
from search_spaces.grids import LEAST_RATE, MOST_RATE
from silo_fit.curve import SiloCurve, shape
from silo_fit.studies import Axis, Told, propose

ROUNDS = 4  # by default
LEAST_RISE = 0.05  # of the curve's rise, done at the target: with less, delta can hardly be seen there


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinateWise:
    """`num_rates` for eps at cycle 0; eps alone on the way; eps and `num_rates` above it at the target, the last cycle.

    In `num_rounds` rounds each: the first one evenly spaced over log max_lr, the others proposed by Optuna.
    """

    name: ClassVar[str] = "tune"

    eps: tuple[float, float]  # range
    delta: tuple[float, float]  # range
    target: int  # cycle
    q: float
    beta: float
    pruning_rate: float
    num_rates: int
    num_rounds: int
    seeds: tuple[int, ...]
    tolerance: float  # fraction of accuracy
    seed: int = 0  # of Optuna's sampler

    @property
    def parameters(self) -> Mapping[str, Any]:
        """See `Strategy`."""
        ranges = {"eps": list(self.eps), "delta": list(self.delta)}
        shape = {"q": self.q, "beta": self.beta}
        return {**ranges, **shape, "rates": self.num_rates, "rounds": self.num_rounds, "seed": self.seed}

    @property
    def risen(self) -> float:
        """The part of the rise that is done at the target: max_lr there is eps + delta times this."""
        return float(shape(self.target, self.q, self.beta, self.pruning_rate))

    def next_trials(self, cycle: int, rows: pa.Table) -> Sequence[Pair]:
        """See `Strategy`."""
        own = of_cycle(rows, cycle)
        if cycle not in (0, self.target):
            return () if own.num_rows else every([self._eps(rows)], self.seeds)
        axis = self.axis(cycle, rows)
        extra = [] if cycle == 0 else [self._eps(rows)]
        if not own.num_rows:
            is_there = axis.low in extra and axis.low < axis.high  # eps itself is the first of the evenly spaced
            return every(sorted({*extra, *axis.spaced(self._of_first_round(axis) + is_there)}), self.seeds)
        told = self.told(cycle, rows)
        wanted = (1 if axis.low == axis.high else self.num_rates) + len(extra)
        num = min(wanted - len(told), math.ceil(self.num_rates / self.num_rounds))
        if num <= 0:
            return ()
        proposed = propose({"max_lr": axis}, within(axis, told), num, seed=self.seed)
        return every(sorted(each["max_lr"] for each in proposed), self.seeds)

    def choose(self, cycle: int, rows: pa.Table) -> Row:
        """See `Strategy`."""
        row = find_interval(of_cycle(rows, cycle), tolerance=self.tolerance)
        if cycle == 0:
            return row
        if cycle != self.target:
            return row | dict.fromkeys(("lo_on_edge", "hi_on_edge", "optimum_on_edge"), False)
        lowest = min(of_cycle(rows, cycle)["max_lr"].to_pylist())  # eps itself: delta has no lower edge
        return row | {"lo_on_edge": False, "optimum_on_edge": row["optimum_on_edge"] and row["max_lr"] > lowest}

    def trainings(self, cycle_count: int) -> Trainings:
        """See `complexity.trainings`: 2 n + (k - 1), times the number of seeds."""
        likely = (2 * self.num_rates + cycle_count - 1) * len(self.seeds)
        return Trainings(least=likely, likely=likely, most=likely, rounds=cycle_count + 2 * (self.num_rounds - 1))

    def axis(self, cycle: int, rows: pa.Table) -> Axis:
        """Where max_lr is looked for."""
        if cycle == 0:
            return Axis(low=self.eps[0], high=self.eps[1], log=True)
        eps = self._eps(rows)
        low, high = (min(max(eps + delta * self.risen, LEAST_RATE), MOST_RATE) for delta in self.delta)
        return Axis(low=low, high=high, log=True)

    def told(self, cycle: int, rows: pa.Table) -> list[Told]:
        """What was tried at a cycle."""
        means = mean_accuracies(of_cycle(rows, cycle))
        base = 0.0 if cycle == 0 else self._eps(rows)
        return [
            Told(
                numbers={"max_lr": max_lr},
                value=None if np.isnan(mean) else mean,
                notes={"eps": max_lr} if cycle == 0 else {"delta": (max_lr - base) / self.risen},
            )
            for (_, max_lr), mean in means.items()
        ]

    def curve(self, rows: Sequence[Row]) -> SiloCurve:
        """The curve that the rows of oracle.parquet tell."""
        eps, top = rows[0]["max_lr"], rows[self.target]["max_lr"]
        return SiloCurve(
            eps=eps, delta=max(0.0, (top - eps) / self.risen), q=self.q, beta=self.beta, pruning_rate=self.pruning_rate
        )

    def _of_first_round(self, axis: Axis) -> int:
        return 1 if axis.low == axis.high else math.ceil(self.num_rates / self.num_rounds)

    def _eps(self, rows: pa.Table) -> float:
        chosen: float = find_interval(of_cycle(rows, 0), tolerance=self.tolerance)["max_lr"]
        return chosen


def tune_strategy(
    experiment: Experiment,
    *,
    eps: tuple[float, float] | None = None,
    delta: tuple[float, float] | None = None,
    q: float = 1.0,
    beta: float = 5.0,
    num_rates: int | None = None,
    num_rounds: int | None = None,
    seed: int = 0,
) -> CoordinateWise:
    """The strategy for an experiment, whose last cycle is the target; ranges are the grid's by default, rounds up to 4.

    CurveError for ranges or a shape that cannot be used, ExperimentError for an experiment that cannot be tuned.
    """
    candidates = experiment.candidates(0)
    if experiment.peaks is not None:
        raise ExperimentError("peaks: the experiment fixes every max_lr, so there is nothing to tune; leave them out")
    if experiment.search.strategy != "grid":
        raise ExperimentError(
            f"search.strategy: found {experiment.search.strategy}, but tuning proposes its own rates; leave search out"
        )
    if experiment.pruning.cycles < 1:
        raise ExperimentError("pruning.cycles: tuning needs a pruned network to tune delta on; found 0 cycles")
    num_rates = len(candidates) if num_rates is None else num_rates
    if num_rates < 2:
        raise ExperimentError(f"rates (--rates): expected two or more, found {num_rates}")
    num_rounds = min(ROUNDS, num_rates // 2) if num_rounds is None else num_rounds
    if not 1 <= num_rounds <= num_rates:
        raise ExperimentError(f"rounds (--rounds): expected 1 to {num_rates}, the number of rates, found {num_rounds}")
    eps = (min(candidates), max(candidates)) if eps is None else eps
    delta = (0.0, max(candidates)) if delta is None else delta
    for name, (low, high), least in (("eps", eps, LEAST_RATE), ("delta", delta, 0.0)):
        if not least <= low <= high <= MOST_RATE:
            raise CurveError(
                f"range of {name}: [{low:g}, {high:g}] must lie within [{least:g}, {MOST_RATE:g}], low first"
            )
    curve = SiloCurve(eps=eps[0], delta=delta[0], q=q, beta=beta, pruning_rate=experiment.pruning.rate)
    strategy = CoordinateWise(
        eps=eps,
        delta=delta,
        target=experiment.pruning.cycles,
        q=curve.q,
        beta=curve.beta,
        pruning_rate=experiment.pruning.rate,
        num_rates=num_rates,
        num_rounds=num_rounds,
        seeds=experiment.seeds,
        tolerance=experiment.tolerance,
        seed=seed,
    )
    if strategy.risen < LEAST_RISE:
        raise CurveError(
            f"at cycle {strategy.target}, the target, {strategy.risen:.1%} of the rise is done with q {q:g} and beta "
            f"{beta:g}: delta cannot be seen there; take more cycles (--set pruning.cycles=...), or a smaller q"
        )
    return strategy


def within(axis: Axis, told: Sequence[Told]) -> list[Told]:
    """What was tried on an axis: at the target eps itself is tried too, and may lie below."""
    return [each for each in told if axis.low <= each.numbers["max_lr"] <= axis.high]
