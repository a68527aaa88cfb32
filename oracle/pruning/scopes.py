"""Among which weights the lowest scores are taken.

Axes: ... the axes of a layer's weight, K kept weights of all layers.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

# network, scores, masks of the scored layers, rate -> the masks that change.
Scope = Callable[
    [nn.Module, Mapping[str, Float[Tensor, "..."]], Mapping[str, Bool[Tensor, "..."]], float],
    dict[str, Bool[Tensor, "..."]],
]


def without_lowest(
    scores: Mapping[str, Float[Tensor, "..."]], masks: Mapping[str, Bool[Tensor, "..."]], rate: float
) -> dict[str, Bool[Tensor, "..."]]:
    """The masks less exactly round(rate * R) of the lowest scores among the R kept weights of all given layers.

    Ties go in order: earlier layers first, then lower flat indices. A threshold and a pass over its ties take a
    fraction of a stable sort's time.
    """
    kept = torch.cat([score[masks[name]] for name, score in scores.items()])
    ties_left = num_pruned = round(rate * len(kept))
    if num_pruned == 0:
        return dict(masks)
    threshold = kept.kthvalue(num_pruned).values
    ties_left -= int((kept < threshold).count_nonzero())
    shrunk = {}
    for name, score in scores.items():
        mask = masks[name] & (score >= threshold)
        if ties_left:
            ties = (mask & (score == threshold)).flatten().nonzero().squeeze(1)[:ties_left]
            mask.view(-1)[ties] = False
            ties_left -= len(ties)
        shrunk[name] = mask
    assert ties_left == 0
    return shrunk


def pooled(
    network: nn.Module,
    scores: Mapping[str, Float[Tensor, "..."]],
    masks: Mapping[str, Bool[Tensor, "..."]],
    rate: float,
) -> dict[str, Bool[Tensor, "..."]]:
    """Prune round(rate * R) of the R kept weights of all layers together."""
    return without_lowest(scores, masks, rate)


def each_layer(
    network: nn.Module,
    scores: Mapping[str, Float[Tensor, "..."]],
    masks: Mapping[str, Bool[Tensor, "..."]],
    rate: float,
) -> dict[str, Bool[Tensor, "..."]]:
    """Prune round(rate * R) of the R kept weights of each layer on its own."""
    return {
        name: mask
        for layer in scores
        for name, mask in without_lowest({layer: scores[layer]}, {layer: masks[layer]}, rate).items()
    }
