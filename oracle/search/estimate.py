"""What a search will cost, before anything is launched."""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from oracle.data import load_images, read_whole
from oracle.data.images import Images
from oracle.data.sources import RawImages
from oracle.execution.local import default_slots
from oracle.experiment import Experiment
from oracle.runs.tables import read_trials
from oracle.search.chain import fair_pack_size
from oracle.search.preflight import check_experiment, check_flags, check_folder, check_settings, pinned, read_settings
from oracle.storage import Folder
from oracle.training.parents import first_parent, parent_network
from oracle.training.train import Backend, choose_backend, default_device, make_trainer

RAY_CYCLE_SECONDS = 6.0  # a fit's fixed cost on two cores: actors start, torch is imported
TIMED_SECONDS = 3.0  # of steps, after the first ones
TIMED_STEPS = 200  # at most
OPTIMIZER_COPIES = {"sgd": 1, "adam": 2, "rmsprop": 2}  # numbers that it keeps for each weight, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cost of a search. Hours and disk are estimates; `grid.extend` may add to all of it."""

    name: str
    trainings: int  # with carry: keep
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
    executor: Literal["ray", "local"] = "ray",
    address: str | None = None,
    slots: int | None = None,
    backend: Literal["auto", "plain", "pack"] = "auto",
    pack_size: int | None = None,
    out: str | Path | None = None,
) -> Plan:
    """Count what `run_oracle` will do, and time a few steps of the first pack: here, or on a slot of a Ray cluster.

    `slots`: packs at a time; by default the cores or the one GPU of this machine, or all of the cluster at `address`.
    `out`: the run's folder, whose finished trainings take no more time. Raises what `run_oracle` refuses.
    """
    check_flags(executor=executor, address=address, backend=backend, slots=slots, pack_size=pack_size)
    experiment = pinned(experiment)
    raw = read_whole(experiment.data)
    images = load_images(experiment, default_device(), raw)
    check_experiment(experiment, images)
    folder = None if out is None else Folder(out)
    done = 0 if folder is None else _done(experiment, folder)
    begun = None if folder is None else read_settings(folder)
    first = _Pack(
        experiment=experiment,
        backend=begun.backend if begun else backend,
        executor=executor,
        slots=slots,
        pack_size=begun.pack_size if begun else pack_size,
    )
    if executor == "ray" and address not in {None, "local"}:
        from oracle.execution.ray_tune import RayExecutor

        cluster = RayExecutor(address=address, slots=slots)
        try:
            first = replace(first, slots=cluster.slots)
            timed = cluster.call(_time_training, first, raw)
        finally:
            cluster.close()
    else:
        timed = _time_training(first, raw, images)
    if folder is not None and begun is not None:
        check_settings(folder, begun, backend=backend, device=timed.device, pack_size=pack_size)
    seeds, cycles = len(experiment.seeds), experiment.pruning.cycles + 1
    num_candidates, trainings = len(experiment.candidates(0)), experiment.num_trainings
    steps_per_training = experiment.training.epochs * (images.num_train // experiment.training.batch_size)
    packs = seeds * -(-num_candidates // timed.pack_size)
    wall = cycles * -(-packs // timed.slots) * timed.pack_size * timed.seconds * (1 - done / trainings)
    if executor == "ray" and done < trainings:
        wall += cycles * RAY_CYCLE_SECONDS
    together = timed.pack_size if timed.backend == "pack" else 1
    parent = first_parent(experiment, experiment.seeds[0], images)
    network = parent_network(experiment, experiment.seeds[0], images, parent)
    state: int = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    fullest = partial(
        _fullest,
        experiment,
        state=state,
        masks=sum(mask.numel() for mask in parent.masks.values()),
        at_once=timed.slots * together,
    )
    return Plan(
        name=experiment.name,
        trainings=trainings,
        trainings_retrain=trainings + cycles * seeds * together,
        trainings_done=done,
        steps=trainings * steps_per_training,
        disk_bytes=fullest(finals=num_candidates * seeds),
        disk_bytes_retrain=fullest(finals=seeds * together),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        steps_per_training=steps_per_training,
        backend=timed.backend,
        device=timed.device,
        slots=timed.slots,
        pack_size=timed.pack_size,
        seconds_per_training=timed.seconds,
        hours=wall / 3600,
    )


def _fullest(experiment: Experiment, *, state: int, masks: int, at_once: int, finals: int) -> int:
    """Bytes at the end of the last cycle, or of the first, whose networks come with copies to rewind to.

    `state`, `masks`: bytes of one network's; `at_once`: trainings under way; `finals`: networks kept until a cycle ends.
    """
    seeds, cycles = len(experiment.seeds), experiment.pruning.cycles + 1
    masked, rewind = state + masks, state if experiment.pruning.rewind_step else 0
    last = cycles * seeds * masked + seeds * rewind + finals * state
    first = seeds * (masked + rewind) + finals * (state + rewind) + at_once * rewind
    checkpoints = at_once * (1 + OPTIMIZER_COPIES[experiment.optimizer.name]) * state
    return max(first, last) + seeds * masked + checkpoints


def _done(experiment: Experiment, folder: Folder) -> int:
    """Trainings of the experiment that a folder holds; FolderError where it holds another experiment's."""
    check_folder(folder, experiment)
    if folder.read("experiment.yaml") is None:
        return 0
    return min(int(read_trials(folder).num_rows), experiment.num_trainings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pack:
    """What the machine that times a first pack must know."""

    experiment: Experiment
    backend: Literal["auto", "plain", "pack"]
    executor: Literal["ray", "local"]
    slots: int | None
    pack_size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timed:
    """What it chose and found."""

    backend: Backend
    device: str
    slots: int
    pack_size: int  # of the largest pack
    seconds: float  # of one training, in its pack


def _time_training(pack: _Pack, raw: RawImages | None, images: Images | None = None) -> _Timed:
    """Time steps and one evaluation of a first pack on this machine; one candidate's share of a whole training."""
    experiment, device = pack.experiment, default_device()
    images = images or load_images(experiment, device, raw)
    seed, candidates = experiment.seeds[0], experiment.candidates(0)
    parent = first_parent(experiment, seed, images)
    network = parent_network(experiment, seed, images, parent)
    backend = choose_backend(network, device.type) if pack.backend == "auto" else pack.backend
    slots = pack.slots
    if slots is None:
        cores = torch.get_num_threads() if device.type == "cpu" else 1
        slots = cores if pack.executor == "ray" else default_slots(backend, device.type)
    size = pack.pack_size or fair_pack_size(len(candidates), len(experiment.seeds), slots, backend, device.type)
    size = -(-len(candidates) // -(-len(candidates) // size))  # of the largest pack, as they are dealt out
    together = candidates[: size if backend == "pack" else 1]
    steps = experiment.training.epochs * (images.num_train // experiment.training.batch_size)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a search
    try:
        trainer = make_trainer(backend, experiment, seed, images, parent, device, num_candidates=len(together))
        rates = torch.full((len(together),), min(together), device=device)
        batches = images.epoch((seed, 0, 0), experiment.training.batch_size)
        for batch in [next(batches)] * 2:
            trainer.step(batch, rates)  # traces and warms up
        done, started = 0, _now(device)
        for batch in batches:
            trainer.step(batch, rates)
            done += 1
            if done >= TIMED_STEPS or _now(device) - started > TIMED_SECONDS:
                break
        a_step = (_now(device) - started) / max(1, done)
        for batch in images.validation():
            trainer.score(batch)  # traces
            break
        started = _now(device)
        for batch in images.validation():
            trainer.score(batch)
        scoring = 2 * (_now(device) - started)  # the test set as well, at the epochs that improve
    finally:
        torch.set_num_threads(threads)
    seconds = (steps * a_step + experiment.training.epochs * scoring) / len(together)
    return _Timed(backend=backend, device=device.type, slots=slots, pack_size=size, seconds=seconds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
