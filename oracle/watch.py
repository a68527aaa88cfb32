"""What a run tells those who watch it. This one is silent; `oracle.live` draws."""

from collections.abc import Mapping, Sequence
from typing import Any


class Watch:
    """Told what happens while a chain runs; every method may be overridden, from the thread that runs the chain."""

    def starts(self, *, name: str, folder: str, cycles: int, seeds: int) -> None:
        """A run goes on, or begins, in `folder`; it has cycles + 1 cycles to finish."""

    def cycle_starts(self, *, cycle: int, candidates: Sequence[float], packs: int, trials: int, done: int) -> None:
        """`trials` trials in `packs` packs are to be trained for a cycle; `done` others of the cycle have their rows."""

    def pack_moves(self, *, pack: str, done: float) -> None:
        """A fraction of a pack, in [0, 1], is trained."""

    def trials_done(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The trials of the cycle under way that have their rows, all of them."""

    def cycle_ends(self, row: Mapping[str, Any]) -> None:
        """A cycle is finished; `row` as in oracle.parquet."""

    def says(self, text: str) -> None:
        """Something that a person should know."""
