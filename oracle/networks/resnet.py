"""ResNets for large images: torchvision's."""

from collections.abc import Sequence

from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from oracle.networks.fit import require_channels, require_side


def resnet_bottleneck(
    blocks: Sequence[int],
    inner_width: int,
    num_classes: int,
    input_shape: tuple[int, int, int],
) -> nn.Module:
    """ResNet of bottleneck blocks (He et al. 2016), the inner convolutions of the first stage `inner_width` wide."""
    require_channels(input_shape, 3)
    require_side(input_shape, at_least=32)
    network: nn.Module = ResNet(Bottleneck, list(blocks), num_classes, width_per_group=inner_width)
    return network
