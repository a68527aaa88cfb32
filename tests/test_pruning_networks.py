"""Every network, by its narrow sibling, with every method that applies to it, through two cycles."""

import pytest
import torch
from shapes import SMALL
from torch import nn

from oracle.networks import build_network
from oracle.pruning import METHODS, next_masks
from oracle.pruning.layers import is_shortcut, prunable
from oracle.pruning.masks import apply_masks, check_shrink, count_kept, dense_masks, masked

torch.set_num_threads(1)

SHAPES = SMALL | {"resnet20": (3, 8, 8)}
WITHOUT_FREE_FILTERS = {"mlp-64x2", "vit-tiny"}
CASES = [(n, m) for n in SHAPES for m in METHODS if not (m == "l1_filter" and n in WITHOUT_FREE_FILTERS)]
RATE = 0.3


def one_step(network, masks, images, labels):
    """Plain SGD that multiplies by the masks, as training does."""
    network.train()
    nn.functional.cross_entropy(network(images), labels).backward()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter -= 0.01 * parameter.grad
            if name in masks:
                parameter *= masks[name]
            parameter.grad = None


def expected_kept(network, masks, method):
    """Kept weights of each layer (layer scope) or of all (pooled) after one more round."""
    if method in ("layer_magnitude", "lap", "lap_bn"):
        spared = [name for name in prunable(network) if method != "layer_magnitude" and is_shortcut(name)]
        return {
            name: int(masks[name].sum()) - (0 if name in spared else round(RATE * int(masks[name].sum())))
            for name in prunable(network)
        }
    kept = count_kept(network, masks)[0]
    return kept - round(RATE * kept)


@pytest.mark.parametrize(("name", "method"), CASES)
@pytest.mark.slow
def test_two_cycles(name, method):
    generator = torch.Generator().manual_seed(0)
    network = build_network(name, num_classes=4, input_shape=SHAPES[name], generator=generator)
    images = torch.randn(5, *SHAPES[name], generator=generator)
    labels = torch.arange(5) % 4
    masks = dense_masks(network)
    one_step(network, masks, images, labels)
    for _ in range(2):
        before = masks
        masks = next_masks(network, before, method=method, rate=RATE, batch=(images, labels))
        check_shrink(before, masks)
        if method == "l1_filter":
            assert count_kept(network, masks)[0] < count_kept(network, before)[0]
        elif isinstance(expected := expected_kept(network, before, method), dict):
            assert {key: int(masks[key].sum()) for key in expected} == expected
        else:
            assert count_kept(network, masks)[0] == expected
        apply_masks(network, masks)
        one_step(network, masks, images, labels)
        state = network.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in masked(state, masks).items())
        network.eval()
        assert network(images).isfinite().all()


@pytest.mark.slow
def test_full_size_network_is_pruned_exactly():
    network = build_network("vgg19", num_classes=10, input_shape=(3, 32, 32))
    masks = None
    kept = 20_024_000
    for _ in range(2):
        masks = next_masks(network, masks, method="global_magnitude", rate=0.2)
        kept -= round(0.2 * kept)
        assert count_kept(network, masks) == (kept, 20_024_000)
