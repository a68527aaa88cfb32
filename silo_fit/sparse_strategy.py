"""A sparse Oracle: some cycles are searched, the others trained once, at what the fit of the searched ones says."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from oracle.errors import ExperimentError
from oracle.experiment import Experiment
from oracle.runs.decisions import Pair
from oracle.runs.summaries import searched_cycles
from oracle.runs.tables import Row
from oracle.search.intervals import find_interval
from oracle.search.rounds import Trainings, every, of_cycle, without
from oracle.search.strategies import Strategy, first_round, make_strategy
from search_spaces.grids import LEAST_RATE
from search_spaces.silo import RECOMMENDED
from silo_fit.curve import SiloCurve, shape
from silo_fit.fit import fit
from silo_fit.tables import Intervals, parse_intervals

SURE = 0.9  # share of the curves that hit all searched intervals, below which `auto` searches a cycle
DRAWS = 200_000  # of such curves, before most of them are thrown away
LIKELY_SEARCHED = 8  # cycles that `auto` searches


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse:
    """Searches some cycles with another strategy, and trains the others once, at the fitted curve's value.

    Before two cycles are searched, the others take the last optimum; none exceeds `highest`. Where the value diverges with
    any seed, the cycle is searched after all. `cycles` None: cycle 0 is searched, and then each cycle at which the curve is
    still open. It is open where, of the curves that hit as many of the searched intervals as any, fewer than `sure` would
    have the fit's value in their own interval; intervals are taken to be as wide, in ratio, as the last one.
    """

    name: ClassVar[str] = "sparse"

    base: Strategy  # searches a cycle
    cycles: tuple[int, ...] | None  # to search, ascending from 0; None: as the fit leaves them open
    seeds: tuple[int, ...]
    tolerance: float  # fraction of accuracy
    pruning_rate: float
    highest: float  # max_lr of the grid
    sure: float = SURE

    @property
    def parameters(self) -> Mapping[str, Any]:
        """See `Strategy`."""
        own = {"cycles": "auto", "sure": self.sure} if self.cycles is None else {"cycles": list(self.cycles)}
        return {**own, "inside": self.base.name, **self.base.parameters}

    def next_trials(self, cycle: int, rows: pa.Table) -> Sequence[Pair]:
        """See `Strategy`."""
        own = of_cycle(rows, cycle)
        tried = set(own["max_lr"].to_pylist())
        if len(tried) > 1 or cycle in (self.cycles or (0,)):
            return self.base.next_trials(*_of_base(cycle, rows))
        if not tried:
            known = self._intervals(cycle, rows)
            value = _value(known, cycle, self.highest)
            if self.cycles is None and share_within(known, cycle, value, highest=self.highest) < self.sure:
                return self.base.next_trials(*_of_base(cycle, rows))
            return every([value], self.seeds)
        if "diverged" not in own["outcome"].to_pylist():
            return ()
        earlier = rows.filter(pc.less(rows["cycle"], cycle))
        there = {(max_lr, seed) for max_lr in tried for seed in self.seeds}
        return without(self.base.next_trials(*_of_base(cycle, earlier)), there)

    def choose(self, cycle: int, rows: pa.Table) -> Row:
        """See `Strategy`."""
        own = of_cycle(rows, cycle)
        if len(set(own["max_lr"].to_pylist())) > 1:
            return self.base.choose(*_of_base(cycle, rows)) | {"cycle": cycle}
        row = find_interval(own, tolerance=self.tolerance)
        return row | dict.fromkeys(("lo_on_edge", "hi_on_edge", "optimum_on_edge"), False)

    def trainings(self, cycle_count: int) -> Trainings:
        """Every search is taken to cost what the first one does."""
        one, seeds = len(first_round(self.base)), len(self.seeds)
        named = min(cycle_count, LIKELY_SEARCHED) if self.cycles is None else len(self.cycles)
        least = 1 if self.cycles is None else named
        likely, fewest = (searched * one + (cycle_count - searched) * seeds for searched in (named, least))
        return Trainings(least=fewest, likely=likely, most=None, rounds=cycle_count)

    def _intervals(self, cycle: int, rows: pa.Table) -> Intervals:
        """Those of the searched cycles before this one."""
        found = []
        for earlier in searched_cycles(rows.filter(pc.less(rows["cycle"], cycle))):
            upto = rows.filter(pc.less_equal(rows["cycle"], earlier))
            found.append(self.base.choose(*_of_base(earlier, upto)) | {"cycle": earlier})
        names = ("cycle", "lo", "max_lr", "hi", "lo_outside", "hi_outside")
        table = pa.Table.from_pylist([{name: row[name] for name in names} for row in found])
        return parse_intervals(table, pruning_rate=self.pruning_rate)


def _value(known: Intervals, cycle: int, highest: float) -> float:
    """What a cycle is trained at that is not searched: the fit may rise far beyond what was tried, and is held there."""
    last = float(known.max_lr[-1])
    value = min(fitted(known)(cycle), highest) if len(known.cycles) > 1 else last
    return value if value >= LEAST_RATE else last


def _of_base(cycle: int, rows: pa.Table) -> tuple[int, pa.Table]:
    """A cycle and its rows as the strategy within sees them: cycles that were not searched do not exist."""
    cycles = [*(each for each in searched_cycles(rows) if each < cycle), cycle]
    known = rows.filter(pc.is_in(rows["cycle"], pa.array(cycles, pa.int64())))
    numbers = pc.index_in(known["cycle"], pa.array(cycles, pa.int64())).cast(pa.int64())
    place = known.schema.get_field_index("cycle")
    return len(cycles) - 1, known.set_column(place, known.schema.field(place), numbers)


def fitted(known: Intervals) -> SiloCurve:
    """The curve that fits the searched intervals."""
    columns = (known.cycles, known.lo, known.max_lr, known.hi)
    return _fitted(*(column.tobytes() for column in columns), known.pruning_rate)


@functools.lru_cache(maxsize=64)  # a cycle asks for the same one several times
def _fitted(cycles: bytes, lo: bytes, max_lr: bytes, hi: bytes, pruning_rate: float) -> SiloCurve:
    columns = {"cycle": cycles, "lo": lo, "max_lr": max_lr, "hi": hi}
    table = pa.table({name: np.frombuffer(content) for name, content in columns.items()})
    return fit(table, pruning_rate=pruning_rate).curve


def share_within(known: Intervals, cycle: int, value: float, *, highest: float) -> float:
    """Of the curves that hit as many of the known intervals as any, how many have `value` in their interval at a cycle.

    Curves are drawn with eps log-uniform over the first interval (cycle 0 pins it: no curve rises before q), eps + delta
    log-uniform from there to `highest`, q and beta uniform over the recommended ranges; those with the most hits are
    kept. An interval reaches half a step beyond its ends, and one at `cycle` is as wide, in ratio, as the last known one,
    with the curve's value in its middle.
    """
    generator = np.random.default_rng(cycle)
    q, beta = (generator.uniform(*limits, DRAWS) for limits in (RECOMMENDED.q, RECOMMENDED.beta))
    lo, hi = (
        np.sqrt(ends * (ends if outside is None else np.where(np.isnan(outside), ends, outside)))
        for ends, outside in ((known.lo, known.lo_outside), (known.hi, known.hi_outside))
    )
    eps = np.exp(generator.uniform(math.log(lo[0]), math.log(hi[0]), DRAWS))
    rise = np.exp(generator.uniform(0, 1, DRAWS) * np.maximum(0.0, np.log(highest / eps))) * eps - eps
    hits = np.zeros(DRAWS, dtype=int)
    for at, low, high in zip(known.cycles, lo, hi, strict=True):
        values = eps + rise * shape(at, q, beta, known.pruning_rate)
        hits += (low <= values) & (values <= high)
    values = (eps + rise * shape(cycle, q, beta, known.pruning_rate))[hits == hits.max()]
    return float((np.abs(np.log(values / value)) <= math.log(hi[-1] / lo[-1]) / 2).mean())


def sparse_strategy(
    experiment: Experiment, cycles: Sequence[int] | None, *, sure: float = SURE
) -> tuple[Experiment, Sparse]:
    """The experiment without its strategy, and the sparse one, which has that inside a cycle.

    `cycles`: to search; None: chosen on the way. ExperimentError where they are not cycles of the experiment from 0 on.
    """
    last = experiment.pruning.cycles
    if experiment.peaks is not None:
        raise ExperimentError("peaks: the experiment fixes every max_lr, so there is nothing to search; leave them out")
    if cycles is not None:
        wrong = [cycle for cycle in cycles if not 0 <= cycle <= last]
        if wrong:
            raise ExperimentError(f"cycles: found {wrong[0]}, but {experiment.name} has cycles 0 to {last}")
        if len(set(cycles)) < len(cycles):
            raise ExperimentError(f"cycles: found {', '.join(map(str, cycles))}; each may be named once")
        if 0 not in cycles:
            raise ExperimentError(
                "cycles: 0 is missing; the dense network is searched first, as nothing is known before"
            )
    if len(experiment.candidates(0)) < 2:
        raise ExperimentError("grid: has one candidate, so no cycle can be searched; give it two or more")
    if not 0 < sure < 1:
        raise ExperimentError(f"sure: expected a share between 0 and 1, found {sure:g}")
    strategy = Sparse(
        base=make_strategy(experiment),
        cycles=None if cycles is None else tuple(sorted(cycles)),
        seeds=experiment.seeds,
        tolerance=experiment.tolerance,
        pruning_rate=experiment.pruning.rate,
        highest=max(experiment.candidates(0)),
        sure=sure,
    )
    plain = experiment.model_copy(update={"search": type(experiment).model_fields["search"].default})
    return plain, strategy
