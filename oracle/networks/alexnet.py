"""AlexNet for small images: a 3x3 stem of stride 2 in place of the 11x11 one of stride 4."""

from torch import Tensor, nn

from oracle.networks.fit import require_side


class AlexNet(nn.Module):
    """Five convolutions, a 6x6 map, three linear layers.

    It has no dropout: candidates are trained side by side, and a random mask would have to be the same for a candidate
    whatever pack it is in.
    """

    def __init__(self, channels: int, divide_width: int, num_classes: int) -> None:
        super().__init__()
        a, b, c, d, hidden = (width // divide_width for width in (64, 192, 384, 256, 4096))
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, a, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(c, d, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(d, d, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.pool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            *(nn.Linear(d * 36, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        return self.classifier(self.pool(self.features(x)).flatten(1))  # type: ignore[no-any-return]  # Module.__call__


def alexnet(divide_width: int, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """AlexNet as in torchvision but for the stem and dropout, its widths divided by `divide_width`."""
    require_side(input_shape, at_least=29)  # 29 -> 15 by the stem -> 7 -> 3 -> 1 by the max-pools
    return AlexNet(input_shape[0], divide_width, num_classes)
