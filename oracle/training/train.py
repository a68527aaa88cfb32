"""Training candidates from their parents: the loop, its plain and its packed trainer, schedules, optimisers."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from oracle.data import load_images
from oracle.data.images import Images
from oracle.errors import ExperimentError
from oracle.experiment import Experiment
from oracle.training.loop import Scores, Trainer, train_candidates
from oracle.training.packs import PackTrainer
from oracle.training.parents import Parent, first_parent, parent_network
from oracle.training.plain import PlainTrainer
from oracle.training.schedules import learning_rates

Backend = Literal["plain", "pack"]
SMALL_NETWORK = 50_000  # parameters: below, a CPU step of one network is mostly overhead, which a pack shares


def train(
    experiment: Experiment,
    *,
    cycle: int,
    candidates: Sequence[float],
    parents: Mapping[int, Parent] | None = None,
    backend: Literal["auto", "plain", "pack"] = "auto",
    images: Images | None = None,
    device: torch.device | None = None,
) -> tuple[list[dict[str, Any]], dict[tuple[int, float], dict[str, Tensor]]]:
    """Train every candidate from every parent, here and now: no files, no Ray.

    `parents`: by seed; None for the dense networks of all the experiment's seeds. Returns trial rows (the columns of
    `oracle.records.TRIALS` that training knows) and final state dicts by (seed, max_lr), on the CPU.
    """
    check_backend(backend)
    if len(candidates) == 0:
        raise ExperimentError("candidates: expected at least one max_lr, found none")
    device = device or default_device()
    images = images or load_images(experiment, device)
    if parents is None:
        parents = {seed: first_parent(experiment, seed, images) for seed in experiment.seeds}
    rows: list[dict[str, Any]] = []
    states: dict[tuple[int, float], dict[str, Tensor]] = {}
    for seed, parent in parents.items():
        network = parent_network(experiment, seed, images, parent)
        chosen = choose_backend(network, device.type) if backend == "auto" else backend
        for group in [list(candidates)] if chosen == "pack" else [[max_lr] for max_lr in candidates]:
            trainer = make_trainer(chosen, experiment, seed, images, parent, device, num_candidates=len(group))
            started = time.perf_counter()
            scores = run_trainer(trainer, experiment, images, cycle=cycle, seed=seed, candidates=group, device=device)
            seconds = (time.perf_counter() - started) / len(group)
            rows += trial_rows(scores, images, cycle=cycle, seed=seed, candidates=group, parent=parent, seconds=seconds)
            for index, max_lr in enumerate(group):
                states[seed, max_lr] = {name: value[index].cpu() for name, value in trainer.weights().items()}
    return rows, states


def check_backend(backend: str) -> None:
    """Raises ExperimentError for what is none."""
    if backend not in ("auto", *get_args(Backend)):
        raise ExperimentError(f"backend: expected one of auto, {', '.join(get_args(Backend))}, found {backend!r}")


def default_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_backend(network: nn.Module, device: str) -> Backend:
    """Packs on a GPU, and on a CPU for small networks without convolutions; else one candidate after another."""
    small = sum(parameter.numel() for parameter in network.parameters()) <= SMALL_NETWORK
    convolutional = any(isinstance(module, nn.Conv2d) for module in network.modules())
    return "pack" if device == "cuda" or (small and not convolutional) else "plain"


def make_trainer(
    backend: Backend,
    experiment: Experiment,
    seed: int,
    images: Images,
    parent: Parent,
    device: torch.device,
    *,
    num_candidates: int,
) -> Trainer:
    """A trainer whose candidates all stand at the parent."""
    network = parent_network(experiment, seed, images, parent)
    if backend == "plain":
        assert num_candidates == 1
        return PlainTrainer(network, parent.masks, experiment, device)
    return PackTrainer(network, parent.masks, experiment, device, num_candidates)


def run_trainer(
    trainer: Trainer,
    experiment: Experiment,
    images: Images,
    *,
    cycle: int,
    seed: int,
    candidates: Sequence[float],
    scores: Scores | None = None,
    after_epoch: Callable[[Scores], None] = lambda scores: None,
    device: torch.device | None = None,
) -> Scores:
    """Train `trainer`'s candidates, at these peaks, as the experiment says; go on from `scores` if given."""
    training = experiment.training
    steps_per_epoch = images.num_train // training.batch_size
    check_rewind_step(experiment, steps_per_epoch)
    rates = np.stack(
        [
            learning_rates(experiment.schedule, max_lr=max_lr, epochs=training.epochs, steps_per_epoch=steps_per_epoch)
            for max_lr in candidates
        ]
    )
    return train_candidates(
        trainer,
        images,
        torch.tensor(rates, device=device),
        key=(seed, cycle),
        epochs=training.epochs,
        batch_size=training.batch_size,
        rewind_step=experiment.pruning.rewind_step if cycle == 0 else 0,
        scores=scores,
        after_epoch=after_epoch,
    )


def check_rewind_step(experiment: Experiment, steps_per_epoch: int) -> None:
    """Raises ExperimentError where the training ends before the step that survivors go back to."""
    steps = experiment.training.epochs * steps_per_epoch
    if experiment.pruning.rewind_step > steps:
        raise ExperimentError(
            f"pruning.rewind_step: found {experiment.pruning.rewind_step}, but a training has only {steps} steps"
        )


def trial_rows(
    scores: Scores,
    images: Images,
    *,
    cycle: int,
    seed: int,
    candidates: Sequence[float],
    parent: Parent,
    seconds: float,
) -> list[dict[str, Any]]:
    """One row a candidate, as `oracle.records.TRIALS` names them; `seconds`: of one candidate."""
    rows = []
    for index, max_lr in enumerate(candidates):
        row: dict[str, Any] = {
            "cycle": cycle,
            "seed": seed,
            "max_lr": float(max_lr),
            "outcome": "finished" if scores.alive[index] else "diverged",
            "weights_remaining": parent.weights_remaining,
            "seconds": seconds,
        }
        scored = ("val_accuracy", "val_loss", "test_accuracy", "best_epoch", "val_correct")
        row |= dict.fromkeys(scored)
        if scores.alive[index]:
            correct = scores.val_correct[index]
            row["val_accuracy"] = int(correct.sum()) / images.num_validation
            row["val_loss"] = float(scores.val_loss[index])
            row["test_accuracy"] = float(scores.test_accuracy[index])
            row["best_epoch"] = int(scores.best_epoch[index])
            row["val_correct"] = np.packbits(correct.numpy()).tobytes()
        rows.append(row)
    return rows
