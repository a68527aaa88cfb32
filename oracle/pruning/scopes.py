"""Among which weights the lowest scores are taken.

Axes: ... the axes of a layer's weight.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from oracle.pruning.masks import Masks
from oracle.pruning.scores import Scores

# network, scores, all masks, rate -> the masks that change.
Scope = Callable[[nn.Module, Scores, Masks, float], dict[str, Bool[Tensor, "..."]]]


def without_lowest(scores: Scores, masks: Masks, rate: float) -> dict[str, Bool[Tensor, "..."]]:
    """The scored layers' masks less exactly round(rate * R) of the lowest scores among their R kept weights.

    Ties go in order: earlier layers first, then lower flat indices. A threshold and a pass over its ties take a
    fraction of a stable sort's time.
    """
    if not scores:  # the output layer alone, and that one is left out
        return {}
    kept = torch.cat([score[masks[name]] for name, score in scores.items()])
    ties_left = num_pruned = round(rate * len(kept))
    if num_pruned == 0:
        return {}
    threshold = kept.kthvalue(num_pruned).values
    ties_left -= int((kept < threshold).count_nonzero())
    shrunk = {}
    for name, score in scores.items():
        score = score.to(kept.dtype)  # layers may differ in it, and a rounded threshold would miscount
        mask = (masks[name] & (score >= threshold)).contiguous()  # weights may be channels_last
        if ties_left:
            ties = (mask & (score == threshold)).flatten().nonzero().squeeze(1)[:ties_left]
            mask.view(-1)[ties] = False
            ties_left -= len(ties)
        shrunk[name] = mask
    assert ties_left == 0
    return shrunk


def pooled(network: nn.Module, scores: Scores, masks: Masks, rate: float) -> dict[str, Bool[Tensor, "..."]]:
    """Prune round(rate * R) of the R kept weights of all layers together."""
    return without_lowest(scores, masks, rate)


def each_layer(network: nn.Module, scores: Scores, masks: Masks, rate: float) -> dict[str, Bool[Tensor, "..."]]:
    """Prune round(rate * R) of the R kept weights of each layer on its own."""
    return {
        name: mask
        for layer in scores
        for name, mask in without_lowest({layer: scores[layer]}, {layer: masks[layer]}, rate).items()
    }
