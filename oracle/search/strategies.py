"""What to train next, and what to choose: the one place that knows which candidates and seeds a cycle is made of.

A strategy asks in rounds. It is shown complete rounds only, and what it asks for is written before it is trained: a search
that is killed and goes on finishes the same rounds, in whatever order their trials finish.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from oracle.errors import DivergedError, ExperimentError
from oracle.experiment import Experiment, Search, experiment_from_yaml
from oracle.runs.decisions import Pair
from oracle.runs.tables import TRIALS, Row
from oracle.search.certainty import CurveReading, read_curve
from oracle.search.intervals import describe_choice, find_interval
from search_spaces.grids import LEAST_RATE, MOST_RATE, MaxLrGrid

LEAST_TRIED = 3  # candidates in Adaptive's first round
LIKELY_REFINED = (
    1.5  # candidates that a later round of Adaptive asks for: 1.3 to 1.9 on the problems of benchmarks/confidence.py
)
ROUND = pa.field("round", pa.int64())  # in which a trial was asked for, from 0; null in earlier cycles


class Strategy(Protocol):
    """Decides from rows alone, and the same from the same: give it what it needs when it is made, and freeze it.

    `rows`: all trials of cycles 0 to `cycle` along the chain that were asked for, one row each, with the columns of
    `tables.TRIALS` and `ROUND`; those of `cycle` in complete rounds.
    """

    @property
    def name(self) -> str:
        """With the parameters a part of the run's identity; lower-case letters, digits, - and _."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Plain values that decide what it asks for, beside what the experiment holds (grid, seeds, tolerance)."""

    def next_trials(self, cycle: int, rows: pa.Table) -> Sequence[Pair]:
        """The cycle's next round, as (max_lr, seed), of the experiment's seeds; nothing once the cycle can be chosen."""

    def choose(self, cycle: int, rows: pa.Table) -> Row:
        """The cycle's row of oracle.parquet, once next_trials asks for nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainings:
    """How many a whole search takes."""

    least: int
    likely: int
    most: int | None  # None: nobody knows

    @classmethod
    def of(cls, times: int, *, least: float, likely: float, most: float) -> "Trainings":
        """From numbers of candidates, each trained so many times."""
        return cls(least=round(times * least), likely=round(times * likely), most=round(times * most))


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSearch:
    """Every candidate with every seed; a grid that may grow goes on beyond an edge that the interval touches."""

    name: ClassVar[str] = "grid"
    parameters: ClassVar[Mapping[str, Any]] = {}

    grid: MaxLrGrid
    seeds: tuple[int, ...]
    tolerance: float  # fraction of accuracy

    def next_trials(self, cycle: int, rows: pa.Table) -> Sequence[Pair]:
        """See `Strategy`."""
        tried = sorted(set(of_cycle(rows, cycle)["max_lr"].to_pylist()))
        if not tried:
            return every(self.grid.candidates(), self.seeds)
        if not self.grid.extend:
            return ()
        row = find_interval(of_cycle(rows, cycle), tolerance=self.tolerance)
        grown = self.grid.extended(tried, low=row["lo_on_edge"], high=row["hi_on_edge"])
        return every([max_lr for max_lr in grown if max_lr not in tried], self.seeds)

    def choose(self, cycle: int, rows: pa.Table) -> Row:
        """See `Strategy`."""
        return find_interval(of_cycle(rows, cycle), tolerance=self.tolerance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """Few candidates with every seed, the accuracy curve between them, and more where that decides where an end lies.

    First every `spacing`-th candidate, so placed that no end of the grid is more than a step from a tried one. Then, in up
    to `rounds` rounds in all, an edge of the grid where an end lies within `spacing` steps of it, and the middle of a gap
    with an end in it, where the curve falls by more than the tolerance and more than twice its standard error. A grid that
    may grow goes on beyond an edge that the interval reaches. Optimum and interval are the curve's.
    """

    name: ClassVar[str] = "adaptive"

    grid: MaxLrGrid
    seeds: tuple[int, ...]
    tolerance: float  # fraction of accuracy
    num_validation: int
    spacing: int = 3
    rounds: int = 2
    confidence: float = 0.95

    @property
    def parameters(self) -> Mapping[str, Any]:
        """See `Strategy`."""
        return {"spacing": self.spacing, "rounds": self.rounds, "confidence": self.confidence}

    def next_trials(self, cycle: int, rows: pa.Table) -> Sequence[Pair]:
        """See `Strategy`."""
        own = of_cycle(rows, cycle)
        if not own.num_rows:
            return every(spaced(self.grid.candidates(), self.spacing), self.seeds)
        try:
            found = self._curve(rows)
        except DivergedError:  # the smallest rates are still to be tried, if there are any
            least = min(own["max_lr"].to_pylist())
            return every([max_lr for max_lr in self.grid.candidates() if max_lr < least], self.seeds)
        refined = self._refined(found) if self._rounds_within_grid(own) < self.rounds else set()
        asked = {found.grid[index] for index in refined}
        if self.grid.extend:
            last = len(found.grid) - 1
            low, high = found.lo == 0 and 0 not in refined, found.hi == last and last not in refined
            asked |= set(self._grown(found.grid, low=low, high=high))
        return every(sorted(asked), self.seeds)

    def choose(self, cycle: int, rows: pa.Table) -> Row:
        """See `Strategy`."""
        own = of_cycle(rows, cycle)
        found = self._curve(rows)
        lo, hi = found.grid[found.lo], found.grid[found.hi]
        return describe_choice(own, max_lr=found.max_lr, lo=lo, hi=hi, grid=found.grid)

    def trainings(self, cycle_count: int) -> Trainings:
        """At most, later rounds ask for both edges once, and for two middles and the curve's best each."""
        candidates, first = len(self.grid.candidates()), len(spaced(self.grid.candidates(), self.spacing))
        later, grown = self.rounds - 1, self.grid.max_extra if self.grid.extend else 0
        return Trainings.of(
            cycle_count * len(self.seeds),
            least=first,
            likely=min(candidates, first + LIKELY_REFINED * later),
            most=min(candidates, first + (2 + 3 * later if later else 0)) + grown,
        )

    def _curve(self, rows: pa.Table) -> CurveReading:
        return read_curve(
            rows,
            candidates=self.grid.candidates(),
            num_validation=self.num_validation,
            tolerance=self.tolerance,
            confidence=self.confidence,
        )

    def _rounds_within_grid(self, own: pa.Table) -> int:
        """How many rounds of the cycle asked for more than a grid's growth."""
        candidates = set(self.grid.candidates())
        pairs = zip(own["max_lr"].to_pylist(), own[ROUND.name].to_pylist(), strict=True)
        return len({number for max_lr, number in pairs if max_lr in candidates})

    def _refined(self, found: CurveReading) -> set[int]:
        """Candidates within the grid that would tell more: edges, middles, the curve's best where it is far above."""
        last = len(found.grid) - 1
        near = {0} if found.lo <= self.spacing else set()
        near |= {last} if found.hi >= last - self.spacing else set()
        best = int(found.curve.mean.argmax())
        lost = found.curve.mean[best] - found.curve.mean[found.chosen]
        steep = {best} if lost > 100 * self.tolerance else set()
        return (near | set(self._middles(found)) | steep) - set(found.tried)

    def _grown(self, grid: Sequence[float], *, low: bool, high: bool) -> Iterator[float]:
        """What to try beyond the edges named: growth by `spacing` candidates at least."""
        grown = tuple(grid)
        while (more := self.grid.extended(grown, low=low, high=high)) != grown:
            grown = more
            if len(grown) - len(grid) >= self.spacing * (low + high):
                break
        return _outwards(grown, grid, self.spacing)

    def _middles(self, found: CurveReading) -> Iterator[int]:
        for low, high in pairwise(found.tried):
            if high - low < 2:
                continue
            if low < found.lo <= high:
                outside, inside = low, high
            elif low <= found.hi < high:
                outside, inside = high, low
            else:
                continue
            fall = found.curve.mean[inside] - found.curve.mean[outside]
            if fall > max(100 * self.tolerance, 2 * found.curve.std_of_gap(inside, outside)):
                yield (low + high) // 2


