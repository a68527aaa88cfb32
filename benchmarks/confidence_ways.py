"""Ways to find a cycle's optimum and interval, all fed from a truth: today's, the accuracy curve, adaptive, and rivals."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
from jaxtyping import Bool, Float
from numpy import ndarray

from benchmarks.confidence_truths import Truth
from oracle.runs.decisions import Decision
from oracle.search.adaptive import Adaptive
from oracle.search.certainty import CurveReading, read_curve
from oracle.search.intervals import find_interval
from oracle.search.progress import cycle_progress

CONFIDENCE = 0.95
# Successive halving, by budget: (seeds so far, candidates that go on to that many).
RUNGS: Mapping[int, Sequence[tuple[int, int]]] = {30: ((1, 24), (3, 3)), 48: ((1, 24), (3, 8), (5, 4))}
# Of the Wilcoxon test. At Optuna's default of 0.1 nothing can be pruned before the fourth seed; at 0.3, at the second.
P_THRESHOLD = 0.3

# Axes: C candidates, S seeds.


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a way says of a cycle; candidates by index."""

    optimum: int
    lo: int
    hi: int
    trainings: int
    seconds: float  # of CPU, of all that was computed; trainings are looked up
    possible: tuple[int, int] | None = None
    sure: tuple[int, int] | None = None
    p_within: tuple[float, ...] = ()  # one a candidate; none where the way does not say

    @classmethod
    def of(cls, reading: CurveReading, trainings: int, seconds: float) -> "Answer":
        """From the accuracy curve."""
        return cls(
            optimum=reading.chosen,
            lo=reading.lo,
            hi=reading.hi,
            trainings=trainings,
            seconds=seconds,
            possible=reading.possible,
            sure=reading.sure,
            p_within=reading.p_within,
        )


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Seeds drawn from a truth's pool: one Oracle's."""

    truth: Truth
    picked: tuple[int, ...]
    key: int  # of what is random in a way

    def first(self, number: int) -> "Draw":
        """The first so many of its seeds."""
        return Draw(truth=self.truth, picked=self.picked[:number], key=self.key)

    @cached_property
    def tables(self) -> list[pa.Table]:
        """Trials of every kept cycle: all candidates."""
        return [self.truth.trials(index, self.picked) for index in range(len(self.truth.cycles))]

    def accuracies(self, index: int) -> Float[ndarray, "C S"]:
        """In points; -inf where diverged."""
        found: np.ndarray = self.truth.accuracies[index][:, list(self.picked)]
        return found

    def read(self, rows: pa.Table) -> CurveReading:
        """The accuracy curve of the last cycle of these rows."""
        return read_curve(
            rows,
            candidates=self.truth.grid,
            num_validation=self.truth.num_validation,
            tolerance=self.truth.experiment.tolerance,
            confidence=CONFIDENCE,
        )


Way = Callable[[Draw], Iterator[Answer]]  # one answer a kept cycle, in order


def todays(draw: Draw) -> Iterator[Answer]:
    """The paper's procedure: means over seeds, the best, its neighbours within the tolerance."""
    for rows in draw.tables:
        begun = time.process_time()
        row = find_interval(rows, tolerance=draw.truth.experiment.tolerance)
        optimum, lo, hi = (draw.truth.grid.index(row[name]) for name in ("max_lr", "lo", "hi"))
        yield Answer(optimum=optimum, lo=lo, hi=hi, trainings=len(rows), seconds=time.process_time() - begun)


def full_curve(draw: Draw) -> Iterator[Answer]:
    """The accuracy curve through the same trainings."""
    for index, rows in enumerate(draw.tables):
        begun = time.process_time()
        reading = draw.read(pa.concat_tables(draw.tables[: index + 1]))
        yield Answer.of(reading, len(rows), time.process_time() - begun)


def adaptive(draw: Draw) -> Iterator[Answer]:
    """The strategy as it ships: shown what it asks for."""
    experiment, seeds = draw.truth.experiment, tuple(range(len(draw.picked)))
    strategy = Adaptive(
        grid=experiment.grid, seeds=seeds, tolerance=experiment.tolerance, num_validation=draw.truth.num_validation
    )
    earlier = draw.tables[0].slice(0, 0)
    for cycle, rows in zip(draw.truth.cycles, draw.tables, strict=True):
        begun = time.process_time()
        progress = cycle_progress(strategy, cycle, Decision(basis={}), seeds=seeds, earlier=earlier, trials=rows)
        seconds = time.process_time() - begun
        earlier = pa.concat_tables([earlier, progress.trials])
        reading = draw.read(earlier)
        assert progress.row is not None
        assert progress.chosen == reading.max_lr
        yield Answer.of(reading, len(progress.trials), seconds)


def racing(draw: Draw, budget: int) -> Iterator[Answer]:
    """As SMAC races over instances: a challenger is met on the incumbent's seeds, and goes on while it is no worse."""
    for index in range(len(draw.truth.cycles)):
        begun = time.process_time()
        accuracies = draw.accuracies(index)
        optimum, trained = race(accuracies, budget, np.random.default_rng((draw.key, index)))
        yield _paired(draw, index, optimum, trained, begun)


