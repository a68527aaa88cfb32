"""How much each weight matters: the lowest scores are pruned first.

Axes: ... the axes of a layer's weight, F filters, B examples, C image channels, H height, W width, K kept weights.

Every score takes the network, its prunable weights with zeros where masked, their masks, and a batch that only the
gradient needs; it returns scores keyed as the weights, and leaves the network as it was. Values under a mask mean
nothing. A layer without a score is not pruned.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from oracle.errors import MaskError
from oracle.pruning.masks import Masks

Batch = tuple[Float[Tensor, "B C H W"], Int[Tensor, "B"]]  # images, labels
Weights = Mapping[str, Float[Tensor, "..."]]
Scores = dict[str, Float[Tensor, "..."]]
Score = Callable[[nn.Module, Weights, Masks, Batch | None], Scores]


def magnitude(network: nn.Module, weights: Weights, masks: Masks, batch: Batch | None) -> Scores:
    """abs(w)."""
    return {name: weight.abs() for name, weight in weights.items()}


def gradient(network: nn.Module, weights: Weights, masks: Masks, batch: Batch | None) -> Scores:
    """abs(w * dL/dw), L the mean cross-entropy over one batch (Blalock et al. 2020).

    Batch norms use the batch's statistics and do not keep them; every other module is in evaluation mode, so dropout is
    off and nothing is random. A layer that the loss does not depend on scores 0.
    """
    if batch is None:
        raise MaskError("the gradient score needs a batch: pass batch=(images, labels)")
    images, labels = batch
    if len(images) != len(labels) or len(images) == 0:
        raise MaskError(
            f"the gradient's batch has {len(images)} images and {len(labels)} labels; expected as many of both"
        )
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    # functional_call leaves its own tensors behind in a module that is registered under two names.
    before = {m: (m.training, dict(m._parameters), dict(m._buffers)) for m in network.modules()}
    try:
        for module in network.modules():
            module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
        with torch.enable_grad():
            logits = functional_call(network, {**leaves, **buffers}, (images,))
            if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
                raise MaskError(
                    f"the gradient's batch has labels {int(labels.min())} to {int(labels.max())}, but the network tells "
                    f"{logits.shape[1]} classes apart, from 0"
                )
            loss = nn.functional.cross_entropy(logits, labels)
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    finally:
        for module, (training, own_parameters, own_buffers) in before.items():
            module.training = training
            module._parameters.update(own_parameters)
            module._buffers.update(own_buffers)
    return {name: (weights[name] * g).abs() for name, g in zip(leaves, gradients, strict=True)}


def lamp(network: nn.Module, weights: Weights, masks: Masks, batch: Batch | None) -> Scores:
    """w^2 / sum of v^2 over the layer's kept weights v with v^2 >= w^2, in float64 (Lee et al. 2020).

    Equal weights of a layer score equally; the largest scores 1 if it is alone. A layer of zeros scores 0.

    >>> layer = {"w": torch.tensor([1.0, -2.0, 2.0])}
    >>> lamp(nn.Identity(), layer, {"w": torch.ones(3, dtype=torch.bool)}, None)["w"].tolist()
    [0.1111111111111111, 0.5, 0.5]
    """
    return {name: _lamp(weight, masks[name]) for name, weight in weights.items()}


def _lamp(weight: Float[Tensor, "..."], mask: Bool[Tensor, "..."]) -> Float[Tensor, "..."]:
    squares: Float[Tensor, "K"] = weight[mask].double().square()
    distinct, index, times = torch.unique(squares, return_inverse=True, return_counts=True)  # ascending
    no_smaller = (distinct * times).flip(0).cumsum(0).flip(0)  # sum of all squares >= distinct[i]
    by_value = torch.where(no_smaller > 0, distinct / no_smaller, no_smaller)
    scores = torch.zeros_like(weight, dtype=torch.float64)
    scores[mask] = by_value[index]
    return scores


def filter_norm(network: nn.Module, weights: Weights, masks: Masks, batch: Batch | None) -> Scores:
    """Sum of abs(W[f]) for each filter f of each Conv2d, in float64 (Li et al. 2017): shape F, a score a filter."""
    return {name: weight.double().abs().sum((1, 2, 3)) for name, weight in weights.items() if weight.dim() == 4}
