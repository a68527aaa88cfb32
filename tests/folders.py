"""What tests look for in a run's folder."""

from collections.abc import Sequence
from pathlib import Path

from oracle.runs.cycle import CycleStore
from oracle.runs.lineage import lineages_of
from oracle.runs.networks import read_winner
from oracle.runs.records import attempts, read_experiment
from oracle.storage import Folder
from oracle.training.parents import Winner


def store_of(out: Path, cycle: int, optima: Sequence[float]) -> CycleStore:
    """A cycle along the chain with these optima."""
    folder = Folder(out)
    lineages = lineages_of(folder, read_experiment(folder))
    return CycleStore(folder=folder, cycle=cycle, lineage=lineages.after(optima[:cycle]))


def winner_name(cycle: int, seed: int) -> str:
    """Where a winner lies."""
    return f"winners/cycle={cycle:03d}/seed={seed}.safetensors"


def winner_of(out: Path, cycle: int, seed: int, optima: Sequence[float]) -> Winner:
    """A winner of the chain with these optima, as it is read back."""
    winner = read_winner(store_of(out, cycle, optima), seed, optima[cycle])
    assert winner is not None
    return winner


def trained(out: Path) -> list[tuple[int, int, float]]:
    """Every (cycle, seed, max_lr) whose training was started from its first epoch, sorted."""
    starts = [start for start in attempts(Folder(out)) if start["from_epoch"] == 0]
    return sorted((start["cycle"], start["seed"], max_lr) for start in starts for max_lr in start["candidates"])
