"""Filter pruning: whole filters go, and with them all that is only there for them.

Axes: F filters of a convolution, O channels written, I channels read by one group, ... the axes of a kernel.

The network is traced once with torch.fx, and each of its feature maps is labelled, channel by channel, with the filter
that writes it. So concatenations, depthwise convolutions and flattened maps need no rules of their own.
"""

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, fx, nn

from oracle.errors import MaskError
from oracle.pruning.layers import is_shortcut
from oracle.pruning.masks import Masks
from oracle.pruning.scores import Scores

Filter = tuple[str, int]  # key of a convolution's weight, index of the filter
Labels = list[Filter | None] | None  # a filter for each channel; None: not known

_CHANNEL_KEEPING_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh, nn.Identity),
    *(nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten),
)
_CHANNEL_KEEPING_FUNCTIONS: set[Callable[..., Any] | str] = {
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.hardswish, F.sigmoid, F.tanh, torch.relu, torch.tanh),
    *(torch.sigmoid, F.dropout, F.dropout2d, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    *("relu", "relu_", "sigmoid", "tanh", "contiguous", "clone"),
}
_ADDITIONS: set[Callable[..., Any] | str] = {operator.add, operator.iadd, torch.add, "add", "add_"}
_SHAPE_QUERIES: set[Callable[..., Any] | str] = {getattr, "size", "dim"}  # return no feature map


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """A parameter with entries (axis 0) or input weights (axis 1) that belong to the labelled filters."""

    name: str
    axis: int
    labels: list[Filter | None]
    groups: int = 1


@dataclass(slots=True)
class _Flow:
    """What the trace found out."""

    uses: list[_Use] = field(default_factory=list)
    order: list[str] = field(default_factory=list)  # convolutions as they run
    fixed: set[str] = field(default_factory=set)  # convolutions that keep all filters
    added: set[str] = field(default_factory=set)  # the fixed ones that end in a sum
    block_types: set[type[nn.Module]] = field(default_factory=set)

    def fix(self, labels: Labels) -> None:
        self.fixed |= {label[0] for label in labels or [] if label}


def whole_filters(network: nn.Module, scores: Scores, masks: Masks, rate: float) -> dict[str, Bool[Tensor, "..."]]:
    """Of each free convolution keep the max(1, int((1 - rate) * alive)) filters that score highest (Li et al. 2017).

    A filter is alive while its mask keeps any weight; of equal ones the lower index goes first. With a filter go its
    bias, its entries of batch norms, its depthwise filter and the input weights of whatever reads it. The returned
    masks hold all of these: beside weights there are masks of biases and of batch norms' weight and bias, keyed as in
    state_dict. All filters are scored before any goes.

    Free is a convolution unless

    - something needs all its channels: a sum, the output, an operation that the trace does not know, or one whose
      parameters are used more than once;
    - it is depthwise (its filters go with those that feed it), or its own parameters are used more than once;
    - the network is residual (two feature maps are added somewhere), and it is the first convolution of the network,
      a projection shortcut (see `is_shortcut`), or in a residual block without being the first convolution there. A
      residual block is a module in whose own forward the sum is, and any other module of its class.

    MaskError if the network cannot be traced by torch.fx, or has no free convolution.
    """
    flow = _trace(network)
    free = [name for name in flow.order if name in scores and name not in flow.fixed]
    if not free:
        raise MaskError(
            f"{type(network).__name__} has no convolution whose filters could be pruned; l1_filter needs at least one "
            "Conv2d that ends neither in a sum nor in the output: use a method that prunes single weights"
        )
    gone: set[Filter] = set()
    for name in free:
        alive = masks[name].flatten(1).any(1).nonzero().squeeze(1)
        keep = max(1, int((1 - Fraction(str(rate))) * len(alive)))  # exact: 1 - 0.8 is a little below 0.2 in floats
        lowest = scores[name][alive].argsort(stable=True)[: len(alive) - keep]
        gone |= {(name, int(index)) for index in alive[lowest]}
    parameters = dict(network.named_parameters())
    shrunk: dict[str, Bool[Tensor, "..."]] = {}
    for use in flow.uses:
        if not any(label and label[0] in free for label in use.labels):
            continue
        if use.name not in shrunk:
            shrunk[use.name] = (
                masks[use.name].clone()
                if use.name in masks
                else torch.ones_like(parameters[use.name], dtype=torch.bool)
            )
        dead = torch.tensor([label in gone for label in use.labels], device=shrunk[use.name].device)
        if use.axis == 0:
            shrunk[use.name][dead] = False
        else:
            shrunk[use.name] &= ~_by_input(dead, shrunk[use.name], use.groups)
    return shrunk


