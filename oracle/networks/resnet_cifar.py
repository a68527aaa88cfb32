"""ResNets for small images, of depth 6n + 2, with projection shortcuts."""

import torch.nn.functional as F
from torch import Tensor, nn

from oracle.networks.fit import require_side


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: the identity, or a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 stem, three stages of widths 16, 32 and 64, the mean over the map, one linear layer."""

    def __init__(self, channels: int, blocks_per_stage: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        blocks, width = [], 16
        for outputs, stride in ((16, 1), (32, 2), (64, 2)):
            for index in range(blocks_per_stage):
                blocks.append(Block(width, outputs, stride if index == 0 else 1))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        x = F.relu(self.bn(self.conv(x)))
        return self.fc(self.blocks(x).mean((2, 3)))  # type: ignore[no-any-return]  # Module.__call__ is Any


def resnet_cifar(depth: int, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """ResNet of depth 6n + 2 for CIFAR (He et al. 2016, section 4.2), its shortcuts projections (option B)."""
    require_side(input_shape, at_least=4)
    return ResNet(input_shape[0], (depth - 2) // 6, num_classes)