def spaced(candidates: Sequence[float], spacing: int) -> tuple[float, ...]:
    """Every `spacing`-th candidate from the second on, and the last one where it would be more than a step from them.

    Three at least, where there are as many: fewer make no curve.

    >>> spaced([1, 2, 3, 4, 5, 6, 7, 8], 3), spaced([1, 2, 3, 4, 5, 6, 7], 3), spaced([1, 2, 3, 4], 3)
    ((2, 5, 8), (2, 5, 7), (1, 2, 3, 4))
    """
    start = min(1, spacing - 1, len(candidates) - 1)
    chosen = list(range(start, len(candidates), spacing))
    if chosen[-1] < len(candidates) - 2:
        chosen.append(len(candidates) - 1)
    if len(chosen) < min(LEAST_TRIED, len(candidates)):
        return spaced(candidates, spacing - 1)
    return tuple(candidates[index] for index in chosen)


def _outwards(grown: Sequence[float], grid: Sequence[float], spacing: int) -> Iterator[float]:
    """Of what a grid grew by, every `spacing`-th going outwards, and the outermost."""
    for side in ([rate for rate in grown if rate > grid[-1]], [rate for rate in grown if rate < grid[0]][::-1]):
        yield from (rate for step, rate in enumerate(side, 1) if step % spacing == 0 or step == len(side))


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPeaks:
    """One max_lr a cycle, given beforehand: nothing is searched, so nothing has an edge."""

    name: ClassVar[str] = "peaks"

    peaks: tuple[float, ...]  # of each cycle, or one for all
    seeds: tuple[int, ...]
    tolerance: float  # fraction of accuracy

    @property
    def parameters(self) -> Mapping[str, Any]:
        """See `Strategy`."""
        return {"peaks": list(self.peaks)}

    def next_trials(self, cycle: int, rows: pa.Table) -> Sequence[Pair]:
        """See `Strategy`."""
        peak = self.peaks[cycle if len(self.peaks) > 1 else 0]
        return () if of_cycle(rows, cycle).num_rows else every([peak], self.seeds)

    def choose(self, cycle: int, rows: pa.Table) -> Row:
        """See `Strategy`."""
        row = find_interval(of_cycle(rows, cycle), tolerance=self.tolerance)
        return row | dict.fromkeys(("lo_on_edge", "hi_on_edge", "optimum_on_edge"), False)


