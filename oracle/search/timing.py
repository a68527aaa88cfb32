"""What a training costs on this machine, measured: epochs and their starts, evaluations, files.

Axes: C candidates.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float
from torch import Tensor

from oracle.data.images import Batch, Images
from oracle.errors import FolderError
from oracle.events import CancelToken
from oracle.execution.jobs import Job, Pack
from oracle.execution.worker import run_pack
from oracle.experiment import Experiment
from oracle.runs.cycle import CycleStore
from oracle.runs.networks import write_parent
from oracle.runs.settings import Settings
from oracle.storage import Folder
from oracle.training.backends import Backend, make_trainer
from oracle.training.loop import BestSoFar, Trainer, train_candidates
from oracle.training.optimizers import OPTIMIZERS
from oracle.training.parents import Parent

TIMED_SECONDS = 3.0  # of epochs, shortened
TIMED_STEPS = 200  # at most
EPOCHS = 3  # at least, so that one that stalls does not count; one where a step takes TIMED_SECONDS
EPOCH_STEPS = 50  # of one epoch, at most: so several are begun
EPOCH_SECONDS = (
    TIMED_SECONDS / EPOCHS
)  # of an epoch's steps, and of each evaluation; one block, or batch, may take longer
BLOCK_STEPS = 10  # timed together, as a clock that is read after every step keeps a GPU waiting
SLOW_STEP = 0.1  # seconds: from here on steps are timed one by one
TIMED_PACKS = 3  # that end before their first epoch
TIMED_BYTES = 256e6  # of networks in such a pack: a large one would fill a disk


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPack:
    """What is timed: candidates that are trained together, from a dense parent."""

    experiment: Experiment
    images: Images
    seed: int
    parent: Parent
    candidates: tuple[float, ...]
    backend: Backend
    device: torch.device

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps."""
        return self.images.num_train // self.experiment.training.batch_size

    def trainer(self) -> Trainer:
        """One that has done nothing."""
        return make_trainer(
            self.backend,
            self.experiment,
            self.seed,
            self.images,
            self.parent,
            self.device,
            num_candidates=len(self.candidates),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Seconds of what a training consists of, each measured as often as time allows."""

    starts: list[float] = field(default_factory=list)  # of an epoch, with its first step
    steps: list[float] = field(default_factory=list)  # each further one, as the mean of a block
    validation: list[float] = field(default_factory=list)  # an evaluation
    test: list[float] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)  # of an epoch
    beside: list[float] = field(default_factory=list)  # all that a pack does beside its epochs

    def __add__(self, other: "Samples") -> "Samples":
        return Samples(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    def epoch(self, num_steps: int) -> float:
        """Seconds of an epoch of so many steps, evaluated on both sets."""
        epochs = BLOCK_STEPS // num_steps  # a block spans as many
        stepping = typical(self.starts, epochs)
        if num_steps > 1:
            stepping += (num_steps - 1) * typical(self.steps, epochs)
        return stepping + typical(self.validation) + typical(self.test) + typical(self.rest)


def typical(samples: Sequence[float], together: int = 1) -> float:
    """The median of means, each over `together` samples in a row, or fewer so that there are five: outliers do not count.

    >>> typical([1.0, 1.0, 1.0, 9.0, 1.0])
    1.0
    """
    size = max(1, min(together, len(samples) // 5))
    return statistics.median(
        statistics.fmean(samples[start : start + size]) for start in range(0, len(samples) - size + 1, size)
    )


def time_training(first: FirstPack, *, slots: int) -> float:
    """Seconds of one candidate's share of a pack's training, while as many packs as `slots` are trained side by side.

    The test set counts at every epoch, though the loop looks at it only where a candidate improves: of digits-mlp's 24
    epochs at 19 for a pack of 24, at 9 for one candidate. Left out is tracing, which a process does once.
    """
    samples = _side_by_side(first, slots)
    epochs = first.experiment.training.epochs
    seconds = epochs * samples.epoch(first.steps_per_epoch)
    beside = typical(samples.beside)
    checkpoints = min(epochs - 1, seconds // _job(first).checkpoint_seconds)  # writing one costs no more than `beside`
    return (seconds + (1 + checkpoints) * beside) / len(first.candidates)


def _side_by_side(first: FirstPack, slots: int) -> Samples:
    """What this thread and others find at the same time."""
    stop, threads = CancelToken(), torch.get_num_threads()
    with ThreadPoolExecutor(slots) as pool:
        others = [pool.submit(_time_slot, first, stop) for _ in range(slots - 1)]
        try:
            own = _time_slot(first, stop)
            return sum((other.result() for other in others), own)
        finally:
            stop.cancel()  # Ctrl-C reaches this thread alone
            torch.set_num_threads(threads)


def _time_slot(first: FirstPack, stop: CancelToken) -> Samples:
    torch.set_num_threads(1)  # as in a search; holds for the thread that says so
    return time_epochs(first, first.trainer(), stop) + Samples(beside=_time_beside(first))


def time_epochs(first: FirstPack, trainer: Trainer, stop: CancelToken) -> Samples:
    """Let the loop train, as in a search, epoch after shortened epoch until TIMED_SECONDS or TIMED_STEPS are over."""
    watched = WatchedImages(first, _warm_up(first, trainer), stop)
    train_candidates(
        trainer,
        watched,
        _rates(first)[:, None].expand(-1, TIMED_STEPS),
        key=(first.seed, 0),
        epochs=TIMED_STEPS,
        batch_size=first.experiment.training.batch_size,
        after_epoch=watched.end_epoch,
        cancelled=watched.are_enough,
    )
    while len(watched.samples.test) < watched.least:  # the loop looks at the test set where a candidate improves
        for batch in watched.test():
            trainer.score(batch)
    return watched.samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much can be timed, as a first look says."""

    a_step: float  # seconds, about
    validation: int  # batches of an evaluation, at most
    validation_images: int  # in them
    test: int  # as for validation
    test_images: int


def _warm_up(first: FirstPack, trainer: Trainer) -> Pace:
    """Trace what will be timed, and see how long it takes."""
    batch, rates = next(first.images.epoch((first.seed, 0, 0), first.experiment.training.batch_size)), _rates(first)
    trainer.step(batch, rates)
    started = _now(first.device)
    trainer.step(batch, rates)
    a_step = _now(first.device) - started
    validation, size = _look_at(first, trainer, first.images.validation())
    test, test_size = _look_at(first, trainer, first.images.test())
    return Pace(
        a_step=a_step,
        validation=validation,
        validation_images=min(validation * size, first.images.num_validation),
        test=test,
        test_images=min(test * test_size, first.images.num_test),
    )


def _look_at(first: FirstPack, trainer: Trainer, part: Iterator[Batch]) -> tuple[int, int]:
    """How many batches of an evaluation EPOCH_SECONDS have room for, and how many images are in one."""
    seconds, sizes = 0.0, [0]
    for batch in itertools.islice(part, 2):  # the first one traces
        started = _now(first.device)
        trainer.score(batch)
        seconds = _now(first.device) - started
        sizes.append(len(batch[1]))
    is_short = len(sizes) < 3 or seconds == 0
    return sys.maxsize if is_short else max(1, int(EPOCH_SECONDS / seconds)), max(sizes)


class WatchedImages:
    """A data set as the loop sees it, cut short, that notes how long it is until the next batch is asked for."""

    def __init__(self, first: FirstPack, pace: Pace, stop: CancelToken) -> None:
        """`pace` says where to cut; `stop`, to end at once."""
        images = first.images
        self.num_classes, self.input_shape, self.num_train = images.num_classes, images.input_shape, images.num_train
        self.num_validation, self.num_test = pace.validation_images, pace.test_images
        self.samples = Samples()
        self.least = EPOCHS if pace.a_step < TIMED_SECONDS else 1  # epochs
        self._first, self._pace, self._stop = first, pace, stop
        self._steps, self._seconds = 0, 0.0  # of all epochs
        self._began = self._noted = 0.0  # when this epoch did; seconds of it that samples have

    def epoch(self, key: tuple[int, int, int], batch_size: int) -> Iterator[Batch]:
        """See `Images.epoch`."""
        self._began, self._noted = self._now(), 0.0
        batches = self._first.images.epoch(key, batch_size)
        yield next(batches)
        self.samples.starts.append(self._note(self._began))
        self._steps += 1
        left = min(self._first.steps_per_epoch, EPOCH_STEPS, TIMED_STEPS - self._steps + 1) - 1
        until = self._now() + EPOCH_SECONDS
        while left and self._now() < until and not self._stop.is_cancelled():
            block = left // max(1, left // BLOCK_STEPS) if self._pace.a_step < SLOW_STEP else 1
            started = self._now()
            yield from itertools.islice(batches, block)
            self.samples.steps.append(self._note(started) / block)
            self._steps, left = self._steps + block, left - block

    def validation(self) -> Iterator[Batch]:
        """See `Images.validation`."""
        part, most = self._first.images.validation(), self._pace.validation
        return self._evaluated(part, most, self._first.images.num_validation, self.samples.validation)

    def test(self) -> Iterator[Batch]:
        """See `Images.test`."""
        part, most = self._first.images.test(), self._pace.test
        return self._evaluated(part, most, self._first.images.num_test, self.samples.test)

    def sample(self, size: int, *key: int | str) -> Batch:
        """See `Images.sample`."""
        return self._first.images.sample(size, *key)

    def end_epoch(self, best: BestSoFar) -> None:
        """Is told when an epoch is over."""
        seconds = self._now() - self._began
        self.samples.rest.append(seconds - self._noted)
        self._seconds += seconds

    def are_enough(self) -> bool:
        """Whether no more epochs need be timed."""
        if self._steps >= TIMED_STEPS or self._stop.is_cancelled():
            return True
        return self._seconds >= TIMED_SECONDS and len(self.samples.rest) >= self.least

    def _evaluated(self, part: Iterator[Batch], most: int, num_images: int, samples: list[float]) -> Iterator[Batch]:
        started, batches, seen = self._now(), 0, 0
        for batch in itertools.islice(part, most):
            yield batch
            batches, seen = batches + 1, seen + len(batch[1])
        seconds = self._note(started)
        samples.append(seconds * max(1.0, num_images / seen) if batches == most else seconds)

    def _note(self, started: float) -> float:
        seconds = self._now() - started
        self._noted += seconds
        return seconds

    def _now(self) -> float:
        return _now(self._first.device)


def _time_beside(first: FirstPack) -> list[float]:
    """Seconds of packs that are cancelled before their first epoch; 0 where this machine has no room for their files.

    They read a parent, make a trainer and write its state, as a checkpoint; a whole training writes its final state and a
    row instead. Their folder is a temporary one on this machine: what an object store takes is not known beforehand.
    """
    remembered = len(OPTIMIZERS[first.experiment.optimizer.name].remembered)
    state = sum(value.numel() * value.element_size() for value in first.parent.state.values())
    num_candidates = max(1, min(len(first.candidates), int(TIMED_BYTES / ((1 + remembered) * state))))
    found: list[float] = []
    while len(found) < TIMED_PACKS and sum(found) < TIMED_SECONDS:
        try:
            seconds = _time_cancelled_pack(first, first.candidates[:num_candidates])
        except (FolderError, OSError):
            return [0.0]
        found.append(seconds * len(first.candidates) / num_candidates)
    return found


def _time_cancelled_pack(first: FirstPack, candidates: tuple[float, ...]) -> float:
    with TemporaryDirectory(prefix="oracle-plan-") as folder:
        store = CycleStore(folder=Folder(folder), cycle=0, lineage="plan")
        write_parent(store, first.seed, first.parent)
        started = _now(first.device)
        pack = Pack(store=store, seed=first.seed, candidates=candidates)
        run_pack(_job(first), pack, first.images, cancelled=_after_one_question())
        return _now(first.device) - started


def _after_one_question() -> Callable[[], bool]:
    """A worker asks before a training, and before every epoch."""
    answers = iter([False])
    return lambda: next(answers, True)


def _job(first: FirstPack) -> Job:
    settings = Settings(
        backend=first.backend,
        device=first.device.type,
        pack_size=len(first.candidates),
        threads=1,
        versions={},
    )
    return Job(experiment=first.experiment, settings=settings)


def _rates(first: FirstPack) -> Float[Tensor, "C"]:
    return torch.full((len(first.candidates),), min(first.candidates), dtype=torch.float64, device=first.device)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
