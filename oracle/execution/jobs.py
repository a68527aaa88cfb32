"""What there is to train, and who trains it: packs of trials, the job they share, executors."""

import hashlib
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

from oracle.events import CancelToken, Listener
from oracle.experiment import Experiment
from oracle.runs.cycle import CycleStore
from oracle.runs.decisions import Pair
from oracle.runs.settings import Settings
from oracle.storage import Folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Candidates of one seed and cycle that are trained on one device."""

    store: CycleStore
    seed: int
    candidates: tuple[float, ...]  # ascending
    again: bool = False  # train although the rows are there, because the final states are not

    @property
    def name(self) -> str:
        """The same for the same trials: names commits and checkpoints."""
        digest = hashlib.sha256(repr((self.candidates, self.store.lineage)).encode()).hexdigest()[:10]
        return f"c{self.store.cycle:03d}-s{self.seed}-{digest}"

    @property
    def pairs(self) -> set[Pair]:
        """Its trials."""
        return {(max_lr, self.seed) for max_lr in self.candidates}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all packs of a run share. Small: it travels to every worker."""

    experiment: Experiment
    settings: Settings
    keep_finals: bool = True  # False: final states are kept only of packs trained again
    checkpoint_seconds: float = 60.0  # between two checkpoints of a pack


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Packs of one cycle of one run, and who hears of them."""

    job: Job
    packs: Sequence[Pack]
    tell: Listener

    def __post_init__(self) -> None:
        assert self.packs


class Executor(Protocol):
    """Whoever trains packs: this process, or a Ray cluster. It holds what it needs of the data."""

    slots: int  # packs at a time
    device: str  # that packs train on: "cpu" or "cuda"

    def prove_folder(self, folder: Folder) -> None:
        """Let every machine that may train show that it can write into the folder."""

    def run(self, works: Sequence[Work], *, cancel: CancelToken) -> None:
        """Train all packs, and tell PackProgress and TrialFinished. Returns early once it is cancelled.

        `works`: of different runs, which read the same data.
        """

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function returns on one slot."""

    def close(self) -> None:
        """Give back what was taken."""


def plan_packs(store: CycleStore, pairs: Sequence[Pair], size: int, *, lacking: Set[Pair]) -> list[Pack]:
    """The packs of a round, those of one seed after the other, of `size` candidates at most; of them what is lacking.

    Neighbouring rates go to different packs: the large ones diverge together.
    """
    packs = []
    for seed in dict.fromkeys(seed for _, seed in pairs):
        ascending = sorted(max_lr for max_lr, own in pairs if own == seed)
        parts = -(-len(ascending) // size)
        for own in (ascending[part::parts] for part in range(parts)):
            candidates = tuple(max_lr for max_lr in own if (max_lr, seed) in lacking)
            if candidates:
                packs.append(Pack(store=store, seed=seed, candidates=candidates))
    return packs