def _grid_or_peaks(experiment: Experiment) -> Strategy:
    if experiment.peaks is not None:
        return FixedPeaks(peaks=experiment.peaks, seeds=experiment.seeds, tolerance=experiment.tolerance)
    return GridSearch(grid=experiment.grid, seeds=experiment.seeds, tolerance=experiment.tolerance)


def _adaptive(experiment: Experiment) -> Strategy:
    return Adaptive(
        grid=experiment.grid,
        seeds=experiment.seeds,
        tolerance=experiment.tolerance,
        num_validation=experiment.data.validation,
        **experiment.search.parameters,
    )


STRATEGIES: Mapping[str, Callable[[Experiment], Strategy]] = {"grid": _grid_or_peaks, "adaptive": _adaptive}


def make_strategy(experiment: Experiment) -> Strategy:
    """The strategy that the experiment names. ExperimentError where none that ships is called so."""
    name = experiment.search.strategy
    if name not in STRATEGIES:
        raise ExperimentError(
            f"search.strategy: {name!r} is not one that ships ({', '.join(STRATEGIES)}); one of your own is handed to "
            "run_oracle(..., strategy=...)"
        )
    return STRATEGIES[name](experiment)


def named_by(experiment: Experiment, strategy: Strategy | None) -> tuple[Experiment, Strategy]:
    """The strategy that decides, and the experiment with its name and parameters; None: what the experiment names itself.

    ExperimentError where the strategy has no usable name or parameters, or the experiment says something else.
    """
    own = make_strategy(experiment) if experiment.search.strategy in STRATEGIES or strategy is None else None
    if strategy is None or strategy == own:
        assert own is not None
        return experiment, own
    missing = [name for name in ("name", "parameters", "next_trials", "choose") if not hasattr(strategy, name)]
    if missing:
        raise ExperimentError(
            f"strategy: {type(strategy).__name__} has no {', '.join(missing)}; see oracle.search.strategies.Strategy"
        )
    if strategy.name in tuple(STRATEGIES):
        raise ExperimentError(
            f"strategy: {strategy.name!r} ships with this package, and what was handed in differs from what the experiment "
            "says; change the experiment, or give yours a name of its own"
        )
    named = experiment_from_yaml(experiment.to_yaml(), where="strategy", overrides=[f"search={_search_key(strategy)}"])
    if experiment.peaks is not None:
        raise ExperimentError(f"strategy: {strategy.name!r} was handed in, but the experiment has peaks; leave one out")
    if experiment.search not in (Search(), named.search):
        raise ExperimentError(
            f"strategy: handed in was {named.search!r}, but the experiment says {experiment.search!r}"
        )
    return named, strategy


