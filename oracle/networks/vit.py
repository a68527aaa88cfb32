"""Vision transformers: torchvision's."""

import math

import torch
from torch import nn
from torch.nn import init
from torchvision.models.vision_transformer import MLPBlock, VisionTransformer

from oracle.errors import NetworkError
from oracle.networks.fit import require_channels


def vit(
    patch: int,
    layers: int,
    heads: int,
    width: int,
    num_classes: int,
    input_shape: tuple[int, int, int],
) -> nn.Module:
    """ViT (Dosovitskiy et al. 2020), its MLPs 4 * width wide; images are square, their side a multiple of `patch`."""
    require_channels(input_shape, 3)
    _, height, side = input_shape
    if height != side or side % patch:
        fits = max(1, round(min(height, side) / patch)) * patch
        raise NetworkError(
            f"the images are {height}x{side}, but the network cuts square images into {patch}x{patch} patches; "
            f"resize them to {fits}x{fits}, say"
        )
    network: nn.Module = VisionTransformer(side, patch, layers, heads, width, 4 * width, num_classes=num_classes)
    return network


def draw_vit(network: VisionTransformer, generator: torch.Generator) -> None:
    """Fill it by torchvision's own scheme, drawn from the generator: in particular the head starts at zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()  # biases, class token and head stay so
        init.trunc_normal_(network.conv_proj.weight, std=_inverse_root_fan_in(network.conv_proj), generator=generator)
        init.normal_(network.encoder.pos_embedding, std=0.02, generator=generator)
        for module in network.encoder.modules():
            match module:
                case nn.LayerNorm():
                    init.ones_(module.weight)
                case nn.MultiheadAttention():
                    bound = _inverse_root_fan_in(module.out_proj)
                    init.xavier_uniform_(module.in_proj_weight, generator=generator)
                    init.uniform_(module.out_proj.weight, -bound, bound, generator=generator)
                case MLPBlock():
                    for linear in (module[0], module[3]):
                        init.xavier_uniform_(linear.weight, generator=generator)
                        init.normal_(linear.bias, std=1e-6, generator=generator)


def _inverse_root_fan_in(layer: nn.Conv2d | nn.Linear) -> float:
    return 1 / math.sqrt(layer.weight[0].numel())
