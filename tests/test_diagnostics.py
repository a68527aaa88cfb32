"""Diagnostics: each number against its definition, computed the slow way; and a search that does not notice them."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from folders import winner_of
from torch import nn

from oracle.analysis.diagnostics import BATCH, DIAGNOSTICS, diagnose, read_diagnostics
from oracle.data import load_images
from oracle.errors import FolderError
from oracle.runs.lineage import AS_IN_0_1_0
from oracle.runs.records import read_trials
from oracle.search.run import run_oracle
from oracle.storage import Folder
from oracle.training.parents import Winner, first_parent, fresh_network, next_parent, parent_network

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
AFTER = AS_IN_0_1_0.after([0.1])
NET = ("1.weight", "3.weight", "5.weight")  # of mlp-64x2


@pytest.fixture
def case(tiny):
    """An experiment in float64, its images, a pruned parent and what might be the network trained from it."""
    experiment = tiny("training.precision=fp64", "diagnostics=true")
    images = load_images(experiment, CPU)
    dense = first_parent(experiment, 0, images)
    first = Winner(state=dense.state, masks=dense.masks, rewind=None)
    parent = next_parent(experiment, 0, images, cycle=1, winner=first, first=first)
    draws = torch.Generator().manual_seed(1)
    weights = {}
    for name, value in parent.state.items():
        moved = value.double() + 0.1 * torch.randn(value.shape, generator=draws, dtype=torch.float64)
        weights[name] = moved * parent.masks[name] if name in parent.masks else moved
    return experiment, images, parent, Winner(state=weights, masks=parent.masks, rewind=None)


def rows_of(case, max_lr=0.3):
    experiment, images, parent, winner = case
    table = diagnose(experiment, images, cycle=1, seed=0, max_lr=max_lr, parent=parent, winner=winner, after=AFTER)
    assert table.schema.equals(DIAGNOSTICS)
    return {(row["quantity"], row["layer"]): row for row in table.to_pylist()}


def expected(case, max_lr=0.3):
    """Every quantity of every layer, by plain PyTorch."""
    experiment, images, parent, winner = case
    network = parent_network(experiment, 0, images, parent)
    network.load_state_dict(winner.state)
    x, labels = images.sample(BATCH, "diagnostics")
    found = {}
    hidden = x.flatten(1)
    for index in (1, 3):
        hidden = torch.relu(hidden @ winner.state[f"{index}.weight"].T + winner.state[f"{index}.bias"])
        found["hidden", f"{index + 2}.weight"] = hidden
    nn.functional.cross_entropy(network(x), labels).backward()
    for name, parameter in network.named_parameters():
        if name in winner.masks:
            kept = winner.masks[name]
            found["weight_gradient", name] = parameter.grad[kept]
            found["weight_update", name] = max_lr * parameter.grad[kept]
            found["weight_change", name] = (winner.state[name] - parent.state[name])[kept]
    for quantity in {quantity for quantity, _ in found}:
        parts = [value.flatten() for (own, _), value in found.items() if own == quantity]
        found[quantity, "all"] = torch.cat(parts)
    return {key: value.detach().double().flatten().numpy() for key, value in found.items()}


def test_every_number_is_what_its_definition_says(case):
    rows, values = rows_of(case), expected(case)
    assert rows.keys() == values.keys()
    for key, row in rows.items():
        value = values[key]
        assert row["count"] == len(value)
        assert row["not_finite"] == 0
        # float64 sums in another order
        assert row["mean"] == pytest.approx(value.mean(), rel=1e-9, abs=1e-15)
        assert row["std"] == pytest.approx(value.std(), rel=1e-9)
        assert (row["min"], row["max"]) == pytest.approx((value.min(), value.max()), rel=1e-9)
        assert len(row["counts"]) == math.ceil(math.log2(len(value))) + 1  # Sturges
        assert sum(row["counts"]) == len(value)
        assert (row["edges"][0], row["edges"][-1]) == (row["min"], row["max"])
        counts, _ = np.histogram(value, row["edges"])
        # A value on an edge may fall to either side by its last bit; zeros of ReLU are on the first edge exactly.
        assert np.abs(counts - row["counts"]).sum() <= 2


def test_pruned_weights_are_left_out(case):
    rows = rows_of(case)
    kept = sum(int(case[3].masks[name].sum()) for name in NET)
    assert kept == 8832 - round(0.2 * 8832)
    for quantity in ("weight_gradient", "weight_update", "weight_change"):
        assert rows[quantity, "all"]["count"] == kept


def test_the_update_is_the_gradient_times_the_rate(case):
    rows = rows_of(case, max_lr=0.25)
    for layer in (*NET, "all"):
        gradient, update = rows["weight_gradient", layer], rows["weight_update", layer]
        assert update["std"] == 0.25 * gradient["std"]  # a power of two: no rounding
        assert update["counts"] == gradient["counts"]


def test_nothing_that_was_handed_in_changes(case):
    _, images, parent, winner = case
    before = [{name: value.clone() for name, value in it.state.items()} for it in (parent, winner)]
    torch.manual_seed(3)
    expected_next = torch.rand(2)
    torch.manual_seed(3)
    batches = [labels for _, labels in images.epoch((0, 0, 0), 100)]
    rows_of(case)
    assert torch.equal(torch.rand(2), expected_next)
    assert all(map(torch.equal, batches, [labels for _, labels in images.epoch((0, 0, 0), 100)]))
    for it, was in zip((parent, winner), before, strict=True):
        assert all(torch.equal(value, was[name]) for name, value in it.state.items())


def test_what_is_not_finite_is_counted_apart(case):
    experiment, images, parent, winner = case
    weights = dict(winner.state)
    weights["5.weight"] = weights["5.weight"].clone()
    weights["5.weight"][0] = math.nan
    broken = replace(winner, state=weights)
    rows = rows_of((experiment, images, parent, broken))
    lost = int(winner.masks["5.weight"][0].sum())
    change = rows["weight_change", "5.weight"]
    assert (change["not_finite"], change["count"]) == (lost, int(winner.masks["5.weight"].sum()) - lost)
    assert math.isfinite(change["std"])
    gradient = rows["weight_gradient", "5.weight"]  # all NaN
    assert (gradient["count"], gradient["std"], gradient["edges"], gradient["counts"]) == (0, None, [], [])


def test_a_layer_that_is_pruned_to_nothing_has_an_empty_row(case):
    experiment, images, parent, winner = case
    masks = dict(winner.masks) | {"3.weight": torch.zeros_like(winner.masks["3.weight"])}
    rows = rows_of((experiment, images, parent, replace(winner, masks=masks)))
    assert rows["weight_gradient", "3.weight"]["count"] == 0
    assert rows["weight_gradient", "3.weight"]["mean"] is None


def test_equal_values_lie_in_one_bin(case):
    experiment, images, parent, winner = case
    rows = rows_of((experiment, images, parent, replace(winner, state=parent.state)))
    change = rows["weight_change", "all"]
    assert (change["mean"], change["std"], change["min"], change["max"]) == (0, 0, 0, 0)
    assert (change["edges"][0], change["edges"][-1]) == (-0.5, 0.5)
    assert sorted(change["counts"])[-2:] == [0, change["count"]]


@pytest.mark.parametrize("name", ["resnet8", "densenet22", "mobilenetv2-narrow", "vit-tiny"])
@pytest.mark.slow
def test_every_kind_of_network_shows_its_layers(tmp_path, tiny, name):
    experiment = tiny(f"network.name={name}", "pruning.prune_output=false")
    images = load_images(experiment, CPU)
    if name == "vit-tiny":  # patches of 8 pixels and three channels
        images = _Coloured(images)
    parent = first_parent(experiment, 0, images)
    winner = Winner(state=parent.state, masks=parent.masks, rewind=None)
    before = fresh_network(experiment, images, 0).state_dict()
    table = diagnose(experiment, images, cycle=0, seed=0, max_lr=0.1, parent=parent, winner=winner, after=AFTER)
    rows = {(row["quantity"], row["layer"]): row for row in table.to_pylist()}
    assert {layer for quantity, layer in rows if quantity == "weight_gradient"} == {*parent.masks, "all"}
    hidden = [layer for quantity, layer in rows if quantity == "hidden"]
    assert len(hidden) > 3
    assert not [layer for layer in hidden if "shortcut" in layer]
    assert rows["hidden", "all"]["not_finite"] == 0
    after = fresh_network(experiment, images, 0).state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


class _Coloured:
    """Digits in three channels."""

    def __init__(self, images):
        self._images = images
        self.num_classes, self.num_train = images.num_classes, images.num_train
        self.input_shape = (3, *images.input_shape[1:])

    def sample(self, size, *key):
        x, labels = self._images.sample(size, *key)
        return x.expand(-1, 3, -1, -1), labels


# In the chain


def bits(out):
    """The trials and the winners of a run."""
    trials = [row | {"seconds": None} for row in read_trials(out).to_pylist()]
    return trials, {path.name: path.read_bytes() for path in sorted(out.glob("winners/*/*"))}


def test_a_search_does_not_notice_its_diagnostics(tiny, tmp_path):
    run_oracle(tiny(), tmp_path / "without", executor="local")
    run_oracle(tiny("diagnostics=true"), tmp_path / "with", executor="local")
    assert bits(tmp_path / "with") == bits(tmp_path / "without")
    assert not list(tmp_path.glob("without/diagnostics"))
    assert read_diagnostics(tmp_path / "without").num_rows == 0
    table = read_diagnostics(tmp_path / "with")
    rows = table.select(["cycle", "seed", "quantity", "layer"]).to_pylist()
    assert (
        len(rows) == len({tuple(row.values()) for row in rows}) == 3 * 2 * (3 * 4 + 3)
    )  # three quantities of 3 + all; hidden
    names = [name for name in Folder(tmp_path / "with").names() if name.startswith("diagnostics/")]
    assert names == [f"diagnostics/cycle={cycle:03d}/seed={seed}.parquet" for cycle in range(3) for seed in (0, 1)]


def test_diagnostics_may_be_asked_for_when_all_is_trained(tiny, tmp_path):
    run_oracle(tiny(), tmp_path, executor="local")
    starts = Folder(tmp_path).names("attempts")
    assert tiny("diagnostics=true").hash == tiny().hash
    run_oracle(tiny("diagnostics=true"), tmp_path, executor="local")
    assert Folder(tmp_path).names("attempts") == starts
    assert set(read_diagnostics(tmp_path)["cycle"].to_pylist()) == {0, 1, 2}


def test_lost_or_broken_diagnostics_are_made_again_and_nothing_else(tiny, tmp_path):
    experiment = tiny("diagnostics=true")
    run_oracle(experiment, tmp_path, executor="local")
    whole, before = read_diagnostics(tmp_path), bits(tmp_path)
    starts = sorted(tmp_path.glob("attempts/*/*"))
    (tmp_path / "diagnostics/cycle=001/seed=1.parquet").unlink()
    (tmp_path / "diagnostics/cycle=002/seed=0.parquet").write_bytes(b"PAR1 half a file")
    assert read_diagnostics(tmp_path).num_rows == whole.num_rows - 2 * 15
    run_oracle(experiment, tmp_path, executor="local")
    assert read_diagnostics(tmp_path).equals(whole)
    assert bits(tmp_path) == before
    assert sorted(tmp_path.glob("attempts/*/*")) == starts


def test_diagnostics_are_those_of_the_winners_on_disk(tiny, tmp_path):
    experiment = tiny("diagnostics=true", "pruning.cycles=1")
    table = run_oracle(experiment, tmp_path, executor="local").to_pylist()
    winner = winner_of(tmp_path, 1, 1, [row["max_lr"] for row in table])
    first = winner_of(tmp_path, 0, 1, [table[0]["max_lr"]])
    images = load_images(experiment, CPU)
    parent = next_parent(experiment, 1, images, cycle=1, winner=first, first=first)
    change = (winner.state["3.weight"] - parent.state["3.weight"])[winner.masks["3.weight"]].double()
    found = pa.Table.to_pylist(read_diagnostics(tmp_path))
    [row] = [
        row
        for row in found
        if (row["cycle"], row["seed"], row["quantity"], row["layer"]) == (1, 1, "weight_change", "3.weight")
    ]
    assert row["std"] == pytest.approx(float(change.std(correction=0)), rel=1e-12)


def test_diagnostics_of_another_winner_are_not_read(tiny, tmp_path):
    experiment = tiny("diagnostics=true", "pruning.cycles=0")
    run_oracle(experiment, tmp_path, executor="local")
    assert read_diagnostics(tmp_path).num_rows == 2 * 15
    run_oracle(tiny("diagnostics=true", "pruning.cycles=0", "peaks=0.05"), tmp_path / "other", executor="local")
    for seed in (0, 1):
        name = f"diagnostics/cycle=000/seed={seed}.parquet"
        (tmp_path / name).write_bytes((tmp_path / "other" / name).read_bytes())
    assert read_diagnostics(tmp_path).num_rows == 0


def test_no_run_is_refused(tmp_path):
    with pytest.raises(FolderError, match="holds no Oracle run"):
        read_diagnostics(tmp_path)