def halving(draw: Draw, budget: int) -> Iterator[Answer]:
    """Successive halving over seeds: all candidates with one, the best of them with more."""
    for index in range(len(draw.truth.cycles)):
        begun = time.process_time()
        accuracies = draw.accuracies(index)
        trained = np.zeros(accuracies.shape, dtype=bool)
        order = np.arange(len(accuracies))
        for seeds, number in RUNGS[budget]:
            kept = order[:number]
            trained[kept, :seeds] = True
            order = kept[np.argsort(-accuracies[kept, :seeds].mean(1), kind="stable")]
        yield _paired(draw, index, int(order[0]), trained, begun)


def wilcoxon(draw: Draw, budget: int) -> Iterator[Answer]:
    """Optuna's WilcoxonPruner over seeds: candidates in random order, until the budget is spent."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    for index in range(len(draw.truth.cycles)):
        begun = time.process_time()
        accuracies = np.maximum(draw.accuracies(index), 0.0)  # the pruner takes no infinity
        trained = np.zeros(accuracies.shape, dtype=bool)
        study = optuna.create_study(direction="maximize", pruner=optuna.pruners.WilcoxonPruner(p_threshold=P_THRESHOLD))
        order = np.random.default_rng((draw.key, index)).permutation(len(accuracies))
        for candidate in order:
            if trained.sum() == budget:
                break
            trial = study.ask()
            for seed in range(accuracies.shape[1]):
                trained[candidate, seed] = True
                trial.report(float(accuracies[candidate, seed]), seed)
                if trained.sum() == budget or trial.should_prune():
                    break
            study.tell(trial, float(accuracies[candidate, trained[candidate]].mean()))
        yield _paired(draw, index, int(order[study.best_trial.number]), trained, begun)


def race(
    accuracies: Float[ndarray, "C S"], budget: int, random: np.random.Generator
) -> tuple[int, Bool[ndarray, "C S"]]:
    """The incumbent when the budget is spent, or every candidate has every seed; and what was trained.

    SMAC's intensification (Hutter et al. 2011): before each challenger, in random order, the incumbent gets one seed more;
    a challenger gets 1, 2, 4 ... of its seeds, and is dropped once it is worse on those that both have.
    """
    trained = np.zeros(accuracies.shape, dtype=bool)
    num_seeds, incumbent = accuracies.shape[1], None
    while trained.sum() < min(budget, trained.size):
        for candidate in random.permutation(len(accuracies)):
            if incumbent is None:
                incumbent = int(candidate)
            own = int(trained[incumbent].sum())
            if own < num_seeds and trained.sum() < budget:
                trained[incumbent, own] = True
            if candidate != incumbent and _challenges(accuracies, trained, int(candidate), incumbent, budget):
                incumbent = int(candidate)
    assert incumbent is not None
    return incumbent, trained


def _challenges(
    accuracies: Float[ndarray, "C S"], trained: Bool[ndarray, "C S"], candidate: int, incumbent: int, budget: int
) -> bool:
    """Train a challenger on the incumbent's seeds, in order, while it is no worse; whether it has come through all."""
    own, step = int(trained[incumbent].sum()), 1
    while True:
        common, room = int(trained[candidate].sum()), budget - int(trained.sum())
        if common < own and room <= 0:
            return False
        common = min(own, common + min(step, room))
        trained[candidate, :common] = True
        if not accuracies[candidate, :common].sum() >= accuracies[incumbent, :common].sum():
            return False
        if common == own:
            return True
        step *= 2


def _paired(draw: Draw, index: int, optimum: int, trained: Bool[ndarray, "C S"], begun: float) -> Answer:
    """The rule of `find_interval`, each candidate compared with the optimum on the seeds that both trained."""
    accuracies = draw.accuracies(index)
    within = [_is_near(draw, accuracies, candidate, optimum, trained) for candidate in range(len(accuracies))]
    lo, hi = optimum, optimum
    while lo > 0 and within[lo - 1]:
        lo -= 1
    while hi < len(within) - 1 and within[hi + 1]:
        hi += 1
    seconds = time.process_time() - begun
    return Answer(optimum=optimum, lo=lo, hi=hi, trainings=int(trained.sum()), seconds=seconds)


def _is_near(
    draw: Draw, accuracies: Float[ndarray, "C S"], candidate: int, optimum: int, trained: Bool[ndarray, "C S"]
) -> bool:
    common = trained[candidate] & trained[optimum]
    if not common.any() or not np.isfinite(accuracies[candidate, trained[candidate]]).all():
        return False
    lost: Any = accuracies[optimum, common].mean() - accuracies[candidate, common].mean()
    return bool(lost <= 100 * draw.truth.experiment.tolerance + 1e-9)


# By name: seeds a draw has, and the way.
WAYS: Mapping[str, tuple[int, Way]] = {
    "today's, full grid, 3 seeds": (3, todays),
    "today's, full grid, 5 seeds": (5, todays),
    "curve, full grid, 3 seeds": (3, full_curve),
    "curve, full grid, 5 seeds": (5, full_curve),
    "adaptive, 3 seeds": (3, adaptive),
    "adaptive, 5 seeds": (5, adaptive),
    "racing (SMAC), 30": (3, partial(racing, budget=30)),
    "racing (SMAC), 48": (5, partial(racing, budget=48)),
    "successive halving, 30": (3, partial(halving, budget=30)),
    "successive halving, 48": (5, partial(halving, budget=48)),
    "Wilcoxon pruner, 30": (3, partial(wilcoxon, budget=30)),
    "Wilcoxon pruner, 48": (5, partial(wilcoxon, budget=48)),
}
