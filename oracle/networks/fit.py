"""Whether images fit a network, said before it is built."""

from oracle.errors import NetworkError


def require_side(input_shape: tuple[int, int, int], at_least: int) -> None:
    """NetworkError if a side of the images is so short that the network would shrink it to nothing."""
    _, height, width = input_shape
    if min(height, width) < at_least:
        raise NetworkError(
            f"the images are {height}x{width}, but each side must be at least {at_least}; "
            "take a network that shrinks them less, or larger images"
        )


def require_channels(input_shape: tuple[int, int, int], channels: int) -> None:
    """NetworkError if the images have other channels than the network's first layer, which torchvision fixes."""
    if input_shape[0] != channels:
        raise NetworkError(f"the images have {input_shape[0]} channels, but the network reads {channels}")
