"""The networks, by name. Any of them runs under `torch.func.vmap` over stacked parameters and buffers."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral

import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from oracle.errors import NetworkError
from oracle.networks.alexnet import alexnet
from oracle.networks.densenet import densenet
from oracle.networks.initialise import draw_kaiming
from oracle.networks.mlp import mlp
from oracle.networks.mobilenet import mobilenetv2
from oracle.networks.resnet import resnet_bottleneck
from oracle.networks.resnet_cifar import resnet_cifar
from oracle.networks.vgg import vgg19
from oracle.networks.vit import draw_vit, vit

# num_classes, (C, H, W) -> a network, whose numbers are drawn later (`build_network`).
Builder = Callable[[int, tuple[int, int, int]], nn.Module]

NETWORKS: Mapping[str, Builder] = {
    "fc-256x3": partial(mlp, (256, 256, 256)),
    "resnet20": partial(resnet_cifar, 20),
    "vgg19": partial(vgg19, 1),
    "densenet40": partial(densenet, 40),
    "alexnet": partial(alexnet, 1),
    "mobilenetv2": partial(mobilenetv2, 1.0),
    "resnet50": partial(resnet_bottleneck, (3, 4, 6, 3), 64),
    "vit-b-16": partial(vit, 16, 12, 12, 768),
    # Narrowed siblings, for tests and small presets.
    "mlp-64x2": partial(mlp, (64, 64)),
    "resnet8": partial(resnet_cifar, 8),
    "vgg19-narrow": partial(vgg19, 8),
    "densenet22": partial(densenet, 22),
    "alexnet-narrow": partial(alexnet, 16),
    "mobilenetv2-narrow": partial(mobilenetv2, 0.25),
    "resnet14-narrow": partial(resnet_bottleneck, (1, 1, 1, 1), 16),  # bottleneck blocks, one a stage
    "vit-tiny": partial(vit, 8, 2, 4, 48),
}


def build_network(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], generator: torch.Generator | None = None
) -> nn.Module:
    """Build a network for images of shape (C, H, W), in training mode, on the CPU.

    Its numbers are drawn from `generator` alone (a CPU generator; None: a new one with seed 0); the global random
    numbers stay as they are. The same generator state gives the same bits.

    Raises NetworkError for an unknown name, fewer than two classes, or images that do not fit the network.

    >>> build_network("mlp-64x2", num_classes=10, input_shape=(1, 8, 8))(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    network = outline_network(name, num_classes=num_classes, input_shape=input_shape)
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    if generator.device.type != "cpu":
        raise NetworkError(
            f"network {name!r}: the generator is on {generator.device}, but networks are drawn on the CPU, "
            "so that every machine gets the same bits; move the network afterwards"
        )
    network = network.to_empty(device="cpu")
    if isinstance(network, VisionTransformer):
        draw_vit(network, generator)
    else:
        draw_kaiming(network, generator)
    return network


def outline_network(name: str, *, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """The network without its numbers, which takes no memory: on PyTorch's meta device, where nothing is drawn either.

    Raises as `build_network` does.

    >>> sum(each.numel() for each in outline_network("mlp-64x2", num_classes=10, input_shape=(1, 8, 8)).parameters())
    8970
    """
    if name not in NETWORKS:
        raise NetworkError(f"network {name!r} is not known; the known ones are {', '.join(sorted(NETWORKS))}")
    if not isinstance(num_classes, Integral) or num_classes < 2:
        raise NetworkError(f"network {name!r}: num_classes is {num_classes!r}, expected a whole number, at least 2")
    counts = isinstance(input_shape, Sequence) and all(isinstance(n, Integral) and n >= 1 for n in input_shape)
    if not counts or len(input_shape) != 3:
        raise NetworkError(f"network {name!r}: input_shape is {input_shape!r}, expected (channels, height, width)")
    try:
        with torch.device("meta"):
            return NETWORKS[name](num_classes, input_shape)
    except NetworkError as misfit:
        raise NetworkError(f"network {name!r}: {misfit}") from None
