"""The strategy adaptive: few candidates, the accuracy curve between them, and more where that decides something."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from oracle.errors import DivergedError
from oracle.runs.cycle import pairs_of
from oracle.runs.decisions import Pair
from oracle.runs.tables import Row
from oracle.search.certainty import CurveReading, read_curve
from oracle.search.intervals import describe_choice
from oracle.search.rounds import ROUND, Trainings, every, of_cycle, without
from search_spaces.grids import MaxLrGrid

LEAST_TRIED = 3  # candidates in the first round
# What a search is likely to take, from the problems of benchmarks/confidence.py:
LIKELY_REFINED = 2.5  # candidates that a later round asks for: 2.1 to 3.3 in cycle 0
LIKELY_SCOUTED = 0.35  # of the first round's candidates, from cycle 1 on, the share that one seed alone tries


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """Every `spacing`-th candidate, the accuracy curve between them, and a closer look where that decides something.

    First round: candidates so placed that no end of the grid is more than a step from a tried one. In cycle 0 every seed
    trains them; later, where the cycle before leaves no doubt that a candidate is outside the interval, one seed alone
    scouts it: that anchors the curve, and shows an interval that has moved. A scouted candidate that may be inside after
    all is then trained with every seed.

    Up to `rounds` in all, every seed trains the curve's best too, an edge of the grid where an end lies within `spacing`
    steps of it, and the middle of a gap with an end in it, where the curve falls by more than the tolerance and more than
    twice its standard error. A grid that may grow goes on beyond an edge that the interval reaches. Optimum and interval
    are the curve's.
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
            return self._first_round(rows)
        return without(every(sorted(self._asked(rows, own)), self.seeds), set(pairs_of(own)))

    def choose(self, cycle: int, rows: pa.Table) -> Row:
        """See `Strategy`."""
        found = self._curve(rows)
        lo, hi = found.grid[found.lo], found.grid[found.hi]
        return describe_choice(of_cycle(rows, cycle), max_lr=found.max_lr, lo=lo, hi=hi, grid=found.grid)

    def trainings(self, cycle_count: int) -> Trainings:
        """At most, no candidate is ever outside, and later rounds ask for both edges once, two middles and a best each."""
        candidates, first = len(self.grid.candidates()), len(spaced(self.grid.candidates(), self.spacing))
        later, num_seeds = self.rounds - 1, len(self.seeds)
        grown = min(self.grid.max_extra, -(-self.grid.max_extra // self.spacing) + 2) if self.grid.extend else 0
        least = num_seeds * first + (cycle_count - 1) * (first + num_seeds - 1)
        likely = cycle_count * num_seeds * min(candidates, first + LIKELY_REFINED * later)
        likely -= (cycle_count - 1) * (num_seeds - 1) * LIKELY_SCOUTED * first
        most = cycle_count * num_seeds * (min(candidates, first + (2 + 3 * later if later else 1)) + grown)
        likely = min(max(round(likely), least), most)
        return Trainings(least=least, likely=likely, most=most, rounds=cycle_count * min(self.rounds, 2))

    def _first_round(self, earlier: pa.Table) -> tuple[Pair, ...]:
        candidates = spaced(self.grid.candidates(), self.spacing)
        if not earlier.num_rows:
            return every(candidates, self.seeds)
        found = self._curve(earlier)
        doubtful = _about(candidates, *(found.grid[index] for index in found.possible))
        clear = [max_lr for max_lr in candidates if max_lr not in doubtful]
        return every(clear, [min(self.seeds)]) + every(doubtful, self.seeds)

    def _asked(self, rows: pa.Table, own: pa.Table) -> set[float]:
        """Candidates that every seed is to train next; of what is trained already, some may be among them."""
        diverged = set(own.filter(pc.equal(own["outcome"], "diverged"))["max_lr"].to_pylist())
        try:
            found = self._curve(rows)
        except DivergedError:  # what one seed tried may do, and else the smallest rates, if they are still to be tried
            scouted = set(own["max_lr"].to_pylist()) - diverged
            return scouted or {max_lr for max_lr in self.grid.candidates() if max_lr < min(diverged)}
        first_possible, last_possible = found.possible
        asked = {index for index in found.tried if first_possible <= index <= last_possible}  # some were only scouted
        if self._rounds_within_grid(own) < self.rounds:
            asked |= self._refined(found)
        rates = {found.grid[index] for index in asked} - diverged
        if self.grid.extend:
            untried, last = asked - set(found.tried), len(found.grid) - 1
            low, high = found.lo == 0 and 0 not in untried, found.hi == last and last not in untried
            rates |= set(self._grown(found.grid, low=low, high=high))
        return rates

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
        """Candidates within the grid at which every seed would tell more."""
        last = len(found.grid) - 1
        near = {0} if found.lo <= self.spacing else set()
        near |= {last} if found.hi >= last - self.spacing else set()
        return near | {found.best} | set(self._middles(found))

    def _grown(self, grid: Sequence[float], *, low: bool, high: bool) -> Iterator[float]:
        """What to try beyond the edges named: every `spacing`-th step, as far as a grid grows at once."""
        beyond = {False: self._steps_beyond(grid, high=False), True: self._steps_beyond(grid, high=True)}
        room = self.grid.max_extra - sum(beyond.values())
        for upwards, asked in ((True, high), (False, low)):
            reach = min(max(self.spacing, self.grid.stride), room) if asked else 0
            while reach and self.grid.beyond(beyond[upwards] + reach, high=upwards) is None:
                reach -= 1
            room -= reach
            for step in {*range(self.spacing, reach + 1, self.spacing), reach} - {0}:
                rate = self.grid.beyond(beyond[upwards] + step, high=upwards)
                assert rate is not None
                yield rate

    def _steps_beyond(self, grid: Sequence[float], *, high: bool) -> int:
        """How far the outermost candidate lies beyond the grid as it was given."""
        rates = [self.grid.beyond(steps, high=high) for steps in range(1, self.grid.max_extra + 1)]
        return max((steps for steps, rate in enumerate(rates, 1) if rate in grid), default=0)

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


def _about(candidates: Sequence[float], low: float, high: float) -> tuple[float, ...]:
    """The candidates from `low` to `high`; where those are fewer than two, the next ones to either side too.

    >>> _about([1, 4, 7, 10], 3, 8), _about([1, 4, 7, 10], 5, 6), _about([1, 4, 7, 10], 3, 5), _about([1, 4], 8, 9)
    ((4, 7), (4, 7), (1, 4, 7), (4,))
    """
    inside = [index for index, max_lr in enumerate(candidates) if low <= max_lr <= high]
    if len(inside) < 2:
        below = [index for index, max_lr in enumerate(candidates) if max_lr < low][-1:]
        above = [index for index, max_lr in enumerate(candidates) if max_lr > high][:1]
        inside = [*below, *inside, *above]
    return tuple(candidates[index] for index in inside)
