"""Whole filters go, with everything that is only there for them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from oracle.errors import MaskError
from oracle.networks import build_network
from oracle.pruning import next_masks
from oracle.pruning.masks import apply_masks, check_shrink

torch.set_num_threads(1)


def drawn(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(generator=generator)
    return network


def alive(mask):
    """Indices of filters, or of inputs if transposed, whose mask keeps anything."""
    return mask.flatten(1).any(1).nonzero().squeeze(1).tolist()


def inputs(mask):
    return alive(mask.transpose(0, 1))


def plain():
    return drawn(
        nn.Sequential(
            *(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(5, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(), nn.Flatten()),
            nn.Linear(10 * 9, 4),
        )
    )


def test_lowest_filters_go_with_bias_norm_and_readers():
    network = plain()
    masks = next_masks(network, None, method="l1_filter", rate=0.2)
    norms = network[0].weight.abs().sum((1, 2, 3))
    dead = int(norms.argmin())
    assert alive(masks["0.weight"]) == [i for i in range(5) if i != dead]
    for name in ("0.bias", "1.weight", "1.bias"):
        assert (~masks[name]).nonzero().tolist() == [[dead]]
    assert inputs(masks["4.weight"]) == alive(masks["0.weight"])
    kept = alive(masks["4.weight"])
    assert len(kept) == 8
    assert sorted({unit // 9 for unit in inputs(masks["8.weight"])}) == kept
    assert len(inputs(masks["8.weight"])) == 8 * 9
    assert "8.bias" not in masks


def test_filters_equal_torch_ln_structured():
    network = drawn(nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 3)))
    masks = next_masks(network, None, method="l1_filter", rate=0.3)
    reference = drawn(nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 3)))
    prune.ln_structured(reference[0], "weight", amount=3, n=1, dim=0)
    assert torch.equal(masks["0.weight"], reference[0].weight_mask.bool())
    assert alive(masks["2.weight"]) == [0, 1, 2, 3]  # they are the output


def test_each_round_keeps_int_of_the_alive_and_never_none():
    network, masks = plain(), None
    counts = []
    for _ in range(9):
        before, masks = masks, next_masks(network, masks, method="l1_filter", rate=0.2)
        if before:
            check_shrink(before, masks)
        apply_masks(network, masks)
        counts.append((len(alive(masks["0.weight"])), len(alive(masks["4.weight"]))))
    # int(0.8 n) at least 1: from 5 and from 10
    assert counts == [(4, 8), (3, 6), (2, 4), (1, 3), (1, 2), (1, 1), (1, 1), (1, 1), (1, 1)]


def test_ties_go_to_the_lower_index():
    network = nn.Sequential(nn.Conv2d(1, 5, 1), nn.ReLU(), nn.Flatten(), nn.Linear(5, 2))
    network[0].weight.data.fill_(1)
    masks = next_masks(network, None, method="l1_filter", rate=0.4)
    assert alive(masks["0.weight"]) == [2, 3, 4]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vgg19-narrow", (3, 16, 16)),
        ("resnet8", (2, 8, 8)),
        ("mobilenetv2-narrow", (2, 8, 8)),
        ("densenet22", (2, 8, 8)),
        ("alexnet-narrow", (3, 32, 32)),
    ],
)
def test_gone_filters_write_zeros_and_nothing_reads_them(name, shape):
    network = drawn(build_network(name, num_classes=4, input_shape=shape)).double().eval()
    original = copy.deepcopy(network.state_dict())
    masks = next_masks(network, None, method="l1_filter", rate=0.3)
    apply_masks(network, masks)
    images = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gone_channels = []
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            gone = ~masks[f"{path}.weight"].flatten(1).any(1)
            module.register_forward_hook(lambda module, args, out, gone=gone: gone_channels.append(out[:, gone]))
    with torch.no_grad():
        expected = network(images)
        assert sum(channels.shape[1] for channels in gone_channels) > 0
        assert not any(channels.any() for channels in gone_channels)
        for key, mask in masks.items():  # the gone filters come back, but not the weights that read them
            gone = ~mask.flatten(1).any(1) if mask.dim() > 1 else ~mask
            network.get_parameter(key)[gone] = original[key][gone]
        gone_channels.clear()
        assert torch.equal(network(images), expected)  # the very same sums: what they add is 0
        assert all(channels.any() for channels in gone_channels if channels.numel())


def test_residual_network_loses_first_convolutions_of_blocks_only():
    network = drawn(build_network("resnet20", num_classes=10, input_shape=(3, 32, 32)))
    masks = next_masks(network, None, method="l1_filter", rate=0.2)
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            written = len(alive(masks[f"{path}.weight"]))
            first = path.endswith("conv1")
            assert written == (int(0.8 * module.out_channels) if first else module.out_channels)
            if path.endswith("conv2"):
                assert inputs(masks[f"{path}.weight"]) == alive(masks[f"{path[:-1]}1.weight"])
    assert masks["fc.weight"].all()
    assert masks["conv.weight"].all()
    assert "blocks.0.bn2.weight" not in masks


def test_bottleneck_network_loses_first_convolutions_of_blocks_only():
    network = drawn(build_network("resnet14-narrow", num_classes=10, input_shape=(3, 32, 32)))
    masks = next_masks(network, None, method="l1_filter", rate=0.2)
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            written = len(alive(masks[f"{path}.weight"]))
            assert written == (int(0.8 * module.out_channels) if path.endswith(".conv1") else module.out_channels)


def test_depthwise_filters_go_with_those_that_feed_them():
    network = drawn(build_network("mobilenetv2", num_classes=10, input_shape=(3, 32, 32)))
    masks = next_masks(network, None, method="l1_filter", rate=0.2)
    lost = {
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and len(alive(masks[f"{path}.weight"])) < module.out_channels
    }
    expansions = {f"features.{i}.conv.0.0" for i in range(2, 18)}
    depthwise = {f"features.{i}.conv.1.0" for i in range(2, 18)}
    assert lost == expansions | depthwise | {"features.18.0"}
    for i in range(2, 18):
        kept = alive(masks[f"features.{i}.conv.0.0.weight"])
        assert len(kept) == int(0.8 * len(masks[f"features.{i}.conv.0.0.weight"]))
        assert alive(masks[f"features.{i}.conv.1.0.weight"]) == kept
        assert inputs(masks[f"features.{i}.conv.2.weight"]) == kept
        for norm in ("conv.0.1", "conv.1.1"):
            assert masks[f"features.{i}.{norm}.weight"].nonzero().squeeze(1).tolist() == kept
    assert inputs(masks["classifier.1.weight"]) == alive(masks["features.18.0.weight"])


def test_concatenated_maps_are_followed_to_all_their_readers():
    network = drawn(build_network("densenet22", num_classes=10, input_shape=(3, 8, 8)))
    masks = next_masks(network, None, method="l1_filter", rate=0.25)
    stem, first = alive(masks["features.0.weight"]), alive(masks["features.1.conv.weight"])
    assert (len(stem), len(first)) == (18, 9)
    joined = stem + [24 + index for index in first]
    assert inputs(masks["features.2.conv.weight"]) == joined
    assert masks["features.2.bn.weight"].nonzero().squeeze(1).tolist() == joined


def test_sum_in_the_networks_own_forward_keeps_its_operands():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 1) for _ in range(4))
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            x = self.a(x)
            x = self.c(F.relu(self.b(x))) + x
            x = F.relu(self.d(x))
            return self.fc(x.view(x.size(0), -1))

    masks = next_masks(drawn(Flat()), None, method="l1_filter", rate=0.5)
    assert {name for name in "abcd" if len(alive(masks[f"{name}.weight"])) < 4} == {"b", "d"}
    assert inputs(masks["fc.weight"]) == alive(masks["d.weight"])


def test_unknown_operation_keeps_the_filters_it_reads():
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ChannelShuffle(2), nn.Conv2d(4, 4, 1), nn.Tanh(), nn.Conv2d(4, 4, 1))
    masks = next_masks(drawn(network), None, method="l1_filter", rate=0.5)
    assert [len(alive(mask)) for mask in masks.values() if mask.dim() == 4] == [4, 2, 4]


def test_output_layer_stays_dense_when_asked():
    masks = next_masks(plain(), None, method="l1_filter", rate=0.2, prune_output=False)
    assert masks["8.weight"].all()
    assert len(alive(masks["4.weight"])) == 8


@pytest.mark.parametrize("name", ["mlp-64x2", "vit-tiny"])
def test_network_without_free_convolutions_is_refused(name):
    network = build_network(name, num_classes=4, input_shape=(3, 16, 16))
    with pytest.raises(MaskError, match="no convolution whose filters"):
        next_masks(network, None, method="l1_filter", rate=0.2)


def test_network_that_cannot_be_traced_is_refused():
    class Choice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)

        def forward(self, x):
            x = self.a(x)
            return self.b(x) if x.sum() > 0 else self.b(-x)

    with pytest.raises(MaskError, match=r"Choice cannot be traced"):
        next_masks(Choice(), None, method="l1_filter", rate=0.2)


def test_layers_run_twice_and_what_they_read_are_kept():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 1) for _ in range(4))
            self.bn, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, x):
            x = self.b(self.b(self.a(x)))
            x = self.bn(self.c(F.relu(self.bn(x))))
            return self.fc(self.d(x).flatten(1))

    masks = next_masks(drawn(Twice()), None, method="l1_filter", rate=0.5)
    assert {name for name in "abcd" if len(alive(masks[f"{name}.weight"])) < 4} == {"d"}
    assert masks.keys() == {*(f"{name}.weight" for name in ("a", "b", "c", "d", "fc")), "d.bias"}


def test_linear_layer_over_columns_keeps_the_filters():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(6, 6), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    masks = next_masks(drawn(network), None, method="l1_filter", rate=0.5)
    assert [len(alive(mask)) for mask in masks.values() if mask.dim() == 4] == [4, 2, 2]


def test_added_parameter_does_not_make_a_network_residual():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)
            self.shift = nn.Parameter(torch.zeros(4, 1, 1))

        def forward(self, x):
            x = F.relu(self.a(x))
            return self.fc((self.b(x) + self.shift).mean((2, 3)))

    masks = next_masks(drawn(Shifted()), None, method="l1_filter", rate=0.5)
    assert (len(alive(masks["a.weight"])), len(alive(masks["b.weight"]))) == (2, 4)


class _LeNet(nn.Module):
    """Two convolutions of 6 and 16 filters, and a way to come from their map to a linear layer."""

    def __init__(self, flatten, pooled):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.flatten = flatten
        self.fc = nn.Linear(16 if pooled else 400, 10)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.c1(x)), 2)
        return self.fc(self.flatten(F.max_pool2d(torch.relu(self.c2(x)), 2)))


@pytest.mark.parametrize(
    ("flatten", "pooled"),
    [
        (lambda x: torch.flatten(x, 1), False),
        (lambda x: x.view(x.size(0), -1), False),
        (lambda x: x.view(-1, 16 * 5 * 5), False),
        (lambda x: x.view(x.size(0), 400), False),
        (lambda x: x.reshape(-1, 400), False),
        (lambda x: F.adaptive_avg_pool2d(x, 1).view(-1, 16), True),
        (lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(), True),
        (lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1), True),
        (lambda x: F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0], True),
        (lambda x: x.mean(3).mean(2), True),
        (lambda x: x.amax((2, 3)), True),
    ],
)
def test_filters_go_before_any_usual_way_of_flattening(flatten, pooled):
    network = _LeNet(flatten, pooled)
    masks = next_masks(network, None, method="l1_filter", rate=0.5)
    assert [int(masks[f"{name}.weight"].flatten(1).any(1).sum()) for name in ("c1", "c2")] == [3, 8]
    images = torch.randn(4, 1, 28, 28)
    apply_masks(network, masks | {"fc.weight": torch.ones_like(masks["fc.weight"])})
    before = network(images)
    apply_masks(network, masks)
    assert torch.equal(network(images), before), "the linear layer lost weights that read a living filter"


@pytest.mark.parametrize(("filters", "rate", "kept"), [(10, 0.8, 2), (20, 0.9, 2), (30, 0.9, 3), (10, 0.2, 8)])
def test_the_number_of_filters_is_exact_where_floats_are_not(filters, rate, kept):
    network = nn.Sequential(nn.Conv2d(1, filters, 3), nn.Flatten(), nn.Linear(filters, 2))
    masks = next_masks(network, None, method="l1_filter", rate=rate)
    assert int(masks["0.weight"].flatten(1).any(1).sum()) == kept
