"""Plain ReLU networks on flattened images."""

import math

from torch import nn


def mlp(hidden: tuple[int, ...], num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Fully connected ReLU network with the given widths of its hidden layers; any image fits."""
    widths = (math.prod(input_shape), *hidden)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(widths, hidden, strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))
