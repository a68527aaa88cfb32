"""Plain ReLU networks on flattened images."""

import math

import torch
from torch import nn

from oracle.networks.initialise import kaiming


def mlp(
    hidden: tuple[int, ...], num_classes: int, input_shape: tuple[int, int, int], generator: torch.Generator
) -> nn.Module:
    """Fully connected ReLU network with the given widths of its hidden layers; any image fits."""
    widths = (math.prod(input_shape), *hidden)
    with torch.device("meta"):
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in zip(widths, hidden, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        network = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))
    return kaiming(network, generator)
