"""What was decided of a cycle: its rounds, and the row that was chosen. Written before it is acted on, and read back.

So a finished cycle stays as it is, and a round under way is finished as it was begun, whatever another type of CPU or a
later version would decide.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from oracle.runs.tables import ORACLE, oracle_row

Pair = tuple[float, int]  # max_lr, seed: one trial of a cycle


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The rounds that a strategy has asked for, in order, and the cycle's row once it has chosen."""

    basis: Mapping[str, Any]  # what was decided for, as plain values, the seeds among them; for anything else: anew
    rounds: tuple[tuple[Pair, ...], ...] = ()
    row: Mapping[str, Any] | None = None  # as in oracle.parquet

    @property
    def trials(self) -> tuple[Pair, ...]:
        """All that were asked for."""
        return tuple(pair for pairs in self.rounds for pair in pairs)

    def with_round(self, pairs: Sequence[Pair]) -> "Decision":
        """One more round."""
        return replace(self, rounds=(*self.rounds, tuple(pairs)))

    def with_row(self, row: Mapping[str, Any]) -> "Decision":
        """The cycle's row."""
        return replace(self, row=dict(row))

    def to_json(self) -> bytes:
        """As a run's folder holds it, with a checksum."""
        fields = {"basis": self.basis, "rounds": self.rounds, "row": self.row}
        return json.dumps({**fields, "sha256": _checksum(fields)}).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Decision | None":
        """What `to_json` wrote; None for anything else, so that it is decided anew."""
        try:
            fields = json.loads(content)
            if fields.pop("sha256", None) not in {None, _checksum(fields)}:  # none: written by an older version
                return None
            basis, row = fields["basis"], fields["row"]
            rounds = tuple(tuple((float(max_lr), seed) for max_lr, seed in pairs) for pairs in fields["rounds"])
            if row is not None:  # without columns of a later version
                row = oracle_row({name: value for name, value in row.items() if name in ORACLE.names})
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return None
        decision = cls(basis=basis, rounds=rounds, row=row)
        return decision if isinstance(basis, dict) and decision._is_sound() else None

    def _is_sound(self) -> bool:
        """Whether it can have been decided: trials that can be trained, once each, and a row that every seed trained."""
        trials = self.trials
        seeds = {*self.basis.get("seeds", []), *(seed for _, seed in trials)}
        sound = all(0 < max_lr < math.inf and seed >= 0 for max_lr, seed in trials)
        chosen = [] if self.row is None else [(self.row["max_lr"], seed) for seed in seeds]
        return sound and len(set(trials)) == len(trials) and set(chosen) <= set(trials)


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
