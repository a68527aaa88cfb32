"""One training of one or more candidates, from a parent to its scores.

Axes: C candidates, T optimiser steps, V validation images. A `Trainer` knows how a step is done: for one candidate in
plain PyTorch (plain.py), or for a pack at once (packs.py). What is trained, in which order and how it is scored stands
here, once for both.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oracle.data.images import Batch, Images

DIVERGED_LOSS = 1000.0  # times ln K, the loss of guessing among K classes: no training comes back from there


class Trainer(Protocol):
    """C candidates that share network, masks and batches."""

    num_candidates: int

    def step(self, batch: Batch, rates: Float[Tensor, "C"]) -> Float[Tensor, "C"]:
        """One optimiser step, each candidate at its own rate. Returns the mean loss of the batch before the step."""

    def score(self, batch: Batch) -> tuple[Bool[Tensor, "C B"], Float[Tensor, "C"]]:
        """Which images are classified correctly, and the summed loss, in evaluation mode."""

    def weights(self) -> dict[str, Float[Tensor, "C ..."]]:
        """A copy of every candidate's state dict, stacked."""

    def state(self) -> dict[str, Tensor]:
        """All that a resumed training needs: weights and what the optimiser remembers (its own tensors, not copies)."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""


@dataclass(slots=True, kw_only=True)
class Scores:
    """What is known of each candidate after `epochs_done` epochs. On the CPU, and all that a checkpoint holds of it."""

    epochs_done: int
    alive: Bool[Tensor, "C"]  # not diverged
    best_epoch: Int[Tensor, "C"]  # the earliest with the most correct validation images; -1: none yet
    val_loss: Float[Tensor, "C"]  # mean, at the best epoch
    val_correct: Bool[Tensor, "C V"]  # at the best epoch
    test_accuracy: Float[Tensor, "C"]  # at the best epoch
    rewind: dict[str, Float[Tensor, "C ..."]]  # the weights after `rewind_step` steps, where they were asked for

    @classmethod
    def none(cls, num_candidates: int, num_validation: int) -> "Scores":
        """Before the first epoch."""
        return cls(
            epochs_done=0,
            alive=torch.ones(num_candidates, dtype=torch.bool),
            best_epoch=torch.full((num_candidates,), -1),
            val_loss=torch.full((num_candidates,), math.inf, dtype=torch.float64),
            val_correct=torch.zeros(num_candidates, num_validation, dtype=torch.bool),
            test_accuracy=torch.zeros(num_candidates, dtype=torch.float64),
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
    scores: Scores | None = None,
    after_epoch: Callable[[Scores], None] = lambda scores: None,
) -> Scores:
    """Train to the end, scoring after every epoch; go on from `scores` where the trainer was restored.

    `key`: (seed, cycle), which with the epoch decides batches and augmentation. A candidate has diverged once a loss is
    not finite or above DIVERGED_LOSS x ln K; the others are not touched by it. Training ends early only when all have.
    """
    scores = scores or Scores.none(trainer.num_candidates, images.num_validation)
    limit = DIVERGED_LOSS * math.log(images.num_classes)
    alive = scores.alive.to(rates.device)
    step = scores.epochs_done * (images.num_train // batch_size)
    while scores.epochs_done < epochs and bool(alive.any()):
        for batch in images.epoch((*key, scores.epochs_done), batch_size):
            losses = trainer.step(batch, rates[:, step])
            alive = alive & (losses < limit)  # false for NaN
            step += 1
            if step == rewind_step:
                scores.rewind = trainer.weights()
        scores.alive = alive.cpu()
        _score(trainer, images, scores)
        alive = scores.alive.to(rates.device)
        scores.epochs_done += 1
        after_epoch(scores)
    return scores


def _score(trainer: Trainer, images: Images, scores: Scores) -> None:
    """Evaluate, and take over what is the best epoch so far; the test set is looked at only then."""
    parts = [trainer.score(batch) for batch in images.validation()]
    correct = torch.cat([part for part, _ in parts], dim=1).cpu()
    loss = torch.stack([part for _, part in parts]).sum(0).double().cpu() / images.num_validation
    scores.alive &= loss < DIVERGED_LOSS * math.log(images.num_classes)  # false for NaN
    better = scores.alive & ((correct.sum(1) > scores.val_correct.sum(1)) | (scores.best_epoch < 0))
    if not better.any():
        return
    tested = torch.cat([trainer.score(batch)[0] for batch in images.test()], dim=1).cpu()
    scores.best_epoch[better] = scores.epochs_done
    scores.val_loss[better] = loss[better]
    scores.val_correct[better] = correct[better]
    scores.test_accuracy[better] = tested[better].double().mean(1)
