"""One training of one or more candidates, from a parent to its scores.

Axes: C candidates, T optimiser steps, V validation images, E test images. A `Trainer` knows how a step is done: for one
candidate in plain PyTorch (plain.py), or for a pack at once (packs.py). What is trained, in which order and how it is
scored stands here, once for both.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oracle.data.images import Batch, Images

DIVERGED_LOSS_FACTOR = 1000.0  # of ln K, the loss of guessing among K classes: no training comes back from beyond


class Trainer(Protocol):
    """C candidates that share network, masks and batches."""

    num_candidates: int

    def step(self, batch: Batch, rates: Float[Tensor, "C"]) -> Float[Tensor, "C"]:
        """One optimiser step, each candidate at its own rate. Returns the mean loss of the batch before the step."""

    def score(self, batch: Batch) -> tuple[Bool[Tensor, "C B"], Float[Tensor, "C"]]:
        """Which images are classified correctly, and the summed loss, in evaluation mode."""

    def states(self) -> dict[str, Float[Tensor, "C ..."]]:
        """A copy of every candidate's state dict, stacked."""

    def state(self) -> dict[str, Tensor]:
        """All that a resumed training needs: states and what the optimiser remembers (its own tensors, not copies)."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""


SCORES = ("alive", "best_epoch", "val_loss", "val_correct", "test_correct")  # of BestSoFar: a tensor each


@dataclass(slots=True, kw_only=True)
class BestSoFar:
    """What is known of each candidate after `epochs_done` epochs. On the CPU, but for `rewind`."""

    epochs_done: int
    alive: Bool[Tensor, "C"]  # not diverged
    best_epoch: Int[Tensor, "C"]  # the earliest with the most correct validation images; -1: none yet
    val_loss: Float[Tensor, "C"]  # mean, at the best epoch
    val_correct: Bool[Tensor, "C V"]  # at the best epoch
    test_correct: Bool[Tensor, "C E"]  # at the best epoch
    rewind: dict[str, Float[Tensor, "C ..."]]  # the states after `rewind_step` steps, where they were asked for

    @classmethod
    def none(cls, num_candidates: int, num_validation: int, num_test: int) -> "BestSoFar":
        """Before the first epoch."""
        return cls(
            epochs_done=0,
            alive=torch.ones(num_candidates, dtype=torch.bool),
            best_epoch=torch.full((num_candidates,), -1),
            val_loss=torch.full((num_candidates,), math.inf, dtype=torch.float64),
            val_correct=torch.zeros(num_candidates, num_validation, dtype=torch.bool),
            test_correct=torch.zeros(num_candidates, num_test, dtype=torch.bool),
            rewind={},
        )


def train_candidates(
    trainer: Trainer,
    images: Images,
    rates: Float[Tensor, "C T"],
    *,
    key: tuple[int, int],
    epochs: int,
    batch_size: int,
    rewind_step: int = 0,
    best: BestSoFar | None = None,
    after_epoch: Callable[[BestSoFar], None] = lambda best: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> BestSoFar:
    """Train to the end, scoring after every epoch; go on from `best` where the trainer was restored.

    `key`: (seed, cycle), which with the epoch decides batches and augmentation. A candidate has diverged once a loss is
    not finite or above DIVERGED_LOSS_FACTOR x ln K; the others are not touched by it. Training ends early only when all
    have, or when `cancelled`, which is asked before every epoch, says so: `is_complete` tells these apart.
    """
    best = best or BestSoFar.none(trainer.num_candidates, images.num_validation, images.num_test)
    limit = DIVERGED_LOSS_FACTOR * math.log(images.num_classes)
    alive = best.alive.to(rates.device)
    step = best.epochs_done * (images.num_train // batch_size)
    while not (is_complete(best, epochs) or cancelled()):
        for batch in images.epoch((*key, best.epochs_done), batch_size):
            losses = trainer.step(batch, rates[:, step])
            alive = alive & (losses < limit)  # false for NaN
            step += 1
            if step == rewind_step:
                best.rewind = trainer.states()
        best.alive = alive.cpu()
        _score(trainer, images, best)
        alive = best.alive.to(rates.device)
        best.epochs_done += 1
        after_epoch(best)
    return best


def is_complete(best: BestSoFar, epochs: int) -> bool:
    """Whether nothing is left to train: all epochs are done, or all candidates have diverged."""
    return best.epochs_done >= epochs or not best.alive.any()


def _score(trainer: Trainer, images: Images, best: BestSoFar) -> None:
    """Evaluate, and take over what is the best epoch so far; the test set is looked at only then."""
    parts = [trainer.score(batch) for batch in images.validation()]
    correct = torch.cat([part for part, _ in parts], dim=1).cpu()
    loss = torch.stack([part for _, part in parts]).sum(0).double().cpu() / images.num_validation
    best.alive &= loss < DIVERGED_LOSS_FACTOR * math.log(images.num_classes)  # false for NaN
    better = best.alive & ((correct.sum(1) > best.val_correct.sum(1)) | (best.best_epoch < 0))
    if not better.any():
        return
    tested = torch.cat([trainer.score(batch)[0] for batch in images.test()], dim=1).cpu()
    best.best_epoch[better] = best.epochs_done
    best.val_loss[better] = loss[better]
    best.val_correct[better] = correct[better]
    best.test_correct[better] = tested[better]