def _search_key(strategy: Strategy) -> str:
    """A strategy's name and parameters as the value of an experiment's key `search`."""
    parameters: Any = strategy.parameters
    try:
        if not isinstance(parameters, Mapping) or "strategy" in parameters:
            raise TypeError("expected a mapping without the key strategy")
        return json.dumps({"strategy": strategy.name, **parameters}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExperimentError(
            f"strategy: its parameters must be plain values by name, found {parameters!r}: {error}"
        ) from None


def first_round(strategy: Strategy) -> tuple[Pair, ...]:
    """What cycle 0 begins with. Later cycles are expected to cost as much: nobody can know before it is decided."""
    pairs = asked_by(strategy, 0, TRIALS.empty_table())
    if not pairs:
        raise ExperimentError(f"strategy {strategy.name}: asks for nothing at cycle 0, so nothing can be chosen")
    return pairs


def asked_by(strategy: Strategy, cycle: int, rows: pa.Table) -> tuple[Pair, ...]:
    """What a strategy asks for, as plain numbers. ExperimentError where that cannot be trained, or is there twice."""
    asked: list[Pair] = []
    answer: Any = strategy.next_trials(cycle, rows)
    if not isinstance(answer, Iterable):
        raise ExperimentError(f"strategy {strategy.name}, cycle {cycle}: asks for {answer!r}; expected a list, or ()")
    for item in sorted(answer) if isinstance(answer, Set) else answer:  # a set has no order to train in
        try:
            max_lr, seed = item
            pair = float(max_lr), int(seed)
            if not (LEAST_RATE <= pair[0] <= MOST_RATE and pair[1] == seed and pair[1] >= 0):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ExperimentError(
                f"strategy {strategy.name}, cycle {cycle}: asks for {item!r}; expected (max_lr, seed), a number from "
                f"{LEAST_RATE:g} to {MOST_RATE:g} and a whole one from 0 on"
            ) from None
        asked.append(pair)
    twice = [pair for pair in asked if asked.count(pair) > 1] if len(set(asked)) < len(asked) else []
    if twice:
        raise ExperimentError(f"strategy {strategy.name}, cycle {cycle}: asks for {twice[0]} twice")
    return tuple(asked)


def trainings(experiment: Experiment, strategy: Strategy) -> Trainings:
    """Trainings of a whole search, as far as they are known beforehand: a strategy of one's own may ask for more rounds."""
    cycles = experiment.pruning.cycles + 1
    least = cycles * len(first_round(strategy))
    match strategy:
        case Adaptive():
            return strategy.trainings(cycles)
        case GridSearch():
            grown = strategy.grid.max_extra if strategy.grid.extend else 0
            return Trainings(least=least, likely=least, most=least + cycles * len(strategy.seeds) * grown)
        case FixedPeaks():
            return Trainings(least=least, likely=least, most=least)
        case _:
            return Trainings(least=least, likely=least, most=None)


# For strategies: what rounds are made of.


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
