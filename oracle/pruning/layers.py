"""What of a network can be pruned: the weights of every Conv2d and Linear, and attention's input projections."""

import re
from dataclasses import dataclass

from torch import nn

from oracle.errors import MaskError

_SHORTCUT = re.compile(r"(^|[._])(shortcut|downsample|skip)([._]|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One prunable weight and the module that holds it."""

    name: str  # the weight's key in state_dict, as "features.3.weight"
    module: nn.Module
    reads: int | None  # channels it reads from the layer before; None: not one to one with that layer's outputs
    writes: int | None  # channels it writes for the layer after; None: not one to one with that layer's inputs


def prunable_layers(network: nn.Module) -> list[Layer]:
    """Every prunable layer, in state_dict (that is, registration) order; a shared weight once, by its first name.

    Prunable: the weight of each Conv2d and Linear and, for MultiheadAttention, its in_proj_weight (or q_, k_ and
    v_proj_weight): Parameters without a Linear of their own. Never biases, norms or embeddings. Inside attention no
    channel has one reader, so its projections have `writes=None` and its out_proj `reads=None`.

    MaskError for a layer whose weight is computed from another tensor, as torch.nn.utils.prune leaves it.
    """
    found: dict[int, tuple[nn.Module, int | None, int | None]] = {}  # keyed by the Parameter's identity
    behind_attention = set()
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and not isinstance(module.weight, nn.Parameter):
            raise MaskError(
                f"the weight of {path!r} is no Parameter but computed from one; remove the parametrization, or what "
                "torch.nn.utils.prune left (prune.remove), first"
            )
        match module:
            case nn.MultiheadAttention():
                behind_attention.add(module.out_proj)
                for weight in (module.in_proj_weight, module.q_proj_weight, module.k_proj_weight, module.v_proj_weight):
                    if weight is not None:
                        found.setdefault(id(weight), (module, weight.shape[1], None))
            case nn.Conv2d():
                found.setdefault(id(module.weight), (module, module.in_channels, module.out_channels))
            case nn.Linear():
                reads = None if module in behind_attention else module.in_features
                found.setdefault(id(module.weight), (module, reads, module.out_features))
    return [
        Layer(name=name, module=found[id(p)][0], reads=found[id(p)][1], writes=found[id(p)][2])
        for name, p in network.named_parameters()
        if id(p) in found
    ]


def prunable(network: nn.Module, *, prune_output: bool = True) -> list[str]:
    """Names of the prunable weights, in state_dict order.

    Without `prune_output`, all but the output layer's: the last of them, since a network registers its output last.

    >>> prunable(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    ['0.weight', '2.weight']
    """
    names = [layer.name for layer in prunable_layers(network)]
    return names if prune_output else names[:-1]


def is_shortcut(name: str) -> bool:
    """Whether a module or weight is (in) a projection shortcut, by its name: our networks and torchvision's say so.

    It is one if "shortcut", "downsample" or "skip" is a word of its dotted name, as in "layer2.0.downsample.0.weight"
    or "conv_skip". An identity shortcut holds no weight and needs no name.
    """
    return _SHORTCUT.search(name) is not None
