"""VGG-19 for small images: batch norm behind each convolution, one linear layer."""

from torch import Tensor, nn

from oracle.networks.fit import require_side

_STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # width, convolutions; a max-pool between stages


class VGG(nn.Module):
    """Sixteen 3x3 convolutions in five stages, the mean over the map, one linear layer."""

    def __init__(self, channels: int, divide_width: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage, (width, convolutions) in enumerate(_STAGES):
            if stage > 0:
                layers.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                outputs = width // divide_width
                layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
                channels = outputs
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        return self.fc(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]  # Module.__call__ is Any


def vgg19(divide_width: int, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """VGG-19 (Simonyan & Zisserman 2014) as it is used on CIFAR: widths 64 to 512, divided by `divide_width`."""
    require_side(input_shape, at_least=16)
    return VGG(input_shape[0], divide_width, num_classes)
