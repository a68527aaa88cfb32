"""What was decided of a cycle: its rounds, and the row that was chosen. Written before it is acted on, and read back.

So a finished cycle stays as it is, and a round under way is finished as it was begun, whatever another type of CPU or a
later version would decide.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Pair = tuple[float, int]  # max_lr, seed: one trial of a cycle


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The rounds that a strategy has asked for, in order, and the cycle's row once it has chosen."""

    basis: Mapping[str, Any]  # what was decided for, as plain values; for anything else it is decided anew
    rounds: tuple[tuple[Pair, ...], ...] = ()
    row: Mapping[str, Any] | None = field(default=None)  # as in oracle.parquet

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
        """As a run's folder holds it."""
        fields = {"basis": self.basis, "rounds": self.rounds, "row": self.row}
        return json.dumps(fields, indent=None).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Decision | None":
        """What `to_json` wrote; None for anything else."""
        try:
            fields = json.loads(content)
            rounds = tuple(tuple((float(rate), seed) for rate, seed in pairs) for pairs in fields["rounds"])
            row = fields["row"]
            pairs = [pair for found in rounds for pair in found]
            whole = all(math.isfinite(rate) and type(seed) is int for rate, seed in pairs)
            if not (whole and isinstance(fields["basis"], dict) and (row is None or isinstance(row["max_lr"], float))):
                return None
            return cls(basis=fields["basis"], rounds=rounds, row=row)
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
