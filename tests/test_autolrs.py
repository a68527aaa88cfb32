"""AutoLRS: which stages a training has, what trying leaves behind, what is forecast and chosen, and who may train so.

Axes: C = 1 candidate, P weights.
"""

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import training
from oracle.data import load_images
from oracle.errors import ExperimentError
from oracle.experiment import Experiment
from oracle.pruning import next_masks
from oracle.pruning.masks import masked, weights_remaining
from oracle.training.autolrs import (
    LEAST_TRIAL,
    LOWEST,
    MOST_DOUBLINGS,
    TRIED,
    AutoLrsTrainer,
    extra_steps,
    forecast,
    stages,
)
from oracle.training.backends import backend_of, make_trainer
from oracle.training.parents import Parent, first_parent, fresh_network, parent_network
from oracle.training.plain import PlainTrainer
from oracle.training.run import Checkpoint, train_group

Tiny = Callable[..., Experiment]

CPU = torch.device("cpu")
train = functools.partial(training.train, device=CPU)
AUTO = ("training.autolrs=true", "schedule={shape: constant}", "training.batch_size=16", "seeds=[0]")
STEPS = 3 * ((1797 - 359 - 500) // 16)  # of AUTO: 58 an epoch
PEAK = 0.4


@pytest.fixture
def auto(tiny: Tiny) -> Callable[..., Experiment]:
    """Three epochs of 58 steps: stages of 50, 100 and 24 steps, the last of which tries nothing."""
    return lambda *overrides: tiny(*AUTO, *overrides)


class Counting(PlainTrainer):
    """Notes the rate of each step that is taken."""

    rates: list[float]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rates = []

    def step(self, batch: Any, rates: Any) -> Any:
        self.rates.append(float(rates[0]))
        return super().step(batch, rates)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> list[Counting]:
    """The plain trainers that are made."""
    made: list[Counting] = []

    def make(*arguments: Any) -> Counting:
        made.append(Counting(*arguments))
        return made[-1]

    monkeypatch.setattr("oracle.training.backends.PlainTrainer", make)
    return made


def batches(images: Any, num_steps: int, batch_size: int = 16) -> list[Any]:
    """Those of seed 0, cycle 0."""
    found = (batch for epoch in range(num_steps) for batch in images.epoch((0, 0, epoch), batch_size))
    return [next(found) for _ in range(num_steps)]


def trainer_of(experiment: Experiment, images: Any, parent: Parent | None = None) -> Any:
    parent = parent or first_parent(experiment, 0, images)
    return make_trainer("plain", experiment, 0, images, parent, CPU, num_candidates=1)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# Stages.


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 50_000))
def test_stages_cover_all_steps_once_and_in_order(num_steps: int) -> None:
    found = list(stages(num_steps))
    assert [stage.start for stage in found] == [
        sum(each.length for each in found[:place]) for place in range(len(found))
    ]
    assert sum(stage.length for stage in found) == num_steps
    assert all(stage.length > 0 for stage in found)
    assert [stage.validates for stage in found] == [False] + [True] * (len(found) - 1)
    assert extra_steps(num_steps) == sum(TRIED * stage.trial for stage in found)


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 50_000))
def test_trials_are_a_tenth_of_a_stage_and_fit_into_it(num_steps: int) -> None:
    first, *later = stages(num_steps)
    assert 1 <= first.trial <= first.length  # a rate is chosen before the first step
    assert first.trial == max(first.length // 10, min(LEAST_TRIAL, first.length))
    assert all(stage.trial == (stage.length // 10 if stage.length >= 10 * LEAST_TRIAL else 0) for stage in later)
    assert extra_steps(num_steps) <= max(num_steps, TRIED * LEAST_TRIAL)


def test_stages_double_three_times_at_most() -> None:
    lengths = [stage.length for stage in stages(50_000)]
    assert lengths[:5] == [1000 * 2**number for number in range(MOST_DOUBLINGS + 1)] + [8000]
    assert max(lengths) == 8000


def test_training_takes_as_many_steps_more_as_are_told(auto, counting: list[Counting]) -> None:
    [row], _ = train(auto(), cycle=0, candidates=[PEAK])
    assert row["outcome"] == "finished"
    [inner] = counting
    assert STEPS == 174
    assert extra_steps(STEPS) == 10 * (5 + 10 + 0)
    assert len(inner.rates) == STEPS + extra_steps(STEPS)


# Rates.


def test_rates_lie_between_a_thousandth_of_the_peak_and_the_peak(auto, counting: list[Counting]) -> None:
    train(auto(), cycle=0, candidates=[PEAK])
    rates = counting[0].rates
    slack = 1e-12  # the rounding of exp(log(rate)), many times over
    assert max(rates) <= PEAK * (1 + slack)
    assert min(rates) >= LOWEST * PEAK * (1 - slack)


def test_each_stage_keeps_one_rate_that_it_tried(auto, counting: list[Counting]) -> None:
    train(auto(), cycle=0, candidates=[PEAK])
    rates, at, kept = counting[0].rates, 0, []
    for stage in stages(STEPS):
        trials = [set(rates[at + number * stage.trial : at + (number + 1) * stage.trial]) for number in range(TRIED)]
        at += TRIED * stage.trial
        own = set(rates[at : at + stage.length])
        at += stage.length
        assert len(own) == 1
        kept.append(own)
        if stage.trial:
            assert all(len(tried) == 1 for tried in trials)
            assert own in trials
            logs = [math.log(tried.pop() / PEAK) / math.log(LOWEST) for tried in trials[:3]]
            assert logs == pytest.approx([5 / 6, 3 / 6, 1 / 6], rel=1e-9)  # evenly spaced in log, from the least on
    assert kept[2] == kept[1]  # where nothing is tried, the last rate stays
    assert at == len(rates)


@pytest.mark.parametrize("peak", [0.02, 3.0])
def test_planted_forecast_is_lowest_at_the_rate_that_is_chosen(
    auto, monkeypatch: pytest.MonkeyPatch, peak: float
) -> None:
    """A parabola over log rate, as a loss that does not change: its forecast is itself."""
    best = math.log(peak) + 0.4 * math.log(LOWEST)
    asked: list[float] = []

    def losses(self: Any, stage: Any, rate: float, device: Any) -> list[float]:
        asked.append(rate)
        return [0.5 + 0.1 * (math.log(rate) - best) ** 2] * 5

    monkeypatch.setattr(AutoLrsTrainer, "_losses", losses)
    experiment = auto()
    images = load_images(experiment, CPU)
    trainer = trainer_of(experiment, images)
    chosen = trainer._best_rate(next(stages(STEPS)), peak, CPU)
    assert len(asked) == TRIED
    # The first three lie 1/3 of the range apart, the nearest 0.1 of it off. Seven more come nearer by half at the least.
    assert abs(math.log(chosen) - best) < 0.05 * abs(math.log(LOWEST))
    assert chosen == pytest.approx(min(asked, key=lambda rate: abs(math.log(rate) - best)), rel=1e-12)


def test_of_rates_that_all_diverge_the_smallest_is_taken(auto, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def losses(self: Any, stage: Any, rate: float, device: Any) -> list[float]:
        asked.append(rate)
        return [math.nan]

    monkeypatch.setattr(AutoLrsTrainer, "_losses", losses)
    experiment = auto()
    trainer = trainer_of(experiment, load_images(experiment, CPU))
    assert trainer._best_rate(next(stages(STEPS)), PEAK, CPU) == pytest.approx(min(asked), rel=1e-12)


# Trying.


@pytest.mark.parametrize(
    ("network", "optimizer"),
    [("mlp-64x2", "sgd"), ("mlp-64x2", "adam"), pytest.param("resnet8", "sgd", marks=pytest.mark.slow)],
)
def test_trying_leaves_no_trace(auto, network: str, optimizer: str) -> None:
    """Before the first step, when the optimiser remembers nothing, and after some; batch norm's averages too."""
    experiment = auto(f"network.name={network}", f"optimizer={{name: {optimizer}}}")
    images = load_images(experiment, CPU)
    trainer = trainer_of(experiment, images)
    inner, [first, *_] = trainer._inner, stages(STEPS)
    peak = torch.tensor([0.01])
    for batch in batches(images, 2):
        before = {name: value.clone() for name, value in inner.state().items()}
        trainer._best_rate(first, 0.01, CPU)
        assert same(inner.state(), before)
        inner.step(batch, peak)
        assert not same(inner.state(), before)  # else there would be nothing to see


def test_rates_are_tried_on_the_batches_that_come_next(auto, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = auto()
    images = load_images(experiment, CPU)
    trainer = trainer_of(experiment, images)
    expected = batches(images, STEPS)
    for stage in list(stages(STEPS))[:2]:
        found = list(trainer._coming(stage.start, stage.trial))
        assert len(found) == stage.trial
        for one, other in zip(found, expected[stage.start :], strict=False):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
    across = list(trainer._coming(56, 5))  # from the first epoch into the second
    assert all(torch.equal(one[0], other[0]) for one, other in zip(across, expected[56:61], strict=True))


def test_stage_is_trained_on_as_if_nothing_had_been_tried(auto, counting: list[Counting]) -> None:
    """The same rates, step by step, in a plain training: the same bits."""
    experiment = auto()
    images = load_images(experiment, CPU)
    parent, own = first_parent(experiment, 0, images), batches(images, 60)
    tried, taken = trainer_of(experiment, images, parent), []
    for batch in own:
        tried.step(batch, torch.tensor([PEAK], dtype=torch.float64))
        taken.append(counting[0].rates[-1])
    plain = PlainTrainer(parent_network(experiment, 0, images, parent), parent.masks, experiment, CPU)
    for batch, rate in zip(own, taken, strict=True):
        plain.step(batch, torch.tensor([rate], dtype=torch.float64))
    assert same(plain.states(), tried.states())


@pytest.mark.slow
def test_going_on_from_a_checkpoint_gives_the_bits_of_an_undisturbed_training(auto) -> None:
    """After the first epoch, 8 steps into the second stage, whose rate must be remembered."""
    experiment = auto("data.augment=crop-flip")
    images = load_images(experiment, CPU)
    group = functools.partial(
        train_group,
        experiment,
        images,
        first_parent(experiment, 0, images),
        cycle=0,
        seed=0,
        candidates=[PEAK],
        backend="plain",
        device=CPU,
    )
    whole = group()
    for epochs_done in (1, 2):
        asked: list[int] = []

        def cancelled(asked: list[int] = asked, epochs_done: int = epochs_done) -> bool:
            asked.append(0)
            return len(asked) > epochs_done

        stopped = group(cancelled=cancelled)
        assert isinstance(stopped, Checkpoint)
        assert stopped.best.epochs_done == epochs_done
        assert stopped.trainer["autolrs"][0] == 58 * epochs_done
        resumed = group(resume=copy.deepcopy(stopped))
        assert [row | {"seconds": 0} for row in resumed.rows] == [row | {"seconds": 0} for row in whole.rows]
        assert same(resumed.states, whole.states)


def test_pruned_weights_stay_zero(auto) -> None:
    experiment = auto()
    images = load_images(experiment, CPU)
    network = fresh_network(experiment, images, 0)
    masks = next_masks(network, None, method="global_magnitude", rate=0.5)
    parent = Parent(
        state=masked(network.state_dict(), masks), masks=masks, weights_remaining=weights_remaining(network, masks)
    )
    trainer = trainer_of(experiment, images, parent)
    for batch in batches(images, 55):  # into the second stage
        trainer.step(batch, torch.tensor([PEAK], dtype=torch.float64))
        weights = trainer.states()
        assert not any(weights[name][:, ~mask].any() for name, mask in masks.items())
    assert sum(int((~mask).sum()) for mask in masks.values()) > 1000


# Forecasts.


@pytest.mark.parametrize("span", [4.0, 16.0, 40.0])
@pytest.mark.parametrize(("a", "c"), [(2.0, 0.3), (0.5, 1.0), (-0.2, 1.5)])
def test_planted_exponential_is_forecast(a: float, c: float, span: float) -> None:
    t = np.arange(1, 51)
    losses = list(a * np.exp(-t / span) + c)
    # b is one of 20, up to 6% off (10**(1/19) apart, so half a step), and the spline bends a little at the ends.
    assert forecast(losses, 500) == pytest.approx(a * math.exp(-500 / span) + c, abs=0.05 * abs(a))


def test_noise_moves_a_forecast_less_than_it_moves_the_last_loss() -> None:
    generator = np.random.default_rng(0)
    t = np.arange(1, 101)
    true = 2 * math.exp(-1000 / 20) + 0.5
    errors, last = [], []
    for _ in range(10):
        losses = 2 * np.exp(-t / 20) + 0.5 + generator.normal(0, 0.1, 100)
        errors.append(forecast(list(losses), 1000) - true)
        last.append(losses[-1] - true)
    assert np.std(errors) < np.std(last)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 3, 9])
def test_loss_that_is_no_number_is_forecast_as_infinite(bad: float, place: int) -> None:
    losses = [1.0] * 10
    losses[place] = bad
    assert forecast(losses, 100) == math.inf


def test_forecast_is_never_below_0() -> None:
    assert forecast([1.0 - 0.09 * number for number in range(11)], 1000) == 0


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(1, 1000))
def test_forecast_of_any_losses_is_a_number_from_0_on(losses: list[float], times: float) -> None:
    found = forecast(losses, len(losses) * times)
    assert math.isfinite(found)
    assert found >= 0


@pytest.mark.parametrize("num", [1, 2, 4, 5, 16])
def test_loss_that_stays_is_forecast_to_stay(num: int) -> None:
    assert forecast([0.7] * num, 10 * num) == pytest.approx(0.7, rel=1e-6)  # of a least-squares solution


# Who trains so.


def test_packs_are_refused_and_auto_is_plain(auto, tiny: Tiny) -> None:
    experiment = auto()
    images = load_images(experiment, CPU)
    network = fresh_network(experiment, images, 0)
    for device in ("cpu", "cuda"):
        assert backend_of(experiment, network, device, "auto") == "plain"
        assert backend_of(experiment, network, device, "plain") == "plain"
        assert backend_of(tiny(), network, device, "auto") == "pack"  # the same network else is trained in packs
        with pytest.raises(ExperimentError, match=r"backend: found pack, but training\.autolrs trains one candidate"):
            backend_of(experiment, network, device, "pack")
    with pytest.raises(ExperimentError, match="backend: found pack"):
        train(experiment, cycle=0, candidates=[0.1], backend="pack")
    assert isinstance(trainer_of(experiment, images), AutoLrsTrainer)
    assert isinstance(trainer_of(tiny(), images), PlainTrainer)


@pytest.mark.parametrize("shape", ["decay", "cosine", "rex", "cyclical", "warmup"])
def test_schedule_other_than_constant_is_refused(tiny: Tiny, shape: str) -> None:
    with pytest.raises(ExperimentError, match=rf"training\.autolrs: chooses every rate itself.*found {shape}"):
        tiny("training.autolrs=true", f"schedule={{shape: {shape}}}")


def test_experiment_without_it_is_the_one_it_was(tiny: Tiny) -> None:
    constant = "schedule={shape: constant}"
    without, said = tiny(constant), tiny(constant, "training.autolrs=false")
    assert said.hash == without.hash
    assert "autolrs" not in said.to_yaml()
    assert "autolrs" not in said.identity()["training"]
    assert tiny(constant, "training.autolrs=true").hash != without.hash
