"""What a run tells those who watch it. This one is silent; `oracle.view.terminal` draws."""

from collections.abc import Mapping
from typing import Any

from oracle.experiment import Experiment
from oracle.storage import Folder


class Watch:
    """Told what happens while a chain runs. Packs may move in other threads than the one that runs the chain."""

    def starts(self, *, experiment: Experiment, folder: Folder) -> None:
        """A run begins, or goes on, in `folder`."""

    def cycle_starts(self, *, cycle: int, lineage: str, packs: int, trials: int) -> None:
        """`trials` trials of a cycle have no rows yet, and are now trained in `packs` packs."""

    def pack_moves(self, *, pack: str, done: float) -> None:
        """A fraction of a pack is trained; 1 once its rows are there."""

    def cycle_ends(self, row: Mapping[str, Any]) -> None:
        """A cycle is finished, now or in an earlier run; `row` as in oracle.parquet."""

    def says(self, text: str) -> None:
        """Something that a person should know."""

    def ends(self) -> None:
        """The run is over, however it went."""
