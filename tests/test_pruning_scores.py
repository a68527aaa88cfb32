"""LAMP, the gradient and lookahead against small cases worked out by hand or by plain loops."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from oracle.errors import MaskError
from oracle.pruning import next_masks
from oracle.pruning.layers import prunable
from oracle.pruning.lookahead import lap, lap_bn
from oracle.pruning.masks import dense_masks
from oracle.pruning.scores import filter_norm, gradient, lamp

torch.set_num_threads(1)


def drawn(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(generator=generator)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.double()


def scores_of(score, network, masks=None, batch=None):
    masks = masks or dense_masks(network)
    weights = {name: (network.get_parameter(name) * masks[name]).detach() for name in masks}
    return score(network, weights, masks, batch)


def close(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)  # rounding


def test_lamp_by_hand():
    # squares 9, 1, 4, 4, 16: 9/25, 1/34, 4/33, 4/33, 16/16
    network = nn.Linear(5, 1, bias=False)
    network.weight.data = torch.tensor([[3.0, -1.0, 2.0, -2.0, 4.0]])
    close(scores_of(lamp, network)["weight"], [[9 / 25, 1 / 34, 4 / 33, 4 / 33, 1.0]])
    masks = {"weight": torch.tensor([[True, True, False, True, False]])}  # squares 9, 1, 4
    close(scores_of(lamp, network, masks)["weight"], [[1.0, 1 / 14, 0.0, 4 / 13, 0.0]])


def test_lamp_equals_a_plain_sum():
    network = drawn(nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)))
    network[0].weight.data = network[0].weight.data.mul(4).round()  # ties
    for name, scores in scores_of(lamp, network).items():
        squares = network.get_parameter(name).detach().square().flatten()
        expected = [w / squares[squares >= w].sum() if w else 0.0 for w in squares]
        close(scores.flatten(), expected)


def test_lamp_spares_the_layer_with_few_weights():
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 1, bias=False))
    network[0].weight.data = torch.arange(1.0, 17).view(4, 4)
    network[1].weight.data = torch.full((1, 4), 0.001)
    masks = next_masks(network, None, method="lamp", rate=0.5)
    assert masks["1.weight"].all()  # each scores 1/4; the ten lowest of the other layer score less
    assert masks["0.weight"].sum() == 6


def test_lamp_of_a_layer_of_zeros_is_zero():
    network = nn.Linear(3, 1, bias=False)
    network.weight.data.zero_()
    assert scores_of(lamp, network)["weight"].tolist() == [[0.0, 0.0, 0.0]]


def test_gradient_is_weight_times_slope_of_the_mean_loss():
    network = drawn(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 2)))
    images = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 1, 0, 1])
    scores = scores_of(gradient, network, batch=(images, labels))
    x = network[2](network[1](network[0](images)))  # batch statistics, no dropout
    F.cross_entropy(network[4](x), labels).backward()
    for name in prunable(network):
        parameter = network.get_parameter(name)
        torch.testing.assert_close(scores[name], (parameter * parameter.grad).abs().detach(), rtol=1e-12, atol=1e-15)


def test_gradient_of_a_layer_that_is_not_used_is_zero():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.spare, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(x)

    scores = scores_of(gradient, Spare(), batch=(torch.ones(5, 4), torch.zeros(5, dtype=torch.long)))
    assert not scores["spare.weight"].any()
    assert scores["out.weight"].any()


class Twice(nn.Module):
    """A layer and a batch norm that are registered under two names each."""

    def __init__(self):
        super().__init__()
        self.e = self.f = nn.Linear(6, 6)
        self.bn = self.bn2 = nn.BatchNorm1d(6)
        self.o = nn.Linear(6, 3)

    def forward(self, x):
        return self.o(self.bn2(self.f(self.bn(self.e(x)))))


def test_gradient_leaves_a_module_with_two_names_as_it_was():
    network = Twice()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    held = [*network.parameters(), *network.buffers()]
    generator = torch.Generator().manual_seed(0)
    batch = (torch.randn(5, 6, generator=generator), torch.arange(5) % 3)
    masks = [next_masks(network, None, method="global_gradient", rate=0.3, batch=batch) for _ in range(2)]
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(now is then for now, then in zip([*network.parameters(), *network.buffers()], held, strict=True))
    assert network.e.weight is network.f.weight


def test_gradient_of_a_module_with_two_names_is_that_of_all_its_uses():
    network = drawn(Twice())
    images = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(5) % 3
    scores = scores_of(gradient, network, batch=(images, labels))
    F.cross_entropy(network(images), labels).backward()
    for name in prunable(network):
        parameter = network.get_parameter(name)
        # the slopes behind a batch norm nearly cancel: hence atol
        torch.testing.assert_close(scores[name], (parameter * parameter.grad).abs().detach(), rtol=1e-9, atol=1e-12)


def test_lookahead_by_hand():
    # 2 -> 2 -> 1: rows of A have norm^2 5 and 25; columns of B 4 and 9.
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    network[0].weight.data = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    network[2].weight.data = torch.tensor([[2.0, -3.0]])
    scores = scores_of(lap, network)
    close(scores["0.weight"], [[1 * 4, 4 * 4], [9 * 9, 16 * 9]])
    close(scores["2.weight"], [[4 * 5, 9 * 25]])


def test_lookahead_scores_every_layer_before_any_is_pruned():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[0].weight.data = torch.tensor([[1.0, 1.0], [0.5, 0.5]])
    network[1].weight.data = torch.tensor([[1.0, 1.0], [1.0, 4.0]])
    # First layer: 2, 2 | 17/4, 17/4: its first row goes. Second: 2, 1/2 | 2, 8: its second and first weight go, while
    # with that row gone before, the first column would score 0, 0.
    masks = next_masks(network, None, method="lap", rate=0.5)
    assert masks["0.weight"].tolist() == [[False, False], [True, True]]
    assert masks["1.weight"].tolist() == [[False, False], [True, True]]


def squared_rows(weight):
    return torch.stack([row.square().sum() for row in weight])


def by_loops(weight, input_factor, output_factor):
    """Each weight squared, times the factor of the channel it reads and of the channel it writes.

    input_factor: (output, input of its group) -> factor; output_factor: one a channel.
    """
    out = torch.empty_like(weight)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in weight.shape)).tolist():
        out[tuple(index)] = weight[tuple(index)] ** 2 * input_factor(*index[:2]) * output_factor[index[0]]
    return out


@pytest.mark.parametrize("score", [lap, lap_bn])
def test_lookahead_through_batch_norm_depthwise_and_flattening(score):
    network = drawn(
        nn.Sequential(
            *(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU()),
            *(nn.Conv2d(3, 3, 3, groups=3), nn.BatchNorm2d(3), nn.ReLU()),
            *(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 4, 7), nn.Linear(7, 2)),
        )
    )
    stem, depthwise, point, flat, last = (network[i].weight.detach() for i in (0, 3, 6, 9, 10))

    def norm(i):
        m = network[i]
        scale = (m.weight.square() / (m.running_var + m.eps)).detach()
        return scale if score is lap_bn else torch.ones_like(scale)

    by_stem, by_depthwise = squared_rows(stem) * norm(1), squared_rows(depthwise) * norm(4)
    by_point, by_flat = squared_rows(point), squared_rows(flat)
    got = scores_of(score, network)
    close(got["0.weight"], by_loops(stem, lambda o, i: 1, squared_rows(depthwise) * norm(1)))
    point_columns = squared_rows(point.transpose(0, 1)) * norm(4)
    close(got["3.weight"], by_loops(depthwise, lambda o, i: by_stem[o], point_columns))
    flat_columns = torch.stack([flat[:, 4 * c : 4 * c + 4].square().sum() for c in range(5)])
    close(got["6.weight"], by_loops(point, lambda o, i: by_depthwise[i], flat_columns))
    close(got["9.weight"], by_loops(flat, lambda o, i: by_point[i // 4], squared_rows(last.T)))
    close(got["10.weight"], by_loops(last, lambda o, i: by_flat[i], torch.ones(2)))


def test_lookahead_with_grouped_convolution():
    network = drawn(nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 6, 1, groups=2), nn.Conv2d(6, 3, 1)))
    first, grouped, last = (layer.weight.detach() for layer in network)
    got = scores_of(lap, network)
    by_first = squared_rows(first)
    last_columns = squared_rows(last.transpose(0, 1))
    close(got["1.weight"], by_loops(grouped, lambda o, i: by_first[2 * (o // 3) + i], last_columns))
    read_by = [slice(0, 3), slice(0, 3), slice(3, 6), slice(3, 6)]  # filters that read each channel
    columns = torch.stack([grouped[filters, c % 2].square().sum() for c, filters in enumerate(read_by)])
    close(got["0.weight"], by_loops(first, lambda o, i: 1, columns))


class Residual(nn.Module):
    """A stem, a block with a projection shortcut, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 1, bias=False)
        self.conv1 = nn.Conv2d(3, 4, 1, bias=False)
        self.conv2 = nn.Conv2d(4, 3, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(3)
        self.shortcut = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))
        self.fc = nn.Linear(3, 5)

    def forward(self, x):
        x = self.stem(x)
        x = self.bn2(self.conv2(self.conv1(x))) + self.shortcut(x)
        return self.fc(x.mean((2, 3)))


