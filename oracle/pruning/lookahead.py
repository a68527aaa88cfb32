"""Lookahead scores: a weight matters with the paths that run through it.

Axes: O channels written, I channels read by one group of a convolution, G groups, R channels read (G times I),
... the axes of a kernel.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oracle.pruning.layers import Layer, is_shortcut, prunable_layers
from oracle.pruning.masks import Masks
from oracle.pruning.scores import Batch, Scores, Weights


@dataclass(slots=True)
class _Link:
    """A layer of the network with the batch norms registered between it and the next one."""

    layer: Layer
    own_norm: nn.modules.batchnorm._BatchNorm | None  # the one that scales what the layer writes
    norms: list[nn.modules.batchnorm._BatchNorm]


def lap(network: nn.Module, weights: Weights, masks: Masks, batch: Batch | None) -> Scores:
    """w^2 * |previous layer's row that feeds this input|^2 * |next layer's column that reads this output|^2.

    In float64, from the weights before any of them is pruned (Park et al. 2020).

    Neighbours are the prunable layers before and after in registration order; projection shortcuts (see `is_shortcut`)
    are not neighbours and get no score, so they stay as they are. A neighbour counts 1 if it is missing or undefined:
    when the channels that one layer writes are not those that the other reads (by their number, by a batch norm between
    them of another size, as behind DenseNet's concatenation, or inside attention). DenseNet's stem and transitions,
    which write all that their block's first layer reads, are its neighbours: that later layers read them too is not seen.

    A linear layer that reads a flattened map of H x W has unit u read channel u // (H*W). Channel c of a grouped or
    depthwise convolution is read by the filters of its own group alone; so a depthwise weight of channel c has the
    previous layer's row c and the next layer's column c.
    """
    return _scores(network, weights, with_norms=False)


def lap_bn(network: nn.Module, weights: Weights, masks: Masks, batch: Batch | None) -> Scores:
    """`lap`, also times gamma^2 / (running variance + eps) of the previous layer's and this layer's batch norm.

    A layer's batch norm is the first one registered after it and before the next prunable layer, if it has as many
    channels as the layer writes; without one the factor is 1.
    """
    return _scores(network, weights, with_norms=True)


def _scores(network: nn.Module, weights: Weights, *, with_norms: bool) -> Scores:
    links = _links(network)
    before: list[_Link | None] = [None, *links[:-1]]
    after: list[_Link | None] = [*links[1:], None]
    scores = {}
    for previous, link, following in zip(before, links, after, strict=True):
        score = weights[link.layer.name].double().square()
        if previous is not None and _feeds(previous, link):
            rows = weights[previous.layer.name].double().square().flatten(1).sum(1)
            if with_norms:
                rows = rows * _norm_scale(previous, rows)
            score = score * _by_input(rows, link.layer, score)
        writes = torch.ones(len(score), dtype=score.dtype, device=score.device)
        if following is not None and _feeds(link, following):
            columns = _columns(weights[following.layer.name], following.layer)
            writes = columns.view(len(score), -1).sum(1)  # H*W units read each channel of a flattened map
        if with_norms:
            writes = writes * _norm_scale(link, writes)
        scores[link.layer.name] = score * writes.view(-1, *[1] * (score.dim() - 1))
    return scores


def _links(network: nn.Module) -> list[_Link]:
    layers: dict[nn.Module, list[Layer]] = {}
    for layer in prunable_layers(network):
        layers.setdefault(layer.module, []).append(layer)
    links: list[_Link] = []
    open_for_norm = False
    for name, module in network.named_modules():
        if module in layers:
            open_for_norm = not is_shortcut(name)
            if open_for_norm:
                links += [_Link(layer, None, []) for layer in layers[module]]
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and links and not is_shortcut(name):
            if open_for_norm and module.num_features == links[-1].layer.writes:
                links[-1].own_norm = module
            links[-1].norms.append(module)
            open_for_norm = False
    return links


def _feeds(link: _Link, following: _Link) -> bool:
    """Whether `following` reads just what `link` writes: else a neighbour counts 1."""
    writes, reads = link.layer.writes, following.layer.reads
    if writes is None or reads is None or any(norm.num_features != writes for norm in link.norms):
        return False
    flattened = isinstance(link.layer.module, nn.Conv2d) and isinstance(following.layer.module, nn.Linear)
    return reads == writes or (flattened and reads % writes == 0)


def _groups(layer: Layer) -> int:
    return layer.module.groups if isinstance(layer.module, nn.Conv2d) else 1


def _by_input(rows: Float[Tensor, "P"], layer: Layer, weight: Float[Tensor, "O I ..."]) -> Float[Tensor, "_ I ..."]:
    """The row that feeds each weight of a layer, shaped to multiply it. P: channels that the previous layer writes."""
    groups, outputs = _groups(layer), len(weight)
    fed = rows.repeat_interleave(weight.shape[1] * groups // len(rows))  # flattened: H*W units a channel
    fed = fed.view(groups, 1, -1).expand(-1, outputs // groups, -1).reshape(outputs, -1)
    return fed.view(*fed.shape, *[1] * (weight.dim() - 2))


def _columns(weight: Float[Tensor, "O I ..."], layer: Layer) -> Float[Tensor, "R"]:
    """Squared norm of all weights that read each channel."""
    squares = weight.double().square().flatten(2).sum(2) if weight.dim() > 2 else weight.double().square()
    return squares.reshape(_groups(layer), -1, squares.shape[1]).sum(1).flatten()


def _norm_scale(link: _Link, like: Float[Tensor, "O"]) -> Float[Tensor, "O"]:
    norm = link.own_norm
    if norm is None or norm.running_var is None:
        return torch.ones_like(like)
    scale = 1 / (norm.running_var.double() + norm.eps)
    return scale if norm.weight is None else scale * norm.weight.detach().double().square()