def _by_input(dead: Bool[Tensor, "R"], mask: Bool[Tensor, "O I ..."], groups: int) -> Bool[Tensor, "O I ..."]:
    """Which weights read a dead channel. R: channels read; a flattened one is read H*W times."""
    units = dead.repeat_interleave(mask.shape[1] * groups // len(dead)).view(groups, -1)
    units = units.repeat_interleave(len(mask) // groups, 0)
    return units.view(*units.shape, *[1] * (mask.dim() - 2)).expand_as(mask)


def _trace(network: nn.Module) -> _Flow:
    try:
        graph = fx.Tracer().trace(network)
    except Exception as error:
        raise MaskError(
            f"{type(network).__name__} cannot be traced by torch.fx, by which l1_filter sees what reads each filter: "
            f"{error}"
        ) from error
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    called = [network.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"]
    runs = Counter(id(parameter) for module in called for parameter in module.parameters(recurse=False))
    flow = _Flow()
    labels: dict[fx.Node, Labels] = {}
    for node in graph.nodes:
        inputs = [labels[argument] for argument in node.all_input_nodes]
        labels[node] = None
        if node.op == "call_module":
            module = network.get_submodule(node.target)
            if any(runs[id(parameter)] > 1 for parameter in module.parameters(recurse=False)):
                _fix_all(flow, inputs)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                labels[node] = _through_layer(flow, module, names, inputs[0])
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                _note_entries(flow, module, names, inputs[0])
                labels[node] = inputs[0]
            elif isinstance(module, _CHANNEL_KEEPING_MODULES):
                labels[node] = inputs[0]
            else:
                _fix_all(flow, inputs)
        elif node.op == "output":
            _fix_all(flow, inputs)
        elif node.target in _ADDITIONS:
            labels[node] = _through_sum(flow, network, node, inputs)
        elif node.target in {torch.cat, torch.concat}:
            labels[node] = _through_cat(flow, node, inputs)
        elif node.target in _CHANNEL_KEEPING_FUNCTIONS or _flattens(node, network):
            labels[node] = inputs[0]
        elif node.target not in _SHAPE_QUERIES:
            _fix_all(flow, inputs)
    _keep_residual_rules(flow, network)
    return flow


def _fix_all(flow: _Flow, inputs: list[Labels]) -> None:
    for labels in inputs:
        flow.fix(labels)


def _through_layer(flow: _Flow, module: nn.Conv2d | nn.Linear, names: Mapping[int, str], read: Labels) -> Labels:
    key = names[id(module.weight)]
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    if read is not None and isinstance(module, nn.Linear) and module.in_features % len(read):
        flow.fix(read)  # not a flattened map
    elif read is not None:
        flow.uses.append(_Use(name=key, axis=1, labels=read, groups=groups))
    if isinstance(module, nn.Linear):
        return None
    flow.order.append(key)
    if groups == module.in_channels == module.out_channels and groups > 1:
        flow.fixed.add(key)
        _note_entries(flow, module, names, read)
        return read
    written: Labels = [(key, index) for index in range(module.out_channels)]
    _note_entries(flow, module, names, written)
    return written


def _note_entries(flow: _Flow, module: nn.Module, names: Mapping[int, str], labels: Labels) -> None:
    """Entry by entry, the parameters of a module belong to these filters."""
    for parameter in module.parameters(recurse=False):
        if labels is not None:
            flow.uses.append(_Use(name=names[id(parameter)], axis=0, labels=labels))


def _through_sum(flow: _Flow, network: nn.Module, node: fx.Node, inputs: list[Labels]) -> Labels:
    _fix_all(flow, inputs)
    if sum(argument.op != "get_attr" for argument in node.all_input_nodes) < 2:
        return None  # x + 1 or x + a parameter: fixed too, since zeros would not stay zeros
    flow.added |= {label[0] for labels in inputs for label in labels or [] if label}
    path = list(node.meta["nn_module_stack"])[-1] if node.meta.get("nn_module_stack") else ""
    flow.block_types.add(type(network.get_submodule(path)))
    known = [labels for labels in inputs if labels is not None]
    return [None] * len(known[0]) if known else None


def _through_cat(flow: _Flow, node: fx.Node, inputs: list[Labels]) -> Labels:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if dim != 1 or any(labels is None for labels in inputs):
        _fix_all(flow, inputs)
        return None
    order = node.args[0] if node.args else node.kwargs["tensors"]
    by_node = dict(zip(node.all_input_nodes, inputs, strict=True))
    return [label for part in order for label in by_node[part] or []]  # type: ignore[union-attr, index]


def _flattens(node: fx.Node, network: nn.Module) -> bool:
    """Whether a node makes (B, C, H, W) to (B, C*H*W), or drops H and W after they were averaged or are 1.

    A view or reshape to two axes of given lengths is taken for a flattened map where a linear layer reads it, whose
    number of inputs is then checked (`_through_layer`).
    """
    arguments: list[Any] = [*node.args[1:], *node.kwargs.values()]
    if node.target in {torch.flatten, "flatten"}:
        return arguments == [1]
    if node.target in {torch.reshape, "reshape", "view"}:
        shape = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple | list) else arguments
        return len(shape) == 2 and (shape[1] == -1 or all(_is_linear(user, network) for user in node.users))
    if node.target in {torch.mean, "mean", torch.amax, "amax"}:
        dims = arguments[0] if arguments else None
        return dims in (2, 3) or (isinstance(dims, tuple | list) and set(dims) in ({2, 3}, {-2, -1}))
    if node.target in {torch.squeeze, "squeeze"}:
        return arguments in ([], [2], [3], [-1], [-2])
    if node.target is operator.getitem:  # x[:, :, 0, 0]
        index = arguments[0]
        return isinstance(index, tuple) and index[:2] == (slice(None), slice(None)) and set(index[2:]) == {0}
    return False


def _is_linear(node: fx.Node, network: nn.Module) -> bool:
    return node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), nn.Linear)


def _keep_residual_rules(flow: _Flow, network: nn.Module) -> None:
    if not flow.block_types:
        return
    flow.fixed |= {name for name in flow.order if is_shortcut(name)} | set(flow.order[:1])
    for path, module in network.named_modules():
        if path and type(module) in flow.block_types:
            inside = [name for name in flow.order if name.startswith(f"{path}.") and name not in flow.added]
            flow.fixed |= set(inside[1:])