def test_projection_shortcut_is_neither_pruned_nor_a_neighbour():
    network = drawn(Residual())
    for method in ("lap", "lap_bn"):
        masks = next_masks(network, None, method=method, rate=0.5)
        assert masks["shortcut.0.weight"].all()
        assert masks["conv2.weight"].sum() == 6
    got = scores_of(lap_bn, network)
    assert "shortcut.0.weight" not in got
    bn = (network.bn2.weight.square() / (network.bn2.running_var + network.bn2.eps)).detach()
    rows = network.conv2.weight.detach().square().sum((1, 2, 3))
    close(got["fc.weight"], network.fc.weight.detach().square() * rows * bn)


class Dense(nn.Module):
    """Concatenation: what the last layer reads is more than its neighbour writes, though the counts divide."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 3, 1, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.b = nn.Conv2d(3, 3, 1, bias=False)
        self.last_bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5, bias=False)

    def forward(self, x):
        x = self.a(x)
        return self.fc(self.last_bn(torch.cat([x, self.b(self.bn(x))], 1)).mean((2, 3)))


def test_neighbours_behind_a_concatenation_count_one():
    network = drawn(Dense())
    got = scores_of(lap_bn, network)
    bn = (network.bn.weight.square() / (network.bn.running_var + network.bn.eps)).detach()
    close(got["fc.weight"], network.fc.weight.detach().square())
    rows = network.a.weight.detach().square().sum((1, 2, 3)) * bn
    close(got["b.weight"], network.b.weight.detach().square() * rows.view(1, 3, 1, 1))


def test_neighbours_inside_attention_count_one():
    network = drawn(nn.TransformerEncoderLayer(6, 2, 10))
    got = scores_of(lap, network)
    close(got["self_attn.in_proj_weight"], network.self_attn.in_proj_weight.detach().square())
    columns = network.linear1.weight.detach().square().sum(0)
    close(got["self_attn.out_proj.weight"], network.self_attn.out_proj.weight.detach().square() * columns.view(6, 1))


def test_batch_norm_without_scale_or_statistics():
    network = drawn(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 2, 1)))
    plain, scaled = scores_of(lap, network), scores_of(lap_bn, network)
    close(scaled["0.weight"], plain["0.weight"] / (network[1].running_var + network[1].eps).view(3, 1, 1, 1))
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 2, 1))
    plain, scaled = scores_of(lap, network), scores_of(lap_bn, network)
    assert all(torch.equal(plain[name], scaled[name]) for name in plain)


def test_filter_norm_is_one_sum_a_filter():
    network = nn.Sequential(nn.Conv2d(1, 2, (1, 2)), nn.Flatten(), nn.Linear(2, 2))
    network[0].weight.data = torch.tensor([[[[1.0, -2.0]]], [[[0.5, 0.0]]]])
    scores = scores_of(filter_norm, network)
    assert {name: score.tolist() for name, score in scores.items()} == {"0.weight": [3.0, 0.5]}


@pytest.mark.parametrize("method", ["lap", "lap_bn", "lamp"])
def test_single_layer_has_no_neighbours(method):
    network = drawn(nn.Linear(5, 4))
    masks = next_masks(network, None, method=method, rate=0.25)
    expected = next_masks(network, None, method="layer_magnitude", rate=0.25)
    assert torch.equal(masks["weight"], expected["weight"])


@pytest.mark.parametrize("method", ["global_magnitude", "layer_magnitude", "global_gradient", "lamp", "lap", "lap_bn"])
def test_an_output_layer_alone_that_is_not_pruned_stays_whole(method):
    network, batch = nn.Linear(5, 2), (torch.randn(4, 5), torch.tensor([0, 1, 0, 1]))
    masks = next_masks(network, None, method=method, rate=0.2, batch=batch, prune_output=False)
    assert masks.keys() == {"weight"}
    assert masks["weight"].all()


@pytest.mark.parametrize(
    ("labels", "says"), [([0, 1, 5], "labels 0 to 5, but the network tells 2"), ([0, 1], "3 images and 2 labels")]
)
def test_a_batch_that_does_not_fit_the_network_is_refused(labels, says):
    batch = torch.randn(3, 5), torch.tensor(labels)
    with pytest.raises(MaskError, match=says):
        next_masks(nn.Linear(5, 2), None, method="global_gradient", rate=0.2, batch=batch)
