"""More seeds at the cycles that need them: until the optimum is within the tolerance with a given probability."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from oracle.runs.cycle import pairs_of
from oracle.runs.decisions import Pair
from oracle.runs.tables import Row
from oracle.search.certainty import CurveReading, read_curve
from oracle.search.intervals import ends_within
from oracle.search.rounds import every, of_cycle, without
from oracle.search.strategies import Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class UntilSure:
    """What another strategy asks for; then one seed more a round while its optimum is not sure.

    Before that, where the curve's best lacks seeds, they try it.

    A seed that was added trains the candidates still in doubt: those that may be in the interval, and at least two, since
    one alone only shows the seed's own level.
    """

    base: Strategy
    candidates: tuple[float, ...]
    seeds: tuple[int, ...]  # the experiment's
    tolerance: float  # fraction of accuracy
    num_validation: int
    probability: float  # with which the optimum is to be within the tolerance of the best
    max_seeds: int  # at a cycle, the experiment's among them
    unusable: frozenset[int] = frozenset()  # diverged at the optimum of an earlier cycle

    @property
    def name(self) -> str:
        """The other strategy's: seeds that are added change no identity."""
        return self.base.name

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The other strategy's."""
        return self.base.parameters

    def next_trials(self, cycle: int, rows: pa.Table) -> Sequence[Pair]:
        """See `Strategy`."""
        added = self._added(cycle, rows)
        asked = () if added else self.base.next_trials(cycle, rows)
        if asked:
            return asked
        found = self._reading(rows)
        chosen = found.grid.index(self.choose(cycle, rows)["max_lr"])
        if found.p_near[chosen] >= self.probability or len(self.seeds) + len(added) >= self.max_seeds:
            return ()
        best = max(range(len(found.grid)), key=lambda index: found.p_near[index])
        if best not in found.eligible and found.p_near[best] > found.p_near[chosen]:
            there = set(pairs_of(of_cycle(rows, cycle)))
            return without(every([found.grid[best]], [*self.seeds, *added]), there)
        seed = max([*self.seeds, *added, *self.unusable]) + 1
        return every([found.grid[index] for index in _in_doubt(found, chosen)], [seed])

    def choose(self, cycle: int, rows: pa.Table) -> Row:
        """See `Strategy`."""
        row, added = self.base.choose(cycle, rows), self._added(cycle, rows)
        if added:  # to the other strategy, candidates that lack them do not exist
            grid = sorted({*self.candidates, *of_cycle(rows, cycle)["max_lr"].to_pylist()})
            row |= ends_within(grid, row["max_lr"], row["lo"], row["hi"])
        return row | {"num_seeds_added": len(added)}

    def probability_of(self, max_lr: float, rows: pa.Table) -> float:
        """That a rate is within the tolerance of the best, at the last of the rows' cycles."""
        found = self._reading(rows)
        return found.p_near[found.grid.index(max_lr)]

    def _added(self, cycle: int, rows: pa.Table) -> list[int]:
        return sorted(set(of_cycle(rows, cycle)["seed"].to_pylist()) - set(self.seeds))

    def _reading(self, rows: pa.Table) -> CurveReading:
        return read_curve(
            rows,
            candidates=self.candidates,
            num_validation=self.num_validation,
            tolerance=self.tolerance,
            confidence=self.probability,
        )


def _in_doubt(found: CurveReading, chosen: int) -> list[int]:
    """The eligible candidates that may be in the interval, the optimum, and where that is all, the nearest other one."""
    first, last = found.possible
    doubtful = {index for index in found.eligible if first <= index <= last} | {chosen}
    others = sorted((abs(index - chosen), index) for index in found.eligible if index not in doubtful)
    return sorted(doubtful | {index for _, index in others[: max(0, 2 - len(doubtful))]})
