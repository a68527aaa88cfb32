"""What a search will cost, before anything is launched."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from oracle.data import load_images
from oracle.data.images import Images
from oracle.data.sources import RawImages
from oracle.execution.executors import EXECUTORS, BackendChoice, Launch
from oracle.execution.local import default_slots
from oracle.experiment import Experiment
from oracle.pruning.masks import dense_masks
from oracle.runs.decisions import Pair
from oracle.runs.records import read_trials
from oracle.runs.tables import is_finished
from oracle.search.packing import fair_pack_size, num_packs
from oracle.search.preflight import Prepared, check_settings, prepare
from oracle.search.rounds import Trainings
from oracle.search.strategies import Strategy, trainings
from oracle.search.timing import FirstPack, time_training
from oracle.storage import Folder
from oracle.training.backends import Backend, backend_of, default_device
from oracle.training.optimizers import OPTIMIZERS
from oracle.training.parents import first_parent, parent_network


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cost of a search: hours, an estimate for the likely number of trainings, and disk, for the largest number.

    Further rounds may add to the hours: those of the strategy adaptive, or of `grid.extend`.
    """

    name: str
    trainings: int  # the likely number, with carry: keep
    trainings_least: int
    trainings_most: int | None  # None: a strategy of one's own does not say
    trainings_retrain: int  # with carry: retrain
    trainings_done: int  # of them, in the run's folder
    steps: int  # optimiser steps of all trainings together, carry: keep
    disk_bytes: int  # at the fullest moment, carry: keep
    disk_bytes_retrain: int
    parameters: int
    steps_per_training: int
    backend: Backend
    device: str
    slots: int
    pack_size: int
    seconds_per_training: float  # measured, in its pack
    hours: float  # wall clock, on these slots, for what is not done yet


