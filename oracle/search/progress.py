"""How far a cycle's search has come: what is decided, and what it still lacks. Pure: nothing is written or trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from oracle.errors import ExperimentError
from oracle.runs.cycle import only, pairs_of
from oracle.runs.decisions import Decision, Pair
from oracle.runs.tables import ESTIMATED, Row, oracle_row
from oracle.search.rounds import ROUND, without
from oracle.search.strategies import Strategy, asked_by
from oracle.search.until_sure import UntilSure


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleProgress:
    """A cycle as far as its trials let it be decided."""

    decision: Decision
    lacking: tuple[Pair, ...]  # of its rounds: asked for, and not there
    trials: pa.Table  # asked for, and there

    @property
    def chosen(self) -> float:
        """The optimum, once it is chosen."""
        assert self.decision.row is not None
        return float(self.decision.row["max_lr"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """The experiment's, and those that were added at this cycle."""
        return tuple(sorted({*self.decision.basis["seeds"], *(seed for _, seed in self.decision.trials)}))

    @property
    def row(self) -> Row | None:
        """The cycle's row, once nothing is lacking."""
        return None if self.lacking or self.decision.row is None else dict(self.decision.row)


def cycle_progress(
    strategy: Strategy,
    cycle: int,
    decision: Decision,
    *,
    seeds: Sequence[int],
    earlier: pa.Table,
    trials: pa.Table,
    committed: Row | None = None,
) -> CycleProgress:
    """Go on from what is decided: ask the strategy for rounds, then for the choice, as far as the trials that are there go.

    `seeds`: the experiment's. `earlier`: the trials of the cycles before. `trials`: those of this cycle that can be read; a
    strategy is shown only complete rounds that it asked for. `committed`: the cycle's row in oracle.parquet, which stands
    where the decision itself is lost, or was made by a version that kept none. ExperimentError where the strategy asks for
    what cannot be trained, or chooses what one of the seeds did not train.
    """
    while True:
        own = only(trials, decision.trials)
        there = set(pairs_of(own))
        lacking = without(decision.trials, there)
        if lacking or decision.row is not None:
            return CycleProgress(decision=decision, lacking=lacking, trials=own)
        rows = pa.concat_tables([earlier, _with_rounds(own, decision)], promote_options="default")
        pairs = asked_by(strategy, cycle, rows)
        if pairs:
            _check_round(strategy, cycle, decision, pairs, seeds)
            decision = decision.with_round(pairs)
        elif committed is not None and not _untrained(committed, seeds, there):
            decision = decision.with_row(_decided(committed))
        else:
            every_seed = sorted({*seeds, *(seed for _, seed in there)})
            decision = decision.with_row(_chosen(strategy, cycle, rows, every_seed, there))


def _with_rounds(own: pa.Table, decision: Decision) -> pa.Table:
    number = {pair: index for index, pairs in enumerate(decision.rounds) for pair in pairs}
    return own.append_column(ROUND, pa.array([number[pair] for pair in pairs_of(own)], type=ROUND.type))


def _check_round(
    strategy: Strategy, cycle: int, decision: Decision, pairs: Sequence[Pair], seeds: Sequence[int]
) -> None:
    where, asked = f"strategy {strategy.name}, cycle {cycle}", set(decision.trials)
    for pair in pairs:
        if pair in asked:
            raise ExperimentError(f"{where}: asks for {pair} again, though that is trained already")
        if pair[1] not in seeds and not isinstance(strategy, UntilSure):
            raise ExperimentError(f"{where}: asks for {pair}, but the experiment's seeds are {list(seeds)}")


def _chosen(strategy: Strategy, cycle: int, rows: pa.Table, seeds: Sequence[int], there: set[Pair]) -> Row:
    """The strategy's choice as a row of oracle.parquet."""
    where = f"strategy {strategy.name}, cycle {cycle}"
    chosen: Any = strategy.choose(cycle, rows)
    try:
        if not isinstance(chosen, Mapping):
            raise ValueError(f"found {chosen!r}")
        row = _decided({**chosen, "cycle": cycle})
    except ValueError as error:
        raise ExperimentError(
            f"{where}: what it chose is no row of oracle.parquet ({error}); oracle.intervals.find_interval gives one"
        ) from None
    untrained = _untrained(row, seeds, there)
    if untrained:
        raise ExperimentError(
            f"{where}: chose max_lr {row['max_lr']:g}, which it never asked for with seed {untrained[0]}; every seed of "
            "the experiment goes on from its network there"
        )
    return row


def _decided(row: Mapping[str, Any]) -> Row:
    """A row without what is only estimated, which decides nothing and is computed as the row is committed."""
    return oracle_row({name: value for name, value in row.items() if name not in ESTIMATED})


def _untrained(row: Row, seeds: Sequence[int], there: set[Pair]) -> list[int]:
    """Seeds whose network at the row's optimum is not there."""
    return [seed for seed in seeds if (row["max_lr"], seed) not in there]
