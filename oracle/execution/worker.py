"""One pack's work, wherever it runs: parents in, rows and final states out. Killed at any moment, it can be run again.

The order matters: a commit's final states are written before its rows, a checkpoint is removed after them. So a row that
can be read always has its states, and what has no row is trained again, from its last checkpoint.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

import torch

from oracle.data.images import Images
from oracle.data.memory import is_full_memory
from oracle.errors import Error, FolderError, TrialError
from oracle.events import Event, Listener, PackProgress, TrialFinished
from oracle.execution.jobs import Job, Pack
from oracle.runs.networks import parent_name, part, prefixed, read_parent, read_tensors, write_finals, write_tensors
from oracle.training.loop import SCORES, BestSoFar
from oracle.training.parents import Parent
from oracle.training.run import Checkpoint, check_resumable, train_group


def run_pack(
    job: Job,
    pack: Pack,
    images: Images,
    *,
    tell: Listener = lambda event: None,
    cancelled: Callable[[], bool] = lambda: False,
    committed: Collection[str] = (),
) -> None:
    """Train the pack and commit it: all at once for the pack backend, one by one for the plain one.

    `committed`: names of commits that a worker before this one made of these packs; they are not made again. `tell` hears
    TrialFinished of every committed row and the pack's PackProgress, 1 once all rows are there. Returns early where
    `cancelled`, with what was committed. Raises TrialError naming search, cycle, max_lr and seed.
    """
    torch.set_num_threads(job.settings.threads)
    one_by_one = job.settings.backend == "plain"
    groups = [replace(pack, candidates=(max_lr,)) for max_lr in pack.candidates] if one_by_one else [pack]
    groups = [group for group in groups if pack.again or group.name not in committed]
    for index, group in enumerate(groups):

        def progress(done: float, index: int = index) -> None:
            tell(PackProgress(pack=pack.name, done=(index + done) / len(groups)))

        with _crashes_named(job, group):
            if cancelled() or not _train_and_commit(job, group, images, tell, progress, cancelled):
                return
    tell(PackProgress(pack=pack.name, done=1.0))


@contextlib.contextmanager
def _crashes_named(job: Job, group: Pack) -> Iterator[None]:
    """TrialError, naming search, cycle, seed and max_lr, in place of whatever is not ours."""
    try:
        yield
    except Error:
        raise
    except Exception as error:
        rates = ", ".join(f"{max_lr:g}" for max_lr in group.candidates)
        raise TrialError(
            f"search {job.experiment.name}, cycle {group.store.cycle}, seed {group.seed}, max_lr {rates}: the training "
            f"crashed: {type(error).__name__}: {error}{_way_out(error)}"
        ) from error


def _way_out(error: Exception) -> str:
    way_out = ". Smaller packs (--pack-size, in a new folder) and fewer slots need less memory"
    return way_out if is_full_memory(error) else ""


def _train_and_commit(
    job: Job,
    group: Pack,
    images: Images,
    tell: Callable[[Event], None],
    progress: Callable[[float], None],
    cancelled: Callable[[], bool],
) -> bool:
    """Train candidates that are committed together, and commit them. False where it was cancelled before their end."""
    store, epochs = group.store, job.experiment.training.epochs
    parent = read_parent(store, group.seed)
    if parent is None:
        raise FolderError(f"{store.folder / parent_name(store, group.seed)}: cannot be read")
    resume = _read_checkpoint(group, job, images, parent)
    _note_attempt(group, resume)
    saved = time.perf_counter()

    def after_epoch(epochs_done: int, checkpoint: Callable[[], Checkpoint]) -> None:
        nonlocal saved
        if time.perf_counter() - saved >= job.checkpoint_seconds and epochs_done < epochs:
            _write_checkpoint(group, checkpoint())
            saved = time.perf_counter()
        progress(epochs_done / (epochs + 1))  # the last part is for the commit

    trained = train_group(
        job.experiment,
        images,
        parent,
        cycle=store.cycle,
        seed=group.seed,
        candidates=group.candidates,
        backend=job.settings.backend,
        device=torch.device(job.settings.device),
        resume=resume,
        after_epoch=after_epoch,
        cancelled=cancelled,
    )
    if isinstance(trained, Checkpoint):
        _write_checkpoint(group, trained)
        return False
    if job.keep_finals or group.again:
        write_finals(store, group.name, group.candidates, states=trained.states, rewind=trained.rewind)
    store.commit([row | {"lineage": store.lineage, "commit": group.name} for row in trained.rows])
    store.folder.delete(_checkpoint_name(group))
    for row in trained.rows:
        tell(TrialFinished.of(row))
    return True


def _note_attempt(group: Pack, resume: Checkpoint | None) -> None:
    group.store.note_attempt(
        {
            "commit": group.name,
            "cycle": group.store.cycle,
            "seed": group.seed,
            "candidates": group.candidates,
            "lineage": group.store.lineage,
            "from_epoch": resume.best.epochs_done if resume else 0,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": time.time(),
        }
    )


# Checkpoints of a training under way.


def _checkpoint_name(group: Pack) -> str:
    return group.store.path("checkpoints", f"{group.name}.safetensors")


def _write_checkpoint(group: Pack, checkpoint: Checkpoint) -> None:
    best = checkpoint.best
    tensors = prefixed("trainer", checkpoint.trainer) | prefixed("rewind", best.rewind)
    tensors |= {f"scores/{name}": getattr(best, name) for name in SCORES}
    header = {"epochs_done": str(best.epochs_done), "seconds": repr(checkpoint.seconds)}
    write_tensors(group.store.folder, _checkpoint_name(group), tensors, header)


def _read_checkpoint(group: Pack, job: Job, images: Images, parent: Parent) -> Checkpoint | None:
    """The group's checkpoint; None where there is none. One that cannot be gone on with is set aside."""
    store, name = group.store, _checkpoint_name(group)
    found = read_tensors(store.folder, name, ("epochs_done", "seconds"), damaged=store.folder.set_aside)
    if found is None:
        return None
    tensors, header, vouched_for = found
    try:
        best = BestSoFar(
            epochs_done=int(header["epochs_done"]), rewind=part(tensors, "rewind"), **part(tensors, "scores")
        )
        checkpoint = Checkpoint(trainer=part(tensors, "trainer"), best=best, seconds=float(header["seconds"]))
        if not vouched_for:
            check_resumable(
                checkpoint,
                job.experiment,
                images,
                parent,
                seed=group.seed,
                num_candidates=len(group.candidates),
                backend=job.settings.backend,
                device=torch.device(job.settings.device),
            )
    except (TypeError, ValueError):  # scores of another name or number among them
        store.folder.set_aside(name)
        return None
    return checkpoint