def plan(
    experiment: Experiment,
    *,
    executor: str = "ray",
    address: str | None = None,
    slots: int | None = None,
    backend: BackendChoice = "auto",
    pack_size: int | None = None,
    out: str | Path | None = None,
    strategy: Strategy | None = None,
) -> Plan:
    """Count what `run_oracle` will do, and time a few steps of the first pack: here, or on a slot of a Ray cluster.

    `slots`: packs at a time; by default the cores or the one GPU of this machine, or all of the cluster at `address`.
    `out`: the run's folder, whose finished trainings take no more time. Raises what `run_oracle` refuses.
    """
    launch = Launch(executor=executor, address=address, slots=slots, backend=backend, pack_size=pack_size)
    folder = None if out is None else Folder(out)
    prepared = prepare(experiment, launch, folder=folder, strategy=strategy)
    timed = _timed(prepared, launch)
    if folder is not None and prepared.begun is not None:
        check_settings(folder, prepared.begun, launch, device=timed.device)
    experiment, pairs = prepared.experiment, prepared.first_round
    done = 0 if folder is None else _trials_done(folder)
    cycles = experiment.pruning.cycles + 1
    count = trainings(experiment, prepared.strategy)
    if folder is not None and is_finished(folder, experiment):
        count = Trainings(least=done, likely=done, most=done, rounds=0)
    done = min(done, count.likely)
    steps_per_training = experiment.training.epochs * (prepared.images.num_train // experiment.training.batch_size)
    wall = cycles * -(-num_packs(pairs, timed.pack_size) // timed.slots) * timed.pack_size * timed.seconds
    wall *= (count.likely - done) / (cycles * len(pairs))
    if done < count.likely:
        wall += count.rounds * EXECUTORS[executor].round_seconds
    together = timed.pack_size if timed.backend == "pack" else 1
    seeds = len(experiment.seeds)
    sizes = _Sizes.of(prepared, at_once=timed.slots * together)
    return Plan(
        name=experiment.name,
        trainings=count.likely,
        trainings_least=count.least,
        trainings_most=count.most,
        trainings_retrain=count.likely + cycles * seeds * together,
        trainings_done=done,
        steps=count.likely * steps_per_training,
        disk_bytes=sizes.fullest(finals=-(-(count.most or count.likely) // cycles)),
        disk_bytes_retrain=sizes.fullest(finals=seeds * together),
        parameters=sum(parameter.numel() for parameter in prepared.network.parameters()),
        steps_per_training=steps_per_training,
        backend=timed.backend,
        device=timed.device,
        slots=timed.slots,
        pack_size=timed.pack_size,
        seconds_per_training=timed.seconds,
        hours=wall / 3600,
    )


def _trials_done(folder: Folder) -> int:
    """Trainings that a folder holds; its experiment has been compared already."""
    return 0 if folder.read("experiment.yaml") is None else int(read_trials(folder).num_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """What decides how full the disk gets."""

    experiment: Experiment
    state: int  # bytes of one network's state
    masks: int  # bytes of one network's masks
    at_once: int  # trainings under way

    @classmethod
    def of(cls, prepared: Prepared, *, at_once: int) -> "_Sizes":
        network = prepared.network
        state = sum(value.numel() * value.element_size() for value in network.state_dict().values())
        masks = sum(mask.numel() for mask in dense_masks(network).values())
        return cls(experiment=prepared.experiment, state=state, masks=masks, at_once=at_once)

    def fullest(self, *, finals: int) -> int:
        """Bytes at the end of the last cycle, or of the first, whose networks come with copies to rewind to.

        `finals`: networks kept until a cycle ends.
        """
        seeds, cycles = len(self.experiment.seeds), self.experiment.pruning.cycles + 1
        masked, rewind = self.state + self.masks, self.state if self.experiment.pruning.rewind_step else 0
        last = cycles * seeds * masked + seeds * rewind + finals * self.state
        first = seeds * (masked + rewind) + finals * (self.state + rewind) + self.at_once * rewind
        remembered = len(OPTIMIZERS[self.experiment.optimizer.name].remembered)
        checkpoints = self.at_once * (1 + remembered) * self.state
        return max(first, last) + seeds * masked + checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What the machine that times a first pack must know."""

    experiment: Experiment
    pairs: tuple[Pair, ...]  # of the first round
    backend: BackendChoice
    threads: bool  # whether slots are threads of this process, not processes on a core each
    slots: int | None
    pack_size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timed:
    """What it chose and found."""

    backend: Backend
    device: str
    slots: int
    pack_size: int  # of the largest pack
    seconds: float  # of one training, its share of a pack


def _timed(prepared: Prepared, launch: Launch) -> _Timed:
    """Time a first pack here, or on a slot of the cluster that the search will join."""
    begun = prepared.begun
    request = _Request(
        experiment=prepared.experiment,
        pairs=prepared.first_round,
        backend=begun.backend if begun else launch.backend,
        threads=not EXECUTORS[launch.executor].joins_clusters,
        slots=launch.slots,
        pack_size=begun.pack_size if begun else launch.pack_size,
    )
    if not launch.is_elsewhere:
        return _time_training(request, prepared.raw, prepared.images)
    cluster = EXECUTORS[launch.executor].make(
        launch, prepared.images, prepared.raw, prepared.backend(default_device().type)
    )
    try:
        timed: _Timed = cluster.call(_time_training, replace(request, slots=cluster.slots), prepared.raw)
        return timed
    finally:
        cluster.close()


def _time_training(request: _Request, raw: RawImages | None, images: Images | None = None) -> _Timed:
    """Time a first pack on this machine, beside others where slots are threads."""
    experiment, device = request.experiment, default_device()
    images = images or load_images(experiment, device, raw)
    [(seed, most)] = Counter(seed for _, seed in request.pairs).most_common(1)
    candidates = [max_lr for max_lr, own in request.pairs if own == seed]
    parent = first_parent(experiment, seed, images)
    network = parent_network(experiment, seed, images, parent)
    backend = backend_of(experiment, network, device.type, request.backend)
    slots = request.slots
    if slots is None:
        cores = torch.get_num_threads() if device.type == "cpu" else 1
        slots = default_slots(backend, device.type) if request.threads else cores
    size = request.pack_size or fair_pack_size(request.pairs, slots, backend, device.type)
    size = -(-most // -(-most // size))  # of the largest pack, as they are dealt out
    first = FirstPack(
        experiment=experiment,
        images=images,
        seed=seed,
        parent=parent,
        candidates=tuple(candidates[: size if backend == "pack" else 1]),
        backend=backend,
        device=device,
    )
    side_by_side = min(slots, num_packs(request.pairs, size)) if request.threads else 1
    seconds = time_training(first, slots=side_by_side)
    return _Timed(backend=backend, device=device.type, slots=slots, pack_size=size, seconds=seconds)
