"""One pack's work, wherever it runs: parents in, rows and weights out. Killed at any moment, it can be run again.

The order matters: a commit's weights are written before its rows, a checkpoint is removed after them. So a row that can
be read always has its weights, and what has no row is trained again, from its last checkpoint.
"""

import hashlib
import json
import os
import platform
import socket
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import torch

from oracle.data.images import Images
from oracle.errors import Error, FolderError, TrialError
from oracle.experiment import Experiment
from oracle.runs.networks import parent_name, part, prefixed, read_parent, read_tensors, weights_name, write_tensors
from oracle.runs.tables import commit_trials, cycle_folder, done_trials, note_attempt
from oracle.storage import Folder
from oracle.training.loop import Scores, Trainer
from oracle.training.train import Backend, make_trainer, run_trainer, trial_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run is computed: chosen once, written into its folder and read back, so that bits stay the same."""

    backend: Backend
    device: str  # "cpu" or "cuda"
    pack_size: int  # candidates a pack at most
    threads: int  # of one candidate or pack
    versions: Mapping[str, str]

    def to_json(self) -> str:
        """As `settings.json` holds it."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: bytes) -> "Settings":
        """Read what `to_json` wrote. Raises ValueError or TypeError on anything else."""
        fields = json.loads(text)
        settings = cls(**fields)
        counts = (settings.pack_size, settings.threads)
        if (
            settings.backend not in get_args(Backend)
            or settings.device not in {"cpu", "cuda"}
            or not all(type(count) is int and count > 0 for count in counts)
            or not isinstance(settings.versions, dict)
        ):
            raise ValueError(f"values that no search writes: {fields}")
        return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Candidates of one seed and cycle that are trained on one device: one Ray Tune trial."""

    cycle: int
    seed: int
    candidates: tuple[float, ...]  # ascending
    lineage: str
    again: bool = False  # train although the rows are there, because the weights are not

    @property
    def name(self) -> str:
        """The same for the same trials: names commits and checkpoints."""
        digest = hashlib.sha256(repr((self.candidates, self.lineage)).encode()).hexdigest()[:10]
        return f"c{self.cycle:03d}-s{self.seed}-{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all packs of a run share. Small: it travels to every worker."""

    folder: Folder
    experiment: Experiment
    settings: Settings
    keep_weights: bool = True  # False: final weights are kept only of packs trained again
    checkpoint_seconds: float = 60.0  # between two checkpoints of a pack


def versions() -> dict[str, str]:
    """What decides the bits beside the settings."""
    return {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}


def run_pack(job: Job, pack: Pack, images: Images, progress: Callable[[float], None] = lambda done: None) -> None:
    """Train what the pack lacks and commit it: all at once for the pack backend, one by one for the plain one.

    `progress` is told the fraction done, below 1 until the rows are there. Raises TrialError naming search, cycle,
    max_lr and seed.
    """
    torch.set_num_threads(job.settings.threads)
    todo = pack.candidates if pack.again else missing(pack, done_trials(job.folder, pack.cycle, pack.lineage))
    if job.settings.backend == "plain":
        groups = [replace(pack, candidates=(max_lr,)) for max_lr in todo]
    else:
        groups = [replace(pack, candidates=todo)] if todo else []
    for index, group in enumerate(groups):
        try:
            _run_group(job, group, images, lambda done, index=index: progress((index + done) / len(groups)))  # type: ignore[misc]
        except Error:
            raise
        except Exception as error:
            rates = ", ".join(f"{max_lr:g}" for max_lr in group.candidates)
            raise TrialError(
                f"search {job.experiment.name}, cycle {group.cycle}, seed {group.seed}, max_lr {rates}: the training "
                f"crashed: {type(error).__name__}: {error}{_way_out(error)}"
            ) from error


def _way_out(error: Exception) -> str:
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return ". Smaller packs (--pack-size, in a new folder) and fewer slots need less memory" if out_of_memory else ""


