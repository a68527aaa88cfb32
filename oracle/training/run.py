"""Training candidates from their parents: from the experiment's words to trial rows and final states.

Axes: C candidates.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from oracle.data import load_images
from oracle.data.images import Images
from oracle.errors import ExperimentError
from oracle.experiment import Experiment
from oracle.training.backends import Backend, backend_of, check_backend, default_device, make_trainer
from oracle.training.checks import check_rewind_step
from oracle.training.loop import SCORES, BestSoFar, Trainer, is_complete, train_candidates
from oracle.training.parents import Parent, first_parent, parent_network
from oracle.training.schedules import learning_rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a training needs to go on after an epoch. Its tensors are the training's own: write them before it goes on."""

    trainer: Mapping[str, Tensor]  # Trainer.state()
    best: BestSoFar
    seconds: float  # spent so far, on all candidates together


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Candidates that were trained to the end."""

    rows: list[dict[str, Any]]  # one a candidate, see `trial_rows`
    states: dict[str, Float[Tensor, "C ..."]]  # final state dicts
    # State dicts after rewind_step steps of cycle 0; empty where they were not asked for.
    rewind: dict[str, Float[Tensor, "C ..."]]


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
    `oracle.runs.tables.TRIALS` that training knows) and final state dicts by (seed, max_lr), on the CPU.
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
        chosen = backend_of(experiment, network, device.type, backend)
        for group in [list(candidates)] if chosen == "pack" else [[max_lr] for max_lr in candidates]:
            trained = train_group(
                experiment, images, parent, cycle=cycle, seed=seed, candidates=group, backend=chosen, device=device
            )
            assert isinstance(trained, Trained)  # nobody cancels it
            rows += trained.rows
            for index, max_lr in enumerate(group):
                states[seed, max_lr] = {name: value[index].cpu() for name, value in trained.states.items()}
    return rows, states


def train_group(
    experiment: Experiment,
    images: Images,
    parent: Parent,
    *,
    cycle: int,
    seed: int,
    candidates: Sequence[float],
    backend: Backend,
    device: torch.device,
    resume: Checkpoint | None = None,
    after_epoch: Callable[[int, Callable[[], Checkpoint]], None] = lambda epochs_done, checkpoint: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Trained | Checkpoint:
    """Train candidates side by side from one parent; `plain` takes one candidate. A checkpoint where it was cancelled.

    `resume`: the checkpoint of an earlier call with the same arguments, to go on from; it is used up.
    `after_epoch` is told after every epoch how many are done; the function it gets beside makes a checkpoint of now.
    `cancelled` is asked before every epoch. A training that is complete gives its rows, even if cancelled meanwhile.
    """
    trainer = make_trainer(
        backend, experiment, seed, images, parent, device, num_candidates=len(candidates), cycle=cycle
    )
    if resume is not None:
        trainer.restore({name: value.to(device) for name, value in resume.trainer.items()})
    seconds_before = resume.seconds if resume else 0.0
    started = time.perf_counter()

    def seconds() -> float:
        return seconds_before + time.perf_counter() - started

    def checkpoint(best: BestSoFar) -> Checkpoint:
        return Checkpoint(trainer=trainer.state(), best=best, seconds=seconds())

    best = run_trainer(
        trainer,
        experiment,
        images,
        cycle=cycle,
        seed=seed,
        candidates=candidates,
        best=resume.best if resume else None,
        after_epoch=lambda best: after_epoch(best.epochs_done, lambda: checkpoint(best)),
        cancelled=cancelled,
        device=device,
    )
    if not is_complete(best, experiment.training.epochs):
        return checkpoint(best)
    rows = trial_rows(
        best, images, cycle=cycle, seed=seed, candidates=candidates, parent=parent, seconds=seconds() / len(candidates)
    )
    return Trained(rows=rows, states=trainer.states(), rewind=best.rewind)


def check_resumable(
    checkpoint: Checkpoint,
    experiment: Experiment,
    images: Images,
    parent: Parent,
    *,
    seed: int,
    num_candidates: int,
    backend: Backend,
    device: torch.device,
) -> None:
    """ValueError where `train_group` could not go on from a checkpoint: its tensors are not those of such a training."""
    trainer = make_trainer(backend, experiment, seed, images, parent, device, num_candidates=num_candidates)
    for batch in images.epoch((seed, 0, 0), experiment.training.batch_size):
        trainer.step(batch, torch.zeros(num_candidates, device=device))  # an optimiser remembers from its first step on
        break
    own, best = trainer.state(), BestSoFar.none(num_candidates, images.num_validation, images.num_test)
    found, expected = ({name: _form(value) for name, value in state.items()} for state in (checkpoint.trainer, own))
    wrong = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
    wrong += [name for name in SCORES if _form(getattr(checkpoint.best, name)) != _form(getattr(best, name))]
    rewind = checkpoint.best.rewind
    states = {name: _form(value) for name, value in trainer.states().items()}
    wrong += ["rewind"] if rewind and {name: _form(value) for name, value in rewind.items()} != states else []
    if wrong:
        raise ValueError(f"the tensors {', '.join(sorted(wrong)[:3])} are missing, unknown or of another shape")


def _form(value: Tensor) -> tuple[torch.Size, torch.dtype]:
    return value.shape, value.dtype


def run_trainer(
    trainer: Trainer,
    experiment: Experiment,
    images: Images,
    *,
    cycle: int,
    seed: int,
    candidates: Sequence[float],
    best: BestSoFar | None = None,
    after_epoch: Callable[[BestSoFar], None] = lambda best: None,
    cancelled: Callable[[], bool] = lambda: False,
    device: torch.device | None = None,
) -> BestSoFar:
    """Train `trainer`'s candidates, at these peaks, as the experiment says; go on from `best` if given."""
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
        best=best,
        after_epoch=after_epoch,
        cancelled=cancelled,
    )


def trial_rows(
    best: BestSoFar,
    images: Images,
    *,
    cycle: int,
    seed: int,
    candidates: Sequence[float],
    parent: Parent,
    seconds: float,
) -> list[dict[str, Any]]:
    """One row a candidate, as `oracle.runs.tables.TRIALS` names them; `seconds`: of one candidate."""
    rows = []
    for index, max_lr in enumerate(candidates):
        row: dict[str, Any] = {
            "cycle": cycle,
            "seed": seed,
            "max_lr": float(max_lr),
            "outcome": "finished" if best.alive[index] else "diverged",
            "weights_remaining": parent.weights_remaining,
            "seconds": seconds,
        }
        scored = ("val_accuracy", "val_loss", "test_accuracy", "best_epoch", "val_correct", "test_correct")
        row |= dict.fromkeys(scored)
        if best.alive[index]:
            validated, tested = best.val_correct[index], best.test_correct[index]
            row["val_accuracy"] = int(validated.sum()) / images.num_validation
            row["val_loss"] = float(best.val_loss[index])
            row["test_accuracy"] = int(tested.sum()) / images.num_test
            row["best_epoch"] = int(best.best_epoch[index])
            row["val_correct"] = np.packbits(validated.numpy()).tobytes()
            row["test_correct"] = np.packbits(tested.numpy()).tobytes()
        rows.append(row)
    return rows
