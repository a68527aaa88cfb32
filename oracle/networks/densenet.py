"""DenseNet for small images, without bottleneck or compression."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracle.networks.fit import require_side


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution whose `growth` maps join those that it read."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, inputs + growth, H, W)."""
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)


def _transition(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1, bias=False), nn.AvgPool2d(2)]


class DenseNet(nn.Module):
    """A 3x3 stem of 2 * growth maps, three dense blocks, each half as large as the last, the mean, one linear layer."""

    def __init__(self, channels: int, layers_per_block: int, growth: int, num_classes: int) -> None:
        super().__init__()
        width = 2 * growth
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
        for block in range(3):
            if block > 0:
                layers += _transition(width)
            for _ in range(layers_per_block):
                layers.append(DenseLayer(width, growth))
                width += growth
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU())
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        return self.fc(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]  # Module.__call__ is Any


def densenet(depth: int, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """DenseNet of depth 3n + 4 with growth 12 (Huang et al. 2017)."""
    require_side(input_shape, at_least=4)
    return DenseNet(input_shape[0], (depth - 4) // 3, growth=12, num_classes=num_classes)
