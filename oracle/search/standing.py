"""How far a cycle's search has come: what is decided, and what it still lacks. Pure: nothing is written or trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from oracle.errors import ExperimentError
from oracle.runs.cycle import only, pairs_of
from oracle.runs.decisions import Decision, Pair
from oracle.runs.tables import ORACLE, SILENT_AT_0
from oracle.search.strategies import Row, Strategy, asked_by, without


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A cycle as far as its trials let it be decided."""

    decision: Decision
    lacking: tuple[Pair, ...]  # of its rounds: asked for, and not there
    trials: pa.Table  # asked for, and there

    @property
    def row(self) -> Row | None:
        """The cycle's row, once nothing is lacking."""
        return None if self.lacking or self.decision.row is None else dict(self.decision.row)


def standing(
    strategy: Strategy,
    cycle: int,
    decision: Decision,
    *,
    seeds: Sequence[int],
    earlier: pa.Table,
    trials: pa.Table,
) -> Standing:
    """Go on from what is decided: ask the strategy for rounds, then for the choice, as far as the trials that are there go.

    `earlier`: the trials of the cycles before; `trials`: those of this cycle that can be read. A strategy is shown only
    complete rounds that it asked for. ExperimentError where it asks for what cannot be trained, or chooses what one of the
    experiment's `seeds` did not train.
    """
    while True:
        own = only(trials, decision.trials)
        lacking = without(decision.trials, set(pairs_of(own)))
        if lacking or decision.row is not None:
            return Standing(decision=decision, lacking=lacking, trials=own)
        rows = pa.concat_tables([earlier, own])
        pairs = asked_by(strategy, cycle, rows)
        if pairs:
            twice = [pair for pair in pairs if pair in decision.trials]
            if twice:
                raise ExperimentError(
                    f"strategy {strategy.name}, cycle {cycle}: asks for {twice[0]} again, though that is trained already"
                )
            decision = decision.with_round(pairs)
        else:
            row = _checked_row(strategy, cycle, strategy.choose(cycle, rows))
            decision = decision.with_row(row)
            untrained = without([(row["max_lr"], seed) for seed in seeds], set(pairs_of(own)))
            if untrained:
                raise ExperimentError(
                    f"strategy {strategy.name}, cycle {cycle}: chose max_lr {untrained[0][0]:g}, which it never asked for "
                    f"with seed {untrained[0][1]}; every seed of the experiment goes on from its network there"
                )


def _checked_row(strategy: Strategy, cycle: int, row: Mapping[str, Any]) -> Row:
    """A row with the columns of oracle.parquet, as they will be read back. ExperimentError where it cannot be one."""
    unknown = sorted(set(row) - set(ORACLE.names))
    try:
        if unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}")
        table = pa.Table.from_pylist([{**row, "cycle": cycle}], schema=ORACLE)
        table.validate(full=True)
        [whole] = table.to_pylist()
        empty = [field.name for field in ORACLE if not field.nullable and whole[field.name] is None]
        if empty:
            raise ValueError(f"missing: {', '.join(empty)}")
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise ExperimentError(
            f"strategy {strategy.name}, cycle {cycle}: what it chose is no row of oracle.parquet ({error}); "
            "oracle.intervals.find_interval gives one"
        ) from None
    checked: Row = whole | {name: whole[name] or 0 for name in SILENT_AT_0}
    return checked
