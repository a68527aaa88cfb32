"""Every pruning method through a whole chain, by both backends; pretrained starts; what is refused before training."""

import sys

import pytest
import torch
from folders import winner_of
from listeners import noting
from safetensors.torch import save_file

from oracle.cli import main
from oracle.data import load_images
from oracle.errors import DataError, ExperimentError, FolderError, MaskError, NetworkError
from oracle.experiment import load_experiment
from oracle.networks import build_network
from oracle.networks.pretrained import load_weights
from oracle.pruning import METHODS, next_masks
from oracle.runs.records import read_experiment, read_oracle, read_trials
from oracle.search.run import run_oracle
from oracle.storage import Folder
from oracle.training.parents import fresh_network

CPU = torch.device("cpu")
NARROW = (
    "network.name=resnet8",
    "data.validation=1200",  # of 1,438 digits: 238 are left, three steps
    "pruning.cycles=1",
    "pruning.batch=64",
    "pruning.rewind=none",
    "training={epochs: 1, batch_size: 64}",
    "grid={spacing: explicit, values: [0.02, 0.1]}",
    "seeds=[3]",
)

pytestmark = pytest.mark.slow


def narrow(*overrides):
    return load_experiment("digits-mlp", overrides=[*NARROW, *overrides])


@pytest.mark.parametrize("backend", ["plain", "pack"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_every_method_prunes_in_the_chain_as_it_does_alone(tmp_path, method, backend):
    experiment = narrow(f"pruning.method={method}")
    table = run_oracle(experiment, tmp_path, executor="local", backend=backend).to_pylist()
    assert [row["num_candidates"] for row in table] == [2, 2]
    assert table[0]["weights_remaining"] == 1
    first = winner_of(tmp_path, 0, 3, [table[0]["max_lr"]])
    second = winner_of(tmp_path, 1, 3, [row["max_lr"] for row in table])
    images = load_images(experiment, CPU)
    network = fresh_network(experiment, images, 3)
    network.load_state_dict(first.state)
    batch = images.sample(64, 3)
    masks = next_masks(network, first.masks, method=method, rate=0.2, batch=batch)
    assert masks.keys() == second.masks.keys()
    assert all(torch.equal(mask, second.masks[name]) for name, mask in masks.items())
    assert all((second.state[name][~mask] == 0).all() for name, mask in masks.items())
    kept = [sum(int(mask.sum()) for name, mask in masks.items() if name in first.masks), 0]
    kept[1] = sum(mask.numel() for mask in first.masks.values())
    assert table[1]["weights_remaining"] == kept[0] / kept[1] < 1


def test_images_of_any_source_are_resized(tmp_path):
    experiment = narrow("network.name=vgg19-narrow", "data.resolution=32", "pruning.cycles=0")
    images = load_images(experiment, CPU)
    assert images.input_shape == (1, 32, 32)
    x, _ = next(images.epoch((0, 0, 0), 5))
    assert x.shape == (5, 1, 32, 32)
    small = load_images(narrow(), CPU).sample(5, 0)[0]
    large = images.sample(5, 0)[0]
    assert torch.equal(large, torch.nn.functional.interpolate(small, (32, 32), mode="bilinear", antialias=True))
    assert run_oracle(experiment, tmp_path, executor="local").num_rows == 1


# Fixed peaks in place of a grid


def test_peaks_of_the_experiment_are_trained_and_nothing_else(tmp_path):
    experiment = narrow("peaks=[0.05, 0.2]")
    assert run_oracle(experiment, tmp_path, executor="local")["max_lr"].to_pylist() == [0.05, 0.2]
    assert sorted(read_trials(tmp_path)["max_lr"].to_pylist()) == [0.05, 0.2]
    assert not any(row["lo_on_edge"] or row["hi_on_edge"] for row in read_oracle(tmp_path).to_pylist())
    assert read_experiment(Folder(tmp_path)) == experiment
    run_oracle(narrow("peaks=[0.05, 0.2, 0.3]", "pruning.cycles=2"), tmp_path, executor="local")
    assert read_oracle(tmp_path)["max_lr"].to_pylist() == [0.05, 0.2, 0.3]


def test_one_peak_is_for_all_cycles(tmp_path):
    experiment = narrow("peaks=0.05", "schedule={shape: cyclical}")
    assert experiment.peaks == (0.05,)
    assert run_oracle(experiment, tmp_path, executor="local")["max_lr"].to_pylist() == [0.05, 0.05]


@pytest.mark.parametrize(
    ("peaks", "named"),
    [
        ("[0.1, 0.2, 0.3]", "one for each of 2 cycles, found 3"),
        ("[]", "found 0"),
        ("[0.1, 0]", "peaks.1: found 0"),
        ("-1", "peaks.0: found -1"),
        ("fast", "peaks: expected one max_lr, or a list of one for each cycle, found 'fast'"),
        ("[0.1, true]", r"peaks\.1"),
    ],
)
def test_peaks_that_cannot_be_are_refused(peaks, named):
    with pytest.raises(ExperimentError, match=named):
        narrow(f"peaks={peaks}")


def test_without_peaks_the_hash_is_what_it_was():
    assert narrow("peaks=").hash == narrow().hash
    assert len({narrow().hash, narrow("peaks=0.1").hash, narrow("peaks=[0.1, 0.2]").hash}) == 3


# Pretrained starts


def test_a_search_starts_from_the_weights_it_is_given(tmp_path):
    network = build_network(
        "resnet8", num_classes=10, input_shape=(1, 8, 8), generator=torch.Generator().manual_seed(9)
    )
    save_file(network.state_dict(), tmp_path / "start.safetensors")
    experiment = narrow(
        f"network.weights='{tmp_path}/start.safetensors'",
        "pruning.rewind=weights",
        "optimizer.weight_decay=0",
        "peaks=1e-30",
    )
    run_oracle(experiment, tmp_path / "run", executor="local")
    start = network.state_dict()
    for cycle in (0, 1):
        winner = winner_of(tmp_path / "run", cycle, 3, [1e-30] * (cycle + 1))
        for name, value in winner.state.items():
            if "running" in name or "num_batches" in name:
                continue  # batch norm's statistics move whatever the rate
            mask = winner.masks.get(name, torch.ones_like(value, dtype=torch.bool))
            assert (value - start[name])[mask].abs().max() < 1e-25  # what a rate of 1e-30 can move a weight that is 0
    with pytest.raises(NetworkError, match=r"none\.safetensors' cannot be read: No such file"):
        run_oracle(narrow(f"network.weights='{tmp_path}/none.safetensors'"), tmp_path / "no", executor="local")
    assert not (tmp_path / "no").exists()


def test_a_start_is_known_by_what_its_file_holds_not_by_where_it_lies(tmp_path):
    def weights(seed, name):
        generator = torch.Generator().manual_seed(seed)
        network = build_network("resnet8", num_classes=10, input_shape=(1, 8, 8), generator=generator)
        save_file(network.state_dict(), tmp_path / name)
        return f"network.weights='{tmp_path}/{name}'"

    first = weights(1, "a.safetensors")
    run_oracle(narrow(first, "pruning.cycles=0"), tmp_path / "run", executor="local")
    (tmp_path / "a.safetensors").rename(tmp_path / "moved.safetensors")
    moved = first.replace("a.safetensors", "moved.safetensors")
    assert run_oracle(narrow(moved, "pruning.cycles=1"), tmp_path / "run", executor="local").num_rows == 2
    weights(2, "moved.safetensors")
    with pytest.raises(FolderError, match=r"network\.weights_sha256"):
        run_oracle(narrow(moved, "pruning.cycles=1"), tmp_path / "run", executor="local")
    with pytest.raises(NetworkError, match="the file has changed since the search began"):
        load_weights(small_resnet(), tmp_path / "moved.safetensors", sha256="0" * 64)


def small_resnet():
    return build_network("resnet8", num_classes=10, input_shape=(1, 8, 8))


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `oracle ARGUMENTS` here: exit status, and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["oracle", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code, capsys.readouterr()

    return run


def test_convert_makes_weights_that_a_search_can_start_from(tmp_path, command):
    network = build_network("mobilenetv2", num_classes=7, input_shape=(3, 32, 32))
    torch.save(network.state_dict(), tmp_path / "checkpoint.pth")
    out = tmp_path / "start.safetensors"
    asked = ("--network", "mobilenetv2", "--classes", 10, "--side", 32, "--out", out)
    code, said = command("convert", tmp_path / "checkpoint.pth", *asked)
    assert code == 0
    assert "the head for 7 classes was replaced by a fresh one for 10" in said.out
    assert str(out) in said.out
    fresh = build_network("mobilenetv2", num_classes=10, input_shape=(3, 32, 32))
    load_weights(fresh, out)
    for name, value in network.state_dict().items():
        if not name.startswith("classifier"):
            assert torch.equal(fresh.state_dict()[name], value)


@pytest.mark.parametrize(
    ("network", "file", "named"),
    [
        ("resnet20", "checkpoint.pth", "those that have one are resnet50, mobilenetv2, vit-b-16"),
        ("resnet50", "checkpoint.pth", "cannot be read with weights_only"),
        ("resnet50", "nowhere.pth", "cannot be read"),
    ],
)
def test_convert_refuses_in_one_line(tmp_path, command, network, file, named):
    (tmp_path / "checkpoint.pth").write_bytes(b"not a checkpoint")
    out = tmp_path / "out.safetensors"
    code, said = command("convert", tmp_path / file, "--network", network, "--classes", 10, "--side", 64, "--out", out)
    assert code == 2
    assert said.err.startswith("error: ")
    assert named in said.err
    assert not out.exists()


# Refused before anything is trained, or said


@pytest.mark.parametrize(
    ("overrides", "error", "named"),
    [
        (["pruning.method=magic"], MaskError, "'magic' is not known; the known ones are global_magnitude, .*l1_filter"),
        (["network.name=lenet"], NetworkError, "'lenet' is not known; the known ones are alexnet"),
        (["network.name=vit-tiny"], NetworkError, "the images have 1 channels, but the network reads 3"),
        (["network.name=alexnet-narrow"], NetworkError, "the images are 8x8"),
        (["network.name=mlp-64x2", "pruning.method=l1_filter"], MaskError, "no convolution"),
        (["pruning.method=global_gradient", "pruning.batch=239"], DataError, "only 238 training images"),
        (["training.batch_size=239"], DataError, "only 238 images are left"),
    ],
)
def test_what_cannot_train_is_refused_before_a_folder_is_made(tmp_path, overrides, error, named):
    with pytest.raises(error, match=named):
        run_oracle(narrow(*overrides), tmp_path / "run", executor="local")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rate", [0, 1, -0.2, 1.5])
def test_a_rate_outside_0_and_1_is_refused(rate):
    with pytest.raises(ExperimentError, match=r"pruning\.rate: found"):
        narrow(f"pruning.rate={rate}")


def test_a_cycle_that_leaves_nothing_of_a_layer_runs_and_says_so(tmp_path):
    said = []
    experiment = narrow(
        "network.name=mlp-64x2", "pruning.rate=0.999", "pruning.cycles=2", "pruning.method=layer_magnitude"
    )
    table = run_oracle(experiment, tmp_path, executor="local", listeners=[noting(said)]).to_pylist()
    assert table[-1]["weights_remaining"] < 1e-3
    [text] = [text for text in said if "left nothing" in text]
    assert text.startswith("cycle 2, seed 3: pruning left nothing of ")
