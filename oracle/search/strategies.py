"""What to train next, and what to choose: the one place that knows which candidates and seeds a cycle is made of.

A strategy asks in rounds. It is shown complete rounds only, and what it asks for is written before it is trained: a search
that is killed and goes on finishes the same rounds, in whatever order their trials finish.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import pyarrow as pa

from oracle.errors import ExperimentError
from oracle.experiment import Experiment, Search, experiment_from_yaml
from oracle.runs.decisions import Pair
from oracle.runs.tables import TRIALS, Row
from oracle.search.adaptive import Adaptive
from oracle.search.intervals import find_interval
from oracle.search.rounds import Trainings, every, of_cycle
from search_spaces.grids import LEAST_RATE, MOST_RATE, MaxLrGrid


class Strategy(Protocol):
    """Decides from rows alone, and the same from the same: give it what it needs when it is made, and freeze it.

    `rows`: all trials of cycles 0 to `cycle` along the chain that were asked for, one row each, with the columns of
    `tables.TRIALS` and `rounds.ROUND`; those of `cycle` in complete rounds.
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


@runtime_checkable
class Counted(Protocol):
    """A strategy that knows how many trainings it takes."""

    def trainings(self, cycle_count: int) -> Trainings:
        """Of a chain of so many trainings, cycle 0 included."""


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
    """Trainings of a whole search, as far as they are known beforehand.

    A strategy of one's own that is not `Counted` is taken to ask at every cycle for as many as at the first, or more.
    """
    cycles = experiment.pruning.cycles + 1
    least = cycles * len(first_round(strategy))
    match strategy:
        case GridSearch():
            grown = strategy.grid.max_extra if strategy.grid.extend else 0
            return Trainings(
                least=least, likely=least, most=least + cycles * len(strategy.seeds) * grown, rounds=cycles
            )
        case FixedPeaks():
            return Trainings(least=least, likely=least, most=least, rounds=cycles)
        case Counted():
            return strategy.trainings(cycles)
        case _:
            return Trainings(least=least, likely=least, most=None, rounds=cycles)
