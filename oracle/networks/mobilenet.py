"""MobileNetV2 for small images: torchvision's, with strides that keep an 8x8 map of a 32x32 image."""

from torch import nn
from torchvision.models.mobilenetv2 import MobileNetV2

from oracle.networks.fit import require_side

# Expansion, channels, blocks, stride of each stage; strides as in LeGR (Chin et al. 2020), with a stem of stride 1.
_STAGES = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 1],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]


def mobilenetv2(width: float, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018) with its widths times `width`; no dropout, as in `alexnet`.

    The weights have the shapes of torchvision's mobilenet_v2, so its checkpoints fit if the images have 3 channels.
    """
    require_side(input_shape, at_least=4)
    network = MobileNetV2(num_classes, width, _STAGES, dropout=0.0)
    stem = network.features[0][0]
    network.features[0][0] = nn.Conv2d(input_shape[0], stem.out_channels, 3, padding=1, bias=False)
    return network  # type: ignore[no-any-return]  # torchvision has no types
