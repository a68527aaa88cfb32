"""What a search will cost, before anything is launched."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from oracle.chain import check_experiment, fair_pack_size
from oracle.data import load_images
from oracle.data.images import Images
from oracle.experiment import Experiment
from oracle.local import default_slots
from oracle.training import Backend, choose_backend, default_device, make_trainer
from oracle.training.parents import first_parent, parent_network

RAY_CYCLE_SECONDS = 6.0  # a fit's fixed cost on two cores: actors start, torch is imported
TIMED_SECONDS = 3.0  # of steps, after the first ones
TIMED_STEPS = 200  # at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cost of a search. Hours and disk are estimates; `grid.extend` may add to all of it."""

    name: str
    trainings: int  # with carry: keep
    trainings_retrain: int  # with carry: retrain
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
    hours: float  # wall clock, on these slots


def plan(
    experiment: Experiment,
    *,
    executor: Literal["ray", "local"] = "ray",
    slots: int | None = None,
    backend: Literal["auto", "plain", "pack"] = "auto",
    pack_size: int | None = None,
) -> Plan:
    """Count what `run_oracle` will do, and time a few steps of the first pack on this machine's device.

    `slots`: packs at a time; the cores or the one GPU of this machine by default. Raises what `run_oracle` refuses.
    """
    device = default_device()
    images = load_images(experiment, device)
    check_experiment(experiment, images)
    parent = first_parent(experiment, experiment.seeds[0], images)
    network = parent_network(experiment, experiment.seeds[0], images, parent)
    chosen = choose_backend(network, device.type) if backend == "auto" else backend
    if slots is None:
        cores = torch.get_num_threads() if device.type == "cpu" else 1
        slots = cores if executor == "ray" else default_slots(chosen, device.type)
    seeds, cycles = len(experiment.seeds), experiment.pruning.cycles + 1
    candidates = experiment.candidates(0)
    size = pack_size or fair_pack_size(len(candidates), seeds, slots, chosen, device.type)
    steps_per_training = experiment.training.epochs * (images.num_train // experiment.training.batch_size)
    together = size if chosen == "pack" else 1
    state_bytes = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    masks_bytes = sum(mask.numel() for mask in parent.masks.values())
    kept = cycles * seeds * (state_bytes + masks_bytes)  # the winners
    seconds = _seconds_per_training(experiment, images, chosen, device, candidates[:together], steps_per_training)
    rounds = -(-seeds * -(-len(candidates) // size) // slots)  # packs in a row on the busiest slot
    wall = cycles * (rounds * size * seconds + (RAY_CYCLE_SECONDS if executor == "ray" else 0.0))
    return Plan(
        name=experiment.name,
        trainings=experiment.num_trainings,
        trainings_retrain=experiment.num_trainings + cycles * seeds * together,
        steps=experiment.num_trainings * steps_per_training,
        disk_bytes=kept + len(candidates) * seeds * state_bytes,
        disk_bytes_retrain=kept + seeds * together * state_bytes,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        steps_per_training=steps_per_training,
        backend=chosen,
        device=device.type,
        slots=slots,
        pack_size=size,
        seconds_per_training=seconds,
        hours=wall / 3600,
    )


def _seconds_per_training(
    experiment: Experiment,
    images: Images,
    backend: Backend,
    device: torch.device,
    candidates: Sequence[float],
    steps: int,
) -> float:
    """Time steps and one evaluation of a first pack; one candidate's share of a whole training."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a search
    try:
        seed = experiment.seeds[0]
        parent = first_parent(experiment, seed, images)
        trainer = make_trainer(backend, experiment, seed, images, parent, device, num_candidates=len(candidates))
        rates = torch.full((len(candidates),), min(candidates), device=device)
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
        return (steps * a_step + experiment.training.epochs * scoring) / len(candidates)
    finally:
        torch.set_num_threads(threads)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