def missing(pack: Pack, done: Set[tuple[int, float]]) -> tuple[float, ...]:
    """The pack's candidates that are not among the `done` (seed, max_lr)."""
    return tuple(max_lr for max_lr in pack.candidates if (pack.seed, max_lr) not in done)


def _run_group(job: Job, group: Pack, images: Images, progress: Callable[[float], None]) -> None:
    """Train candidates that are committed together."""
    experiment, settings = job.experiment, job.settings
    parent = read_parent(job.folder, group.cycle, group.seed, group.lineage)
    if parent is None:
        raise FolderError(f"{job.folder / parent_name(group.cycle, group.seed, group.lineage)}: cannot be read")
    device = torch.device(settings.device)
    trainer = make_trainer(
        settings.backend, experiment, group.seed, images, parent, device, num_candidates=len(group.candidates)
    )
    scores, seconds_before = _resume(job, group, trainer, device)
    note_attempt(job.folder, group.cycle, _attempt(group, scores))
    started = saved = time.perf_counter()

    def after_epoch(scores: Scores) -> None:
        nonlocal saved
        now = time.perf_counter()
        if now - saved >= job.checkpoint_seconds and scores.epochs_done < experiment.training.epochs:
            _save_checkpoint(job, group, trainer, scores, seconds_before + now - started)
            saved = now
        progress(scores.epochs_done / (experiment.training.epochs + 1))  # the last part is for the commit

    scores = run_trainer(
        trainer,
        experiment,
        images,
        cycle=group.cycle,
        seed=group.seed,
        candidates=group.candidates,
        scores=scores,
        after_epoch=after_epoch,
        device=device,
    )
    seconds = (seconds_before + time.perf_counter() - started) / len(group.candidates)
    rows = trial_rows(
        scores, images, cycle=group.cycle, seed=group.seed, candidates=group.candidates, parent=parent, seconds=seconds
    )
    if job.keep_weights or group.again:
        tensors = prefixed("weights", trainer.weights()) | prefixed("rewind", scores.rewind)
        header = {"candidates": json.dumps(group.candidates)}
        write_tensors(job.folder, weights_name(group.cycle, group.name), tensors, header)
    commit_trials(job.folder, [row | {"lineage": group.lineage, "commit": group.name} for row in rows])
    job.folder.delete(_checkpoint_name(group))


def _attempt(group: Pack, scores: Scores | None) -> dict[str, Any]:
    return {
        "commit": group.name,
        "cycle": group.cycle,
        "seed": group.seed,
        "candidates": group.candidates,
        "lineage": group.lineage,
        "from_epoch": scores.epochs_done if scores else 0,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "time": time.time(),
    }


# Checkpoints of a training under way.

_SCORES: Sequence[str] = ("alive", "best_epoch", "val_loss", "val_correct", "test_accuracy")


def _checkpoint_name(group: Pack) -> str:
    return f"{cycle_folder('checkpoints', group.cycle)}/{group.name}.safetensors"


def _save_checkpoint(job: Job, group: Pack, trainer: Trainer, scores: Scores, seconds: float) -> None:
    tensors = prefixed("trainer", trainer.state()) | prefixed("rewind", scores.rewind)
    tensors |= {f"scores/{name}": getattr(scores, name) for name in _SCORES}
    header = {"epochs_done": str(scores.epochs_done), "seconds": repr(seconds)}
    write_tensors(job.folder, _checkpoint_name(group), tensors, header)


def _resume(job: Job, group: Pack, trainer: Trainer, device: torch.device) -> tuple[Scores | None, float]:
    """Take the trainer to the group's checkpoint, if there is one. Returns its scores and the seconds spent so far."""
    found = read_tensors(job.folder, _checkpoint_name(group))
    if found is None:
        return None, 0.0
    tensors, header = found
    trainer.restore({name: value.to(device) for name, value in part(tensors, "trainer").items()})
    scores = Scores(epochs_done=int(header["epochs_done"]), rewind=part(tensors, "rewind"), **part(tensors, "scores"))
    return scores, float(header["seconds"])
