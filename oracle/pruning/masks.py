"""Masks: one bool tensor a pruned tensor, True where it is kept, keyed as in state_dict.

Axes: ... the axes of a layer's weight, C candidates.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from oracle.errors import MaskError
from oracle.pruning.layers import prunable

Masks = Mapping[str, Bool[Tensor, "..."]]


def dense_masks(network: nn.Module) -> dict[str, Bool[Tensor, "..."]]:
    """Masks that keep every prunable weight, on the weights' device. MaskError if the network has none."""
    parameters = dict(network.named_parameters())
    masks = {name: _all_kept(parameters[name]) for name in prunable(network)}
    if not masks:
        raise MaskError(
            f"{type(network).__name__} has no weight to prune: expected a Conv2d, Linear or MultiheadAttention in it"
        )
    return masks


def _all_kept(weight: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
    return torch.ones(weight.shape, dtype=torch.bool, device=weight.device)


def checked_masks(network: nn.Module, masks: Masks | None) -> dict[str, Bool[Tensor, "..."]]:
    """The masks on the network's device, after a check that they fit it; None: dense ones.

    There must be one for every prunable weight; more are allowed for other parameters (filter pruning masks biases and
    batch norms). MaskError names what is missing, unknown, mis-shaped or not bool.
    """
    dense = dense_masks(network)
    if masks is None:
        return dense
    if missing := dense.keys() - masks.keys():
        raise MaskError(f"no mask for {sorted(missing)}: expected one for every prunable weight of this network")
    parameters = dict(network.named_parameters())
    for name, mask in masks.items():
        if name not in parameters:
            raise MaskError(f"mask {name!r} fits no parameter of this network; is it of another network?")
        if mask.dtype != torch.bool:
            raise MaskError(f"mask {name!r} is {mask.dtype}, expected torch.bool, True where the weight is kept")
        if mask.shape != parameters[name].shape:
            raise MaskError(
                f"mask {name!r} has shape {tuple(mask.shape)}, but the weight has {tuple(parameters[name].shape)}; "
                "is it of another network?"
            )
    return {name: mask.to(parameters[name].device) for name, mask in masks.items()}


def check_shrink(before: Masks, after: Masks) -> None:
    """MaskError if any weight that `before` prunes is kept by `after`, or if a mask of `before` is gone."""
    for name, mask in before.items():
        if name not in after:
            raise MaskError(f"mask {name!r} is gone, but masks only shrink; are the masks of one network?")
        if regrown := int((after[name] & ~mask).sum()):
            raise MaskError(
                f"{name!r} would regrow {regrown} weights, but masks only shrink; was the mask saved by a later cycle?"
            )


def masked(state: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """A copy of a state dict with exact zeros where masks prune; a stacked state (leading axis C) works too.

    NaN under a mask becomes 0 too, unlike in a product. MaskError if a mask has no tensor in the state.
    """
    if missing := masks.keys() - state.keys():
        raise MaskError(f"masks {sorted(missing)} have no tensor in the state; is it of another network?")
    return {
        name: torch.where(masks[name].to(value.device), value, 0) if name in masks else value.clone()
        for name, value in state.items()
    }


def apply_masks(network: nn.Module, masks: Masks) -> None:
    """Set the pruned weights of a network to 0, in place."""
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, mask in checked_masks(network, masks).items():
            parameters[name].masked_fill_(~mask, 0)


def count_kept(network: nn.Module, masks: Masks, *, prune_output: bool = True) -> tuple[int, int]:
    """How many prunable weights are kept, and of how many; without the output layer if it is to stay dense."""
    names = prunable(network, prune_output=prune_output)
    return sum(int(masks[name].sum()) for name in names), sum(masks[name].numel() for name in names)


def weights_remaining(network: nn.Module, masks: Masks, *, prune_output: bool = True) -> float:
    """Kept prunable weights as a fraction in [0, 1] of all prunable weights; biases and norms never count."""
    kept, total = count_kept(network, masks, prune_output=prune_output)
    return kept / total


def emptied_layers(masks: Masks) -> list[str]:
    """Names of the masks that keep nothing. Allowed, but a caller should say it: no signal passes such a layer."""
    return [name for name, mask in masks.items() if not mask.any()]
