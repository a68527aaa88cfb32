"""Optimisers over stacked parameters: one update for all candidates of a pack, each at its own learning rate.

Axes: C candidates lead every tensor. The updates are those of torch.optim (SGD, Adam, RMSprop), which the plain trainer
uses; a test holds the two against each other in float64.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oracle.experiment import Adam, Rmsprop, Sgd

Stacked = list[Float[Tensor, "C ..."]]
# parameters, gradients (may be overwritten), memory, learning rates shaped to broadcast, settings, step from 1
Update = Callable[[Stacked, Stacked, Mapping[str, Stacked], Stacked, Any, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An optimiser, in its two forms: they do the same, up to rounding."""

    make: Callable[[Any, Sequence[nn.Parameter]], torch.optim.Optimizer]  # from settings; lr is set before every step
    update: Update
    remembered: tuple[str, ...]  # what `update` keeps from step to step: so many numbers for each weight


def _make_sgd(settings: Sgd, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters, lr=0.0, momentum=settings.momentum, weight_decay=settings.weight_decay, foreach=True
    )


def _sgd(
    params: Stacked, grads: Stacked, memory: Mapping[str, Stacked], rates: Stacked, settings: Sgd, step: int
) -> None:
    torch._foreach_add_(grads, params, alpha=settings.weight_decay)
    torch._foreach_mul_(memory["momentum"], settings.momentum)
    torch._foreach_add_(memory["momentum"], grads)
    torch._foreach_sub_(params, torch._foreach_mul(memory["momentum"], rates))


def _make_adam(settings: Adam, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(
        parameters, lr=0.0, betas=settings.betas, eps=settings.epsilon, weight_decay=settings.weight_decay, foreach=True
    )


def _adam(
    params: Stacked, grads: Stacked, memory: Mapping[str, Stacked], rates: Stacked, settings: Adam, step: int
) -> None:
    torch._foreach_add_(grads, params, alpha=settings.weight_decay)
    torch._foreach_lerp_(memory["mean"], grads, 1 - settings.betas[0])
    torch._foreach_mul_(memory["square"], settings.betas[1])
    torch._foreach_addcmul_(memory["square"], grads, grads, 1 - settings.betas[1])
    spread = torch._foreach_sqrt(memory["square"])
    torch._foreach_div_(spread, math.sqrt(1 - settings.betas[1] ** step))
    torch._foreach_add_(spread, settings.epsilon)
    moves = torch._foreach_div(memory["mean"], spread)
    torch._foreach_div_(moves, 1 - settings.betas[0] ** step)
    torch._foreach_sub_(params, torch._foreach_mul(moves, rates))


def _make_rmsprop(settings: Rmsprop, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(
        parameters,
        lr=0.0,
        alpha=settings.alpha,
        eps=settings.epsilon,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        foreach=True,
    )


def _rmsprop(
    params: Stacked, grads: Stacked, memory: Mapping[str, Stacked], rates: Stacked, settings: Rmsprop, step: int
) -> None:
    torch._foreach_add_(grads, params, alpha=settings.weight_decay)
    torch._foreach_mul_(memory["square"], settings.alpha)
    torch._foreach_addcmul_(memory["square"], grads, grads, 1 - settings.alpha)
    spread = torch._foreach_sqrt(memory["square"])
    torch._foreach_add_(spread, settings.epsilon)
    moves = torch._foreach_div(grads, spread)
    if settings.momentum:
        torch._foreach_mul_(memory["momentum"], settings.momentum)
        torch._foreach_add_(memory["momentum"], moves)
        moves = tuple(memory["momentum"])
    torch._foreach_sub_(params, torch._foreach_mul(moves, rates))


OPTIMIZERS: Mapping[str, Kind] = {  # by the `name` of the settings, see `oracle.experiment`
    "sgd": Kind(make=_make_sgd, update=_sgd, remembered=("momentum",)),
    "adam": Kind(make=_make_adam, update=_adam, remembered=("mean", "square")),
    "rmsprop": Kind(make=_make_rmsprop, update=_rmsprop, remembered=("square", "momentum")),
}
