"""Masks, exact counts, ties, and every refusal of `next_masks`."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from oracle.errors import MaskError
from oracle.pruning import METHODS, next_masks
from oracle.pruning.layers import prunable, prunable_layers
from oracle.pruning.masks import (
    apply_masks,
    check_shrink,
    count_kept,
    dense_masks,
    emptied_layers,
    masked,
    weights_remaining,
)

torch.set_num_threads(1)


def layers(*values):
    """A network of linear layers without biases, one row each, that hold the given numbers."""
    network = nn.Sequential(*(nn.Linear(len(row), 1, bias=False) for row in values))
    for module, row in zip(network, values, strict=True):
        module.weight.data = torch.tensor([row])
    return network


def convnet(seed=0):
    network = nn.Sequential(
        *(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 7, 3), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(7 * 4, 11), nn.ReLU(), nn.Linear(11, 4)),
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(generator=generator)
    return network


def pruned(masks):
    return {name: (~mask).flatten().nonzero().squeeze(1).tolist() for name, mask in masks.items()}


def test_lowest_go_over_all_layers():
    network = layers([5.0, -1.0, 3.0], [-2.0, 4.0])
    masks = next_masks(network, None, method="global_magnitude", rate=0.4)
    assert pruned(masks) == {"0.weight": [1], "1.weight": [0]}
    masks = next_masks(network, masks, method="global_magnitude", rate=0.34)
    assert pruned(masks) == {"0.weight": [1, 2], "1.weight": [0]}


def test_lowest_go_within_each_layer():
    network = layers([5.0, -1.0, 3.0, 9.0], [20.0, 40.0])
    masks = next_masks(network, None, method="layer_magnitude", rate=0.5)
    assert pruned(masks) == {"0.weight": [1, 2], "1.weight": [0]}


def test_ties_go_by_layer_then_by_flat_index():
    network = layers([1.0, 1.0, 2.0], [1.0, 0.5, -1.0, 1.0])
    for count, expected in [
        (1, {"0.weight": [], "1.weight": [1]}),
        (3, {"0.weight": [0, 1], "1.weight": [1]}),
        (4, {"0.weight": [0, 1], "1.weight": [0, 1]}),
        (6, {"0.weight": [0, 1], "1.weight": [0, 1, 2, 3]}),
    ]:
        assert pruned(next_masks(network, None, method="global_magnitude", rate=count / 7)) == expected


@pytest.mark.parametrize("rate", [0.001, 0.2, 0.5, 0.999])
def test_prunes_exactly_the_asked_number_when_scores_tie(rate):
    network = convnet()
    for parameter in network.parameters():
        parameter.data = parameter.data.round().clamp(-1, 1)  # three values
    masks, kept = None, 105 + 30 + 315 + 28 * 11 + 44
    kept = count_kept(network, dense_masks(network))[0]
    for _ in range(4):
        masks = next_masks(network, masks, method="global_magnitude", rate=rate)
        kept -= round(rate * kept)
        assert count_kept(network, masks)[0] == kept


def test_pruned_weights_count_as_zero_whatever_the_network_holds():
    network = convnet()
    first = next_masks(network, None, method="global_magnitude", rate=0.5)
    clean = copy.deepcopy(network)
    apply_masks(clean, first)
    with torch.no_grad():
        for name, mask in first.items():
            network.get_parameter(name)[~mask] = float("nan")
    batch = (torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 4)
    for method in METHODS:
        a = next_masks(network, first, method=method, rate=0.3, batch=batch)
        b = next_masks(clean, first, method=method, rate=0.3, batch=batch)
        assert pruned(a) == pruned(b)


def test_kept_zeros_are_pruned_but_no_pruned_weight_counts_twice():
    network = layers([0.0, 0.0, 3.0, 4.0, 5.0])
    masks = {"0.weight": torch.tensor([[False, True, True, True, True]])}
    assert pruned(next_masks(network, masks, method="global_magnitude", rate=0.5)) == {"0.weight": [0, 1, 2]}


@pytest.mark.parametrize("rate", [0.2, 0.37])
def test_equals_torch_global_unstructured(rate):
    network = convnet()
    reference = copy.deepcopy(network)
    targets = [(m, "weight") for m in reference if isinstance(m, nn.Conv2d | nn.Linear)]
    masks = None
    for _ in range(3):
        masks = next_masks(network, masks, method="global_magnitude", rate=rate)
        apply_masks(network, masks)
        prune.global_unstructured(targets, pruning_method=prune.L1Unstructured, amount=rate)
        for name, (module, _) in zip(prunable(network), targets, strict=True):
            assert torch.equal(masks[name], module.weight_mask.bool())


@pytest.mark.parametrize("rate", [0.2, 0.37])
def test_equals_torch_l1_unstructured(rate):
    network = convnet()
    reference = copy.deepcopy(network)
    masks = None
    for _ in range(3):
        masks = next_masks(network, masks, method="layer_magnitude", rate=rate)
        apply_masks(network, masks)
        for name in prunable(network):
            module = reference.get_submodule(name.removesuffix(".weight"))
            prune.l1_unstructured(module, "weight", amount=rate)
            assert torch.equal(masks[name], module.weight_mask.bool())


def test_output_layer_stays_dense_and_is_not_counted():
    network = convnet()
    total = sum(network.get_parameter(name).numel() for name in prunable(network)[:-1])
    for method in METHODS:
        batch = (torch.ones(5, 3, 6, 6), torch.arange(5) % 4)
        masks = next_masks(network, None, method=method, rate=0.3, batch=batch, prune_output=False)
        assert masks["8.weight"].all()
        assert count_kept(network, masks, prune_output=False)[1] == total
        if method not in ("l1_filter", "layer_magnitude", "lap", "lap_bn"):
            assert count_kept(network, masks, prune_output=False)[0] == total - round(0.3 * total)


def test_masks_given_are_left_alone_and_the_network_too():
    network = convnet()
    network[3].weight.requires_grad_(False)
    network[4].eval()
    network[0].weight.grad = torch.ones_like(network[0].weight)
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    given = next_masks(network, None, method="layer_magnitude", rate=0.3)
    copies = {name: mask.clone() for name, mask in given.items()}
    rng = torch.get_rng_state()
    for method in METHODS:
        batch = (torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 4)
        after = next_masks(network, given, method=method, rate=0.3, batch=batch)
        check_shrink(given, after)
        assert all(torch.equal(mask, copies[name]) for name, mask in given.items())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert [m.training for m in network.modules()] == modes
        assert not network[3].weight.requires_grad
        assert network[0].weight.requires_grad
        assert (network[0].weight.grad == 1).all()
        assert network[6].weight.grad is None
    assert torch.equal(torch.get_rng_state(), rng)


def test_attention_projections_are_prunable_in_state_dict_order():
    network = nn.TransformerEncoderLayer(6, 2, 10)
    assert prunable(network) == [
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    ]
    apart = nn.MultiheadAttention(6, 2, kdim=4, vdim=4)
    assert prunable(apart) == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]


def test_shared_weight_counts_once():
    shared = nn.Linear(4, 4)
    network = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared), nn.Linear(4, 4))
    network[3].weight = shared.weight
    assert prunable(network) == ["0.weight"]
    masks = next_masks(network, None, method="global_magnitude", rate=0.25)
    assert count_kept(network, masks) == (12, 16)


def test_norms_embeddings_and_biases_are_not_prunable():
    network = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.BatchNorm1d(3))
    assert [layer.name for layer in prunable_layers(network)] == ["2.weight"]


def test_bfloat16_and_float64_layers_may_stand_side_by_side():
    network = layers([5.0, -1.0, 3.0], [-1.001, 4.0])  # bfloat16 rounds 1.001 to 1
    network[0].bfloat16()
    network[1].double()
    masks = next_masks(network, None, method="global_magnitude", rate=0.4)
    assert pruned(masks) == {"0.weight": [1], "1.weight": [0]}


def test_memory_format_changes_nothing():
    network, other = convnet(), convnet().to(memory_format=torch.channels_last)
    for parameter in (*network.parameters(), *other.parameters()):
        parameter.data.mul_(2).round_()  # ties
    images = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    for method in METHODS.keys() - {"global_gradient"}:  # whose sums may round differently
        a = next_masks(network, None, method=method, rate=0.3)
        b = next_masks(other, None, method=method, rate=0.3)
        assert pruned(a) == pruned(b)
    next_masks(other, b, method="global_gradient", rate=0.3, batch=(images, torch.arange(5) % 4))


def test_tiny_rate_prunes_nothing():
    network = layers([5.0, -1.0, 3.0])
    for method in ("global_magnitude", "layer_magnitude", "lamp", "lap"):
        assert pruned(next_masks(network, None, method=method, rate=0.1)) == {"0.weight": []}


def test_layer_may_be_emptied_and_is_named():
    network = layers([0.1, 0.2], [5.0, 6.0, 7.0])
    masks = next_masks(network, None, method="global_magnitude", rate=0.4)
    assert emptied_layers(masks) == ["0.weight"]
    after = next_masks(network, masks, method="layer_magnitude", rate=0.4)
    assert pruned(after) == {"0.weight": [0, 1], "1.weight": [0]}
    assert weights_remaining(network, after) == 0.4


def test_masked_state_is_exactly_zero_even_for_stacked_candidates():
    masks = {"w": torch.tensor([True, False, True])}
    state = {"w": torch.tensor([[1.0, float("nan"), 3.0], [4.0, -5.0, 6.0]]), "b": torch.ones(2)}
    out = masked(state, masks)
    assert out["w"].tolist() == [[1.0, 0.0, 3.0], [4.0, 0.0, 6.0]]
    out["b"].zero_()
    assert state["b"].all()


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.2, 1.5, float("nan")])
def test_rate_outside_its_range_is_refused(rate):
    with pytest.raises(MaskError, match="rate is"):
        next_masks(convnet(), None, method="lamp", rate=rate)


def test_unknown_method_lists_the_known_ones():
    with pytest.raises(MaskError, match=r"'magnitude'.*global_magnitude, layer_magnitude.*l1_filter"):
        next_masks(convnet(), None, method="magnitude", rate=0.2)


def test_masks_that_do_not_fit_are_refused():
    network = convnet()
    masks = dense_masks(network)
    for wrong, says in [
        (masks | {"3.weight": torch.ones(7, 5, 1, 1, dtype=torch.bool)}, r"'3.weight'.*\(7, 5, 1, 1\).*\(7, 5, 3, 3\)"),
        (masks | {"3.weight": torch.ones(7, 5, 3, 3)}, "'3.weight'.*float32.*bool"),
        (masks | {"9.weight": torch.ones(2, dtype=torch.bool)}, "'9.weight'"),
        ({k: v for k, v in masks.items() if k != "3.weight"}, "3.weight"),
    ]:
        with pytest.raises(MaskError, match=says):
            next_masks(network, wrong, method="lamp", rate=0.2)
    with pytest.raises(MaskError, match="gone"):
        check_shrink(masks, {})
    with pytest.raises(MaskError, match=r"'w' would regrow 2"):
        check_shrink({"w": torch.tensor([False, False, True])}, {"w": torch.tensor([True, True, True])})
    with pytest.raises(MaskError, match="no tensor"):
        masked({}, masks)


def test_scores_that_are_nan_are_refused_by_layer():
    network = convnet()
    network[3].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(MaskError, match=r"'3.weight': 1 scores are NaN"):
        next_masks(network, None, method="global_magnitude", rate=0.2)


def test_gradient_without_a_batch_is_refused():
    with pytest.raises(MaskError, match="batch"):
        next_masks(convnet(), None, method="global_gradient", rate=0.2)


def test_weight_that_is_computed_is_refused():
    network = convnet()
    prune.l1_unstructured(network[3], "weight", amount=0.5)
    with pytest.raises(MaskError, match=r"weight of '3' is no Parameter.*prune.remove"):
        next_masks(network, None, method="lamp", rate=0.2)


def test_network_without_weights_is_refused():
    with pytest.raises(MaskError, match="Sequential has no weight to prune"):
        next_masks(nn.Sequential(nn.ReLU()), None, method="lamp", rate=0.2)


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 3)), r"'0.weight' has no values yet \(lazy\)"),
        (nn.Linear(4, 3, device="meta"), r"'weight' has no values yet \(on the meta device\)"),
    ],
)
def test_network_without_values_is_refused(network, named):
    with pytest.raises(MaskError, match=named):
        next_masks(network, None, method="global_magnitude", rate=0.2)
