"""Every number of a fresh network, drawn from one generator."""

import torch
from torch import nn
from torch.nn import init


def draw_kaiming(network: nn.Module, generator: torch.Generator) -> None:
    """Fill a network, on the CPU.

    Weights of Conv2d and Linear: normal, mean 0, variance 2 / fan_in (He et al. 2015, eq. 10). Biases: 0. Batch norm:
    scale 1, shift 0, running mean 0 and variance 1. Drawn in registration order.
    """
    with torch.no_grad():
        for module in network.modules():
            match module:
                case nn.Conv2d() | nn.Linear():
                    init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                    if module.bias is not None:
                        module.bias.zero_()
                case nn.BatchNorm2d():
                    module.reset_parameters()  # constants only, its statistics included
                case _:
                    assert not list(module.parameters(recurse=False)), f"no rule for {type(module).__name__}"
