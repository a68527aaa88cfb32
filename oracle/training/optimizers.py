"""Optimisers over stacked parameters: one update for all candidates of a pack, each at its own learning rate.

Axes: C candidates lead every tensor. The updates are those of torch.optim (SGD, Adam, RMSprop), which the plain trainer
uses; a test holds the two against each other in float64.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oracle.experiment import Adam, Optimizer, Rmsprop, Sgd

Stacked = list[Float[Tensor, "C ..."]]
# parameters, gradients (may be overwritten), state, learning rates shaped to broadcast, settings, step from 1
Update = Callable[[Stacked, Stacked, Mapping[str, Stacked], Stacked, Any, int], None]


def _sgd(params: Stacked, grads: Stacked, state: Mapping[str, Stacked], rates: Stacked, it: Sgd, step: int) -> None:
    torch._foreach_add_(grads, params, alpha=it.weight_decay)
    torch._foreach_mul_(state["momentum"], it.momentum)
    torch._foreach_add_(state["momentum"], grads)
    torch._foreach_sub_(params, torch._foreach_mul(state["momentum"], rates))


def _adam(params: Stacked, grads: Stacked, state: Mapping[str, Stacked], rates: Stacked, it: Adam, step: int) -> None:
    torch._foreach_add_(grads, params, alpha=it.weight_decay)
    torch._foreach_lerp_(state["mean"], grads, 1 - it.betas[0])
    torch._foreach_mul_(state["square"], it.betas[1])
    torch._foreach_addcmul_(state["square"], grads, grads, 1 - it.betas[1])
    spread = torch._foreach_sqrt(state["square"])
    torch._foreach_div_(spread, math.sqrt(1 - it.betas[1] ** step))
    torch._foreach_add_(spread, it.epsilon)
    moves = torch._foreach_div(state["mean"], spread)
    torch._foreach_div_(moves, 1 - it.betas[0] ** step)
    torch._foreach_sub_(params, torch._foreach_mul(moves, rates))


def _rmsprop(
    params: Stacked, grads: Stacked, state: Mapping[str, Stacked], rates: Stacked, it: Rmsprop, step: int
) -> None:
    torch._foreach_add_(grads, params, alpha=it.weight_decay)
    torch._foreach_mul_(state["square"], it.alpha)
    torch._foreach_addcmul_(state["square"], grads, grads, 1 - it.alpha)
    spread = torch._foreach_sqrt(state["square"])
    torch._foreach_add_(spread, it.epsilon)
    moves = torch._foreach_div(grads, spread)
    if it.momentum:
        torch._foreach_mul_(state["momentum"], it.momentum)
        torch._foreach_add_(state["momentum"], moves)
        moves = tuple(state["momentum"])
    torch._foreach_sub_(params, torch._foreach_mul(moves, rates))


UPDATES: Mapping[str, tuple[Update, tuple[str, ...]]] = {  # the update, and the names of what it remembers
    "sgd": (_sgd, ("momentum",)),
    "adam": (_adam, ("mean", "square")),
    "rmsprop": (_rmsprop, ("square", "momentum")),
}


def plain_optimizer(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The torch.optim optimiser of one candidate; its learning rate is set before every step."""
    match optimizer:
        case Sgd():
            return torch.optim.SGD(
                parameters, lr=0.0, momentum=optimizer.momentum, weight_decay=optimizer.weight_decay, foreach=True
            )
        case Adam():
            return torch.optim.Adam(
                parameters,
                lr=0.0,
                betas=optimizer.betas,
                eps=optimizer.epsilon,
                weight_decay=optimizer.weight_decay,
                foreach=True,
            )
        case Rmsprop():
            return torch.optim.RMSprop(
                parameters,
                lr=0.0,
                alpha=optimizer.alpha,
                eps=optimizer.epsilon,
                momentum=optimizer.momentum,
                weight_decay=optimizer.weight_decay,
                foreach=True,
            )
