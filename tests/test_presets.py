"""Every preset can be trained: its network fits its images, its method its network, its schedule the training."""

import functools
import json
import re
import sys
from importlib import resources

import numpy as np
import pytest
import torch

from oracle.cli import main
from oracle.experiment import load_experiment, preset_names
from oracle.networks import build_network
from oracle.pruning import next_masks
from oracle.pruning.masks import weights_remaining
from oracle.training.optimizers import OPTIMIZERS
from oracle.training.schedules import learning_rates
from silo_fit.curve import SiloCurve

NAMES = preset_names()
TABLES = {2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14}  # of the paper; Fig. 1 is fc-cifar10
SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "folder": (3, 224, 224)}
CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "folder": 1000}
IMAGES = {"digits": 1438, "cifar10": 50_000, "cifar100": 50_000, "folder": 1_281_167}  # to train and validate on


def steps_per_epoch(experiment):
    available = 9_469 if experiment.name.endswith("imagenet-small") else IMAGES[experiment.data.source]
    return (available - experiment.data.validation) // experiment.training.batch_size


def trainings(experiment):
    """Of a grid search whose grid does not grow."""
    return (experiment.pruning.cycles + 1) * len(experiment.candidates(0)) * len(experiment.seeds)


def text_of(name):
    return (resources.files("search_spaces") / "presets" / f"{name}.yaml").read_text()


@functools.cache
def pruned_once(network, source, resolution, method, rate, prune_output):
    """The weights that are left after one cycle, as a fraction."""
    shape = (SHAPES[source][0], resolution, resolution) if resolution else SHAPES[source]
    built = build_network(network, num_classes=CLASSES[source], input_shape=shape)
    batch = (torch.randn(2, *shape), torch.tensor([0, 1]))
    masks = next_masks(built, None, method=method, rate=rate, batch=batch, prune_output=prune_output)
    return weights_remaining(built, masks, prune_output=prune_output)


def test_every_table_of_the_paper_has_its_preset_and_a_small_one():
    found = {int(name.split("-")[1]) for name in NAMES if name.startswith("table-")}
    assert found == TABLES
    large = [name for name in NAMES if name.startswith("table-") and not name.endswith("-small")]
    assert {f"{name}-small" for name in large} <= set(NAMES)
    assert len(large) == len(TABLES) + 1  # Table 14 has two networks


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_network_and_method_of_a_preset_fit(name):
    it = load_experiment(name)
    left = pruned_once(
        it.network.name, it.data.source, it.data.resolution, it.pruning.method, it.pruning.rate, it.pruning.prune_output
    )
    if it.pruning.method == "l1_filter":
        assert 0.6 < left < 0.81  # VGG-19 loses inputs and outputs of a layer, ResNet-20 only those within a block
    else:
        assert left == pytest.approx(1 - it.pruning.rate, abs=1e-3)  # rounded in each layer


@pytest.mark.parametrize("name", NAMES)
def test_schedule_of_a_preset_reaches_its_peak_and_ends_low(name):
    it = load_experiment(name)
    steps = steps_per_epoch(it)
    assert steps > 10
    rates = learning_rates(it.schedule, max_lr=0.1, epochs=it.training.epochs, steps_per_epoch=steps)
    assert len(rates) == it.training.epochs * steps
    assert rates.max() == pytest.approx(0.1, rel=1e-12)
    if it.schedule.shape != "constant":
        assert rates[-1] <= 0.1 * 0.011  # two drops, or a cosine
    assert OPTIMIZERS[it.optimizer.name].make(it.optimizer, [torch.nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize(
    ("name", "iterations", "warmup"),
    [
        ("table-02-resnet20-cifar10", 56_160, 20_000),
        ("table-03-vgg19-cifar10", 112_480, 10_000),
        ("table-07-vit-cifar10", 10_005, 500),
        ("table-12-resnet20-adam", 63_180, 20_000),
        ("table-13-resnet20-rmsprop", 63_180, 20_000),
    ],
)
def test_lengths_are_those_that_the_comments_say(name, iterations, warmup):
    it = load_experiment(name)
    rates = learning_rates(it.schedule, max_lr=1.0, epochs=it.training.epochs, steps_per_epoch=steps_per_epoch(it))
    assert len(rates) == iterations
    assert int(rates.argmax()) + 1 == pytest.approx(warmup, rel=0.005)  # the fraction is given to three digits


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("table-") and not name.endswith("-small")])
def test_full_presets_hold_the_papers_settings_and_small_ones_keep_the_science(name):
    full, small = load_experiment(name), load_experiment(f"{name}-small")
    assert full.pruning.rate == 0.2
    assert full.pruning.cycles == 25 or full.pruning.method == "l1_filter"
    assert len(full.seeds) == 5
    assert (full.grid.low, full.grid.high) == (1e-4, 1e-1)
    assert full.optimizer.weight_decay == 1e-4
    assert (small.pruning.method, small.pruning.rewind) == (full.pruning.method, full.pruning.rewind)
    assert (small.optimizer, small.schedule.shape) == (full.optimizer, full.schedule.shape)
    assert small.data.source == full.data.source
    assert trainings(small) * small.training.epochs < 0.01 * trainings(full) * full.training.epochs


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("table-")])
def test_comments_say_where_the_numbers_come_from(name):
    comment = "".join(line for line in text_of(name).splitlines(True) if line.startswith("#"))
    if name.endswith("-small"):
        it = load_experiment(name)
        epochs = int(re.search(r"= ([\d,]+) epochs of", comment.replace("\n# ", " ")).group(1).replace(",", ""))
        assert epochs == trainings(it) * it.training.epochs
        assert "minutes" in comment
    else:
        assert comment.startswith(f"# Table {int(name.split('-')[1])}: ")
        for part in ("From the paper", "Where the paper is silent", "The paper's"):
            assert part in comment


@pytest.mark.parametrize(
    ("name", "eps", "delta"), [("table-02-resnet20-cifar10", 0.03, 0.04), ("table-03-vgg19-cifar10", 0.04, 0.06)]
)
def test_the_peaks_of_silo_in_the_comments_are_its_curves(name, eps, delta):
    line = next(line for line in text_of(name).splitlines() if "[...]" in line)
    given = [float(number) for number in re.findall(r"0\.\d+", line.split('"peaks=[...]":')[1])]
    curve = SiloCurve(eps=eps, delta=delta, q=1, beta=5, pruning_rate=0.2)(np.arange(26))
    peaks = given + given[-1:] * (26 - len(given))
    assert peaks == pytest.approx(curve, rel=2e-3)  # three digits; the last rise to the top is cut off
    it = load_experiment(name, overrides=[f"peaks={peaks}"])
    assert trainings(it) == 26 * 5


def test_presets_lists_every_preset_with_its_trainings(monkeypatch, capsys):
    for arguments in (["--json"], []):
        monkeypatch.setattr(sys, "argv", ["oracle", "presets", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == 0
        said = capsys.readouterr().out
        if arguments:
            assert {it["name"]: it["trainings"] for it in json.loads(said)} == {
                name: trainings(load_experiment(name)) for name in NAMES
            }
        else:
            lines = {line.split()[0]: line for line in said.splitlines()}
            assert set(lines) == set(NAMES)
            assert "6,630 trainings of 160 epochs" in lines["table-02-resnet20-cifar10"]  # 26 x 51 x 5
