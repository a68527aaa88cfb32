"""SILO's numbers by training, without an Oracle: coordinate by coordinate, or whole chains for many curves."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from oracle.errors import CurveError, DivergedError
from oracle.events import CancelToken, CycleFinished, Event, Listener
from oracle.execution.executors import Launch
from oracle.experiment import Experiment
from oracle.runs.records import opened, read_trials
from oracle.runs.tables import Row, oracle_rows
from oracle.search.run import run_oracle
from oracle.storage import Folder, file_within
from search_spaces.silo import RECOMMENDED
from silo_fit.arms import Arm, TrainedArms, check_no_run, peaks_of, train_arms, with_peaks
from silo_fit.curve import SiloCurve
from silo_fit.studies import Axis, Told, grid_of, propose, write_studies
from silo_fit.tune_strategy import CoordinateWise, within

CHAIN, CHAINS, SHAPES = "chain", "chains", "q-beta"  # folders: coordinate by coordinate, whole chains, those of a shape
MOST_TOGETHER = 16  # chains at once
SHAPES_TOGETHER = 4  # that are proposed at once
Study = tuple[Mapping[str, Axis], Sequence[Told]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What tuning found."""

    curve: SiloCurve
    tried: tuple[Told, ...]  # whole chains; empty where there were none
    rows: tuple[Row, ...]  # of the coordinate-wise chain's oracle.parquet; empty where there was none
    tolerance: float
    num_trainings: int
    on_edge: tuple[str, ...]  # numbers whose best value lies at an end of what was tried
    risen: float = 1.0  # the part of the rise that is done at the target

    def eps_in_words(self) -> str:
        """eps, and what serves as well."""
        row = self.rows[0]
        return (
            f"eps {row['max_lr']:.4g}: best on the dense network; {row['lo']:.4g} to {row['hi']:.4g} serve as well, within "
            f"{100 * self.tolerance:g} points"
        )

    def delta_in_words(self) -> str:
        """delta, and what serves as well."""
        row, eps = self.rows[-1], self.rows[0]["max_lr"]
        low, high = (max(0.0, (row[end] - eps) / self.risen) for end in ("lo", "hi"))
        constant = "; with 0 the curve is a constant" if low == 0 else ""
        return (
            f"delta {self.curve.delta:.4g}: best at cycle {row['cycle']}, max_lr {row['max_lr']:.4g}; {low:.4g} to "
            f"{high:.4g} serve as well{constant}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON; accuracies are fractions of the validation images."""
        return {
            "curve": self.curve.as_dict(),
            "trainings": self.num_trainings,
            "on_edge": self.on_edge,
            "coordinates": [
                {name: row[name] for name in ("cycle", "max_lr", "lo", "hi", "val_accuracy", "num_candidates")}
                for row in self.rows
            ],
            "chains": [{**each.numbers, "val_accuracy": each.value, **each.notes} for each in self.tried],
        }


def tune(
    experiment: Experiment,
    strategy: CoordinateWise,
    out: str,
    *,
    launch: Launch,
    listeners: Sequence[Listener] = (),
    cancel: CancelToken | None = None,
) -> Tuned:
    """Find eps on the dense network and delta at the target. Run again after any stop, it goes on.

    Raises as `run_oracle`.
    """
    check_no_run(out)
    chain = file_within(out, CHAIN)

    def keep(event: Event) -> None:
        if isinstance(event, CycleFinished) and event.row["cycle"] in (0, strategy.target):
            write_studies(Folder(out), coordinate_studies(strategy, chain))

    run_oracle(
        experiment,
        chain,
        **asdict(launch),
        strategy=strategy,
        listeners=[*listeners, keep],
        cancel=cancel,
    )
    write_studies(Folder(out), coordinate_studies(strategy, chain))
    rows = tuple(oracle_rows(opened(chain)))
    return Tuned(
        curve=strategy.curve(rows),
        tried=(),
        rows=rows,
        tolerance=experiment.tolerance,
        num_trainings=read_trials(chain).num_rows,
        on_edge=tuple(name for name, row in (("eps", rows[0]), ("delta", rows[-1])) if row["optimum_on_edge"]),
        risen=strategy.risen,
    )


def coordinate_studies(strategy: CoordinateWise, chain: str) -> dict[str, Study]:
    """Optuna's studies of eps and delta, as far as their cycles are finished."""
    trials = read_trials(chain)
    cycles = {"eps": 0, "delta": strategy.target}
    there = {row["cycle"] for row in oracle_rows(opened(chain))}
    return {
        name: ({"max_lr": axis}, within(axis, strategy.told(cycle, trials)))
        for name, cycle in cycles.items()
        if cycle in there
        for axis in [strategy.axis(cycle, trials)]
    }


def tune_jointly(
    experiment: Experiment,
    strategy: CoordinateWise,
    out: str,
    *,
    launch: Launch,
    listener: Callable[[str], Listener] = lambda label: lambda event: None,
    cancel: CancelToken | None = None,
) -> Tuned:
    """Train a whole chain for every pair of eps and delta, `num_rates` of each, evenly spaced over their ranges.

    The best has the largest mean validation accuracy over all cycles and seeds. eps is spaced over its logarithm. Run again
    after any stop, it goes on. Raises as `run_oracle`, DivergedError where every curve diverged.
    """
    axes = {
        "eps": Axis(low=strategy.eps[0], high=strategy.eps[1], log=True),
        "delta": Axis(low=strategy.delta[0], high=strategy.delta[1]),
    }

    def make(numbers: Mapping[str, float]) -> SiloCurve:
        return SiloCurve(**numbers, q=strategy.q, beta=strategy.beta, pruning_rate=strategy.pruning_rate)

    trying = _Chains(experiment, axes, make, out, launch=launch, listener=listener, cancel=cancel)
    points = grid_of(axes, strategy.num_rates)
    for first in range(0, len(points), MOST_TOGETHER):
        trying.train(points[first : first + MOST_TOGETHER])
    return trying.tuned()


def tune_shape(
    experiment: Experiment,
    curve: SiloCurve,
    out: str,
    *,
    num: int,
    seed: int = 0,
    launch: Launch,
    listener: Callable[[str], Listener] = lambda label: lambda event: None,
    cancel: CancelToken | None = None,
) -> Tuned:
    """Try `num` pairs of q and beta for a curve's eps and delta, a whole chain each; its own first, then Optuna's.

    As `tune_jointly`; q and beta are looked for in the recommended ranges.
    """
    axes = {name: Axis(low=low, high=high) for name, (low, high) in (("q", RECOMMENDED.q), ("beta", RECOMMENDED.beta))}
    if not curve.delta:
        raise CurveError(f"{curve.in_words()}: a curve with delta 0 never rises, so q and beta change nothing in it")
    own = {"q": curve.q, "beta": curve.beta}
    for name, axis in axes.items():
        if not axis.low <= own[name] <= axis.high:
            raise CurveError(
                f"{name} {own[name]:g}: lies outside [{axis.low:g}, {axis.high:g}], where q and beta are tuned; give it "
                "there, or leave --q-beta out"
            )

    def make(numbers: Mapping[str, float]) -> SiloCurve:
        return replace(curve, **numbers)

    trying = _Chains(experiment, axes, make, file_within(out, SHAPES), launch=launch, listener=listener, cancel=cancel)
    trying.train([own])
    while len(trying.told) < num:  # whole rounds are proposed, so that more chains later go on from these
        proposed = propose(axes, trying.told, SHAPES_TOGETHER, seed=seed)
        trying.train(proposed[: num - len(trying.told)])
    return trying.tuned()


class _Chains:
    """Curves that are tried by whole chains, each in a folder of its number."""

    def __init__(
        self,
        experiment: Experiment,
        axes: Mapping[str, Axis],
        make: Callable[[Mapping[str, float]], SiloCurve],
        out: str,
        *,
        launch: Launch,
        listener: Callable[[str], Listener],
        cancel: CancelToken | None,
    ) -> None:
        self._experiment, self._axes, self._make, self._out = experiment, axes, make, out
        self._launch, self._listener, self._cancel = launch, listener, cancel
        self._trainings = 0
        self.told: list[Told] = []

    def train(self, points: Sequence[Mapping[str, float]]) -> None:
        """Train these, and keep the study of all so far."""
        arms: list[Arm] = []
        chains = file_within(self._out, CHAINS)
        for point in points:
            number = f"{len(self.told) + len(arms):03d}"
            peaks = peaks_of(self._make(point), self._experiment.pruning.cycles + 1)
            label = ", ".join(f"{name} {value:.4g}" for name, value in point.items())
            own = with_peaks(self._experiment, peaks, seeds=self._experiment.seeds)
            arms.append(Arm(name=number, label=label, experiment=own))
        trained = train_arms(
            arms,
            chains,
            launch=self._launch,
            listener=self._listener,
            cancel=self._cancel,
        )
        self.told += [_told(trained, arm, point) for arm, point in zip(arms, points, strict=True)]
        self._trainings += trained.num_trainings
        write_studies(Folder(chains), {"curve": (self._axes, self.told)})

    def tuned(self) -> Tuned:
        """The best of all. DivergedError where every one diverged."""
        known = [each for each in self.told if each.value is not None]
        if not known:
            raise DivergedError(
                f"{self._experiment.name}: every one of {len(self.told)} curves diverged; give ranges with smaller rates"
            )
        best = max(known, key=lambda each: each.value or 0.0)  # the first of those that are equal
        return Tuned(
            curve=self._make(best.numbers),
            tried=tuple(self.told),
            rows=(),
            tolerance=self._experiment.tolerance,
            num_trainings=self._trainings,
            on_edge=tuple(
                name
                for name, axis in self._axes.items()
                if axis.low < axis.high and best.numbers[name] in {axis.low, axis.high} - {0.0}  # below 0 is nothing
            ),
        )


def _told(trained: TrainedArms, arm: Arm, point: Mapping[str, float]) -> Told:
    """What a chain was worth: its mean validation accuracy over cycles and seeds, and that of its ends."""
    cycles = len(arm.peaks)
    if trained.finished(arm.name) < cycles:
        return Told(numbers=point, value=None, notes={"ended": trained.ended(arm.name)})
    rows = trained.trials[arm.name].select(["cycle", "val_accuracy"]).to_pylist()

    def mean(*of: int) -> float:
        values = [row["val_accuracy"] for row in rows if row["cycle"] in of]
        return math.fsum(values) / len(values)

    return Told(numbers=point, value=mean(*range(cycles)), notes={"dense": mean(0), "target": mean(cycles - 1)})
