"""Pruning: a score says how much each weight matters, a scope among which of them the lowest go.

Axes: ... the axes of a layer's weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from oracle.errors import MaskError
from oracle.pruning.filters import whole_filters
from oracle.pruning.layers import prunable
from oracle.pruning.lookahead import lap, lap_bn
from oracle.pruning.masks import Masks, checked_masks
from oracle.pruning.scopes import Scope, each_layer, pooled
from oracle.pruning.scores import Batch, Score, filter_norm, gradient, lamp, magnitude


@dataclass(frozen=True, slots=True)
class Method:
    """A way to prune: the score of each weight, and the scope within which the lowest go."""

    score: Score
    scope: Scope
    needs_batch: bool = False  # images and labels, for its score


METHODS: Mapping[str, Method] = {
    "global_magnitude": Method(magnitude, pooled),  # with weight rewinding: IMP
    "layer_magnitude": Method(magnitude, each_layer),
    "global_gradient": Method(gradient, pooled, needs_batch=True),
    "lamp": Method(lamp, pooled),
    "lap": Method(lap, each_layer),
    "lap_bn": Method(lap_bn, each_layer),
    "l1_filter": Method(filter_norm, whole_filters),
}


def find_method(name: str) -> Method:
    """The entry of METHODS. Raises MaskError, listing what there is, for an unknown name."""
    if name not in METHODS:
        raise MaskError(f"pruning method {name!r} is not known; the known ones are {', '.join(METHODS)}")
    return METHODS[name]


def next_masks(
    network: nn.Module,
    masks: Masks | None,
    *,
    method: str,
    rate: float,
    batch: Batch | None = None,
    prune_output: bool = True,
) -> dict[str, Bool[Tensor, "..."]]:
    """Masks after one more round of pruning, keyed as in state_dict, True where a weight is kept.

    Of the R kept weights in a scope exactly round(rate * R) go (Python's round), those that score lowest; ties: earlier
    layers in state_dict order first, then lower flat indices. `l1_filter` counts filters instead, see `whole_filters`.

    network: any module; its masked weights count as 0 whatever it holds. It is left as it was: parameters, gradients,
        buffers and modes. Prunable are the weights of every Conv2d, Linear and attention projection.
    masks: those of the last round (None: dense), one for every prunable weight; they are not changed.
    method: a key of METHODS.
    rate: fraction of the kept weights to prune, in (0, 1).
    batch: (images, labels), for methods that need one (`global_gradient`) alone.
    prune_output: False leaves the mask of the output layer (the last prunable weight) as it is and out of R.

    Returns masks on the weights' device, one for every prunable weight. `l1_filter` adds masks of biases and of batch
    norms' weight and bias; multiply every tensor that has a mask by it.

    Raises MaskError for an unknown method, a rate outside (0, 1), masks that do not fit, scores that are NaN, a
    gradient without a batch, or a network that the method cannot prune or whose parameters have no values yet.

    >>> network = nn.Linear(5, 1)
    >>> _ = network.weight.data.copy_(torch.tensor([[3.0, -1.0, 2.0, 5.0, -4.0]]))
    >>> next_masks(network, None, method="global_magnitude", rate=0.4)["weight"].tolist()
    [[True, False, False, True, True]]
    """
    how = find_method(method)
    if not 0 < rate < 1:
        raise MaskError(f"the pruning rate is {rate}, expected a fraction in (0, 1), as 0.2 for 20% a cycle")
    parameters = dict(network.named_parameters())
    for name, parameter in parameters.items():
        if is_lazy(parameter) or parameter.is_meta:
            raise MaskError(
                f"parameter {name!r} has no values yet ({'lazy' if is_lazy(parameter) else 'on the meta device'}); run "
                "the network on a batch once, or load its weights, first"
            )
    before = checked_masks(network, masks)
    targets = prunable(network, prune_output=prune_output)
    with torch.no_grad():
        weights = {name: torch.where(before[name], parameters[name], 0) for name in prunable(network)}
        scores = how.score(network, weights, before, batch)
        scores = {name: scores[name] for name in targets if name in scores}
        for name, score in scores.items():
            if score.isnan().any():
                raise MaskError(
                    f"layer {name!r}: {int(score.isnan().sum())} scores are NaN, so nothing can be called lowest; "
                    "did its training diverge?"
                )
        after = before | how.scope(network, scores, before, rate)
    if not prune_output:  # filters take the output layer's input weights with them
        output = prunable(network)[-1]
        after[output] = before[output]
    return after
