"""What the trials of one seed and cycle all start from: pruned weights, and the masks that keep them so."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oracle.data.images import Images
from oracle.experiment import Experiment
from oracle.networks import build_network
from oracle.networks.pretrained import load_weights
from oracle.pruning import find_method, next_masks
from oracle.pruning.masks import dense_masks, masked, weights_remaining
from oracle.rng import generator

State = Mapping[str, Tensor]  # as network.state_dict() gives it


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A state with exact zeros where masks prune. Tensors on the CPU, keys as in state_dict; masks bool."""

    state: State
    masks: State
    weights_remaining: float  # fraction of the prunable weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """A seed's trained network at a cycle's optimum, and what cycle 0's looked like at the rewind step."""

    state: State
    masks: State
    rewind: State | None  # cycle 0 only, and only where rewind_step is not 0


def fresh_network(experiment: Experiment, images: Images, *key: int) -> nn.Module:
    """The experiment's network with weights drawn for `key`: (seed,) or (seed, cycle)."""
    return build_network(
        experiment.network.name,
        num_classes=images.num_classes,
        input_shape=images.input_shape,
        generator=generator("initialisation", *key),
    )


def first_parent(experiment: Experiment, seed: int, images: Images) -> Parent:
    """The dense network of a seed: freshly drawn, or the pretrained weights that the experiment names."""
    network = fresh_network(experiment, images, seed)
    if experiment.network.weights is not None:
        load_weights(network, experiment.network.weights, sha256=experiment.network.weights_sha256)
    return _parent(experiment, network, network.state_dict(), dense_masks(network))


def next_parent(
    experiment: Experiment, seed: int, images: Images, *, cycle: int, winner: Winner, first: Winner | None
) -> Parent:
    """Prune the winner of cycle - 1 and rewind its survivors: the parent of `cycle` (at least 1).

    `first`: the seed's winner of cycle 0, needed for `rewind: weights` with a rewind_step.
    """
    network = fresh_network(experiment, images, seed)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    if experiment.training.precision == "fp64":  # rounded weights would be pruned by ties that are none
        network = network.double()
    network.load_state_dict(dict(winner.state))
    pruning = experiment.pruning
    batch = images.sample(pruning.batch, seed) if find_method(pruning.method).needs_batch else None
    if batch is not None:
        network.to(batch[0].device, batch[0].dtype)
    masks = next_masks(
        network, winner.masks, method=pruning.method, rate=pruning.rate, batch=batch, prune_output=pruning.prune_output
    )
    masks = {name: mask.cpu() for name, mask in masks.items()}
    match pruning.rewind:
        case "none":
            source = winner.state
        case "weights" if pruning.rewind_step:
            assert first is not None
            assert first.rewind is not None
            source = first.rewind
        case "weights":
            source = first_parent(experiment, seed, images).state if experiment.network.weights else start
        case "reinit":
            source = fresh_network(experiment, images, seed, cycle).state_dict()
    return _parent(experiment, network, source, masks)


def parent_network(experiment: Experiment, seed: int, images: Images, parent: Parent) -> nn.Module:
    """A network of its own that holds the parent's weights, in the experiment's precision."""
    network = fresh_network(experiment, images, seed)
    if experiment.training.precision == "fp64":
        network = network.double()
    network.load_state_dict(dict(parent.state))
    return network


def _parent(experiment: Experiment, network: nn.Module, state: State, masks: State) -> Parent:
    with torch.no_grad():
        own = {name: value.detach().cpu().clone() for name, value in masked(state, masks).items()}
    remaining = weights_remaining(network, masks, prune_output=experiment.pruning.prune_output)
    return Parent(state=own, masks={name: mask.cpu() for name, mask in masks.items()}, weights_remaining=remaining)
