"""One training: both trainers, the optimisers, what a score is, and that a resumed training ends with the same bits.

Axes: P = 3 candidates, B images of a batch, V = 7 validation images, S = 5 test images.
"""

import copy
import functools
import math
import random
from typing import get_args

import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import TypeAdapter

from oracle import training
from oracle.data import load_images
from oracle.errors import ExperimentError
from oracle.experiment import Adam, Optimizer, Rmsprop, Sgd
from oracle.networks import build_network
from oracle.pruning import next_masks
from oracle.pruning.masks import masked, weights_remaining
from oracle.runs.tables import TRIALS
from oracle.training.backends import choose_backend, make_trainer
from oracle.training.loop import DIVERGED_LOSS_FACTOR, is_complete, train_candidates
from oracle.training.optimizers import OPTIMIZERS
from oracle.training.parents import Parent, first_parent, fresh_network
from oracle.training.run import Checkpoint, check_rewind_step, run_trainer, train_group

CPU = torch.device("cpu")
train = functools.partial(training.train, device=CPU)  # wherever there is a GPU too: bits are compared
RATES = (0.01, 0.05, 0.1)
SETTINGS = {name: f"{{name: {name}}}" for name in OPTIMIZERS} | {
    "sgd": "{name: sgd, momentum: 0.9, weight_decay: 1e-3}",
    "sgd without momentum": "{name: sgd, momentum: 0}",
    "adam": "{name: adam, weight_decay: 1e-3}",
    "rmsprop": "{name: rmsprop, weight_decay: 1e-3}",
    "rmsprop with momentum": "{name: rmsprop, momentum: 0.9}",
}
PEAKS = {"sgd": 1.0, "sgd without momentum": 1.0}  # times RATES; 0.05 for optimisers that divide by a gradient's size


def half_pruned(experiment, images, *, seed=0, method="global_magnitude"):
    """The parent of a cycle, a network with half of its weights (or filters) pruned."""
    network = fresh_network(experiment, images, seed)
    masks = next_masks(network, None, method=method, rate=0.5)
    state = masked(network.state_dict(), masks)
    return Parent(state=state, masks=masks, weights_remaining=weights_remaining(network, masks))


def trainer_of(backend, experiment, images, parent, num_candidates=1):
    return make_trainer(backend, experiment, 0, images, parent, CPU, num_candidates=num_candidates)


def batches(images, experiment, num_steps):
    """The first batches of seed 0, cycle 1."""
    epochs = range(num_steps)
    found = (batch for epoch in epochs for batch in images.epoch((0, 1, epoch), experiment.training.batch_size))
    return [next(found) for _ in range(num_steps)]


def peaks_for(optimizer, rates=RATES):
    return [rate * PEAKS.get(optimizer, 0.05) for rate in rates]


# The pack equals the plain loop


@pytest.mark.parametrize("clip", ["training.clip_norm=", "training.clip_norm=0.5"], ids=["free", "clipped"])
@pytest.mark.parametrize("optimizer", SETTINGS)
@pytest.mark.parametrize(("network", "steps", "batch_size"), [("mlp-64x2", 12, 64), ("resnet8", 5, 16)])
@pytest.mark.slow
def test_batched_candidate_equals_solo_run(tiny, network, steps, batch_size, optimizer, clip):
    experiment = tiny(
        f"network.name={network}",
        f"optimizer={SETTINGS[optimizer]}",
        clip,
        "training.precision=fp64",
        f"training.batch_size={batch_size}",
        "data.validation=53",
    )
    images = load_images(experiment, CPU)
    parent = half_pruned(experiment, images)
    peaks = torch.tensor(peaks_for(optimizer), dtype=torch.float64)
    pack = trainer_of("pack", experiment, images, parent, 3)
    solo = [trainer_of("plain", experiment, images, parent) for _ in peaks]
    norms = []
    for batch in batches(images, experiment, steps):
        losses = pack.step(batch, peaks)
        alone = torch.cat([one.step(batch, peaks[index : index + 1]) for index, one in enumerate(solo)])
        # Rounding of float64 (1e-16), summed in another order and amplified over a few steps; Adam and RMSprop divide
        # by the root of a squared gradient, which amplifies it most where that is small: 1e-11 after 50 steps.
        torch.testing.assert_close(losses, alone, rtol=1e-9, atol=1e-9)
        norms.append([torch.cat([p.grad.flatten() for p in one._network.parameters()]).norm() for one in solo])
    if "0.5" in clip:
        assert min(float(norm) for norm in norms[0]) == pytest.approx(0.5, rel=1e-5)  # torch adds 1e-6 to the norm
    weights = pack.states()
    for index, one in enumerate(solo):
        own = one.states()
        assert own.keys() == weights.keys() == dict(parent.state).keys()
        for name, value in own.items():
            torch.testing.assert_close(weights[name][index], value[0], rtol=1e-8, atol=1e-8, msg=name)
            if name in parent.masks:
                assert not torch.equal(value[0], parent.state[name].double()), "nothing was learned"
            if "num_batches_tracked" in name:
                assert weights[name][index] == value[0] == steps
            if "running" in name:
                assert not torch.equal(value[0], parent.state[name].double()), "the statistics did not move"
    for batch in images.validation():
        correct, loss = pack.score(batch)
        alone = [one.score(batch) for one in solo]
        assert torch.equal(correct, torch.cat([right for right, _ in alone]))
        torch.testing.assert_close(loss, torch.cat([value for _, value in alone]), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("optimizer", SETTINGS)
def test_whole_trainings_agree_row_by_row(tiny, optimizer):
    experiment = tiny(f"optimizer={SETTINGS[optimizer]}", "training.precision=fp64", "seeds=[0]")
    peaks = peaks_for(optimizer)
    plain, own = train(experiment, cycle=0, candidates=peaks, backend="plain")
    pack, packed = train(experiment, cycle=0, candidates=peaks, backend="pack")
    for row, other in zip(plain, pack, strict=True):
        assert row | {"seconds": 0, "val_loss": 0} == other | {"seconds": 0, "val_loss": 0}  # val_correct to the bit
        assert row["val_loss"] == pytest.approx(other["val_loss"], rel=1e-8)  # as above
    for key, state in own.items():
        for name, value in state.items():
            torch.testing.assert_close(packed[key][name], value, rtol=1e-8, atol=1e-8)


def settings_of(name):
    weight_decay = 0.01
    planted = {
        "sgd": Sgd(name="sgd", weight_decay=weight_decay),
        "sgd without momentum": Sgd(name="sgd", momentum=0.0, weight_decay=weight_decay),
        "adam": Adam(name="adam", betas=(0.8, 0.95), weight_decay=weight_decay),
        "rmsprop": Rmsprop(name="rmsprop", alpha=0.9, weight_decay=weight_decay),
        "rmsprop with momentum": Rmsprop(name="rmsprop", momentum=0.7, weight_decay=weight_decay),
    }
    return planted[name] if name in planted else TypeAdapter(Optimizer).validate_python({"name": name})


CLASSES = {get_args(it.model_fields["name"].annotation)[0]: it for it in get_args(get_args(Optimizer)[0])}


@pytest.mark.parametrize("name", sorted(CLASSES.keys() | OPTIMIZERS.keys()))
def test_every_optimizer_of_the_format_is_in_the_registry_and_the_other_way_round(name):
    kind = OPTIMIZERS[name]
    it = CLASSES[name](name=name)  # every setting has a default
    optimizer = kind.make(it, [torch.nn.Parameter(torch.ones(5))])
    assert optimizer.param_groups[0]["lr"] == 0.0
    value = torch.ones(3, 5)
    memory = {what: [torch.zeros(3, 5)] for what in kind.remembered}
    kind.update([value], [torch.ones(3, 5)], memory, [torch.tensor([0.0, 0.1, 0.2])[:, None]], it, 1)
    assert (value[0] == 1).all()  # a learning rate of 0
    assert (value[1] < 1).all()
    assert (value[2] < value[1]).all()
    assert all(values[0].shape == (3, 5) for values in memory.values())


@pytest.mark.parametrize("name", SETTINGS)
def test_stacked_updates_equal_torch_optim(name):
    """The same gradients to both, of sizes from 1e-6 to 1e3, each candidate at its own rate, which moves every step."""
    it = settings_of(name)
    kind = OPTIMIZERS[it.name]
    draw = torch.Generator().manual_seed(0)
    shapes = [(4, 5), (6,), (2, 1, 3)]
    stacked = [torch.randn(3, *shape, generator=draw, dtype=torch.float64) for shape in shapes]
    alone = [[torch.nn.Parameter(value[c].clone()) for value in stacked] for c in range(3)]
    optimizers = [kind.make(it, parameters) for parameters in alone]
    memory = {what: [torch.zeros_like(value) for value in stacked] for what in kind.remembered}
    for step in range(1, 31):
        grads = [10.0 ** ((step % 10) - 6) * torch.randn(v.shape, generator=draw, dtype=v.dtype) for v in stacked]
        rates = torch.tensor([0.1, 0.01, 0.3], dtype=torch.float64) / step
        for c, (optimizer, parameters) in enumerate(zip(optimizers, alone, strict=True)):
            optimizer.param_groups[0]["lr"] = float(rates[c])
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad[c].clone()
            optimizer.step()
        kind.update(stacked, grads, memory, [rates.view(-1, *[1] * len(shape)) for shape in shapes], it, step)
        for c, parameters in enumerate(alone):
            for value, parameter in zip(stacked, parameters, strict=True):
                # Float64 rounding: the same sums and products, some in another order.
                torch.testing.assert_close(value[c], parameter.detach(), rtol=1e-11, atol=1e-11)


# Pruned weights


@pytest.mark.parametrize(
    ("network", "method"),
    [("mlp-64x2", "global_magnitude"), ("resnet8", "l1_filter")],  # filters take batch norms with them
)
@pytest.mark.parametrize("optimizer", SETTINGS)
@pytest.mark.parametrize("backend", ["plain", "pack"])
@pytest.mark.slow
def test_pruned_weights_are_exactly_zero_after_every_step(tiny, backend, optimizer, network, method):
    experiment = tiny(f"network.name={network}", f"optimizer={SETTINGS[optimizer]}", "training.batch_size=32")
    images = load_images(experiment, CPU)
    parent = half_pruned(experiment, images, method=method)
    peaks = peaks_for(optimizer) if backend == "pack" else peaks_for(optimizer)[1:2]
    trainer = trainer_of(backend, experiment, images, parent, len(peaks))
    for batch in batches(images, experiment, 6):
        before = trainer.states()
        trainer.step(batch, torch.tensor(peaks))
        weights = trainer.states()
        for name, mask in parent.masks.items():
            assert not weights[name][:, ~mask].any(), name
        kept = {name: mask for name, mask in parent.masks.items() if mask.any()}
        assert all((weights[name] != before[name])[:, mask].any() for name, mask in kept.items())
    assert sum(int((~mask).sum()) for mask in parent.masks.values()) > 1000


# Divergence


def test_a_diverging_candidate_leaves_the_bits_of_the_others_alone(tiny):
    experiment = tiny("seeds=[0]")
    calm, own = train(experiment, cycle=0, candidates=[0.05, 0.1, 0.2], backend="pack")
    wild, others = train(experiment, cycle=0, candidates=[0.05, 0.1, 1e30], backend="pack")
    for row, other in zip(calm[:2], wild[:2], strict=True):
        assert row | {"seconds": 0} == other | {"seconds": 0}
        assert row["outcome"] == "finished"
    for max_lr in (0.05, 0.1):
        assert all(torch.equal(value, others[0, max_lr][name]) for name, value in own[0, max_lr].items())
    assert not all(value.isfinite().all() for value in others[0, 1e30].values())


@pytest.mark.parametrize("backend", ["plain", "pack"])
def test_a_diverged_row_has_no_scores(tiny, backend):
    [row], _ = train(tiny("seeds=[0]"), cycle=0, candidates=[1e30], backend=backend)
    assert row["outcome"] == "diverged"
    scores = ("val_accuracy", "val_loss", "test_accuracy", "best_epoch", "val_correct", "test_correct")
    assert [row[name] for name in scores] == [None] * 6
    assert (row["weights_remaining"], row["max_lr"], row["cycle"], row["seed"]) == (1.0, 1e30, 0, 0)


# Resuming


@pytest.mark.parametrize("optimizer", SETTINGS)
@pytest.mark.parametrize(("backend", "network"), [("plain", "mlp-64x2"), ("pack", "mlp-64x2"), ("plain", "resnet8")])
@pytest.mark.slow
def test_a_resumed_training_ends_with_the_bits_of_an_undisturbed_one(tiny, backend, network, optimizer):
    experiment = tiny(
        f"network.name={network}",
        f"optimizer={SETTINGS[optimizer]}",
        "training.clip_norm=1.0",
        "training.epochs=4",
        "schedule={shape: warmup, warmup: 0.3, drops: [0.6]}",
        "data.augment=crop-flip",
        "pruning={cycles: 1, rewind: weights, rewind_step: 2}",
    )
    images = load_images(experiment, CPU)
    parent = half_pruned(experiment, images)
    peaks = peaks_for(optimizer) if backend == "pack" else peaks_for(optimizer)[1:2]
    saved = {}

    def save(best):  # as a checkpoint does: through bytes
        tensors = {name: value.contiguous() for name, value in trainer.state().items()}
        saved[best.epochs_done] = (safetensors.torch.save(tensors), copy.deepcopy(best))

    trainer = trainer_of(backend, experiment, images, parent, len(peaks))
    whole = run_trainer(trainer, experiment, images, cycle=0, seed=0, candidates=peaks, after_epoch=save)
    weights = trainer.states()
    assert sorted(saved) == [1, 2, 3, 4]
    for epochs_done in (1, 3):
        content, best = saved[epochs_done]
        again = trainer_of(backend, experiment, images, parent, len(peaks))
        again.restore(safetensors.torch.load(content))
        resumed = run_trainer(again, experiment, images, cycle=0, seed=0, candidates=peaks, best=best)
        assert resumed.epochs_done == whole.epochs_done == 4
        for name in ("alive", "best_epoch", "val_loss", "val_correct", "test_correct"):
            assert torch.equal(getattr(resumed, name), getattr(whole, name)), name
        assert resumed.rewind.keys() == whole.rewind.keys() == weights.keys()
        assert all(torch.equal(value, resumed.rewind[name]) for name, value in whole.rewind.items())
        assert all(torch.equal(value, again.states()[name]) for name, value in weights.items())


@pytest.mark.parametrize("backend", ["plain", "pack"])
def test_a_group_resumed_from_a_checkpoint_ends_with_the_same_rows_and_states(tiny, backend):
    experiment = tiny("pruning={cycles: 1, rewind: weights, rewind_step: 2}", "data.augment=crop-flip")
    images = load_images(experiment, CPU)
    candidates = [0.02, 0.1, 0.4] if backend == "pack" else [0.1]
    group = functools.partial(
        train_group,
        experiment,
        images,
        half_pruned(experiment, images),
        cycle=0,
        seed=0,
        candidates=candidates,
        backend=backend,
        device=CPU,
    )
    saved = {}

    def save(epochs_done, checkpoint):
        if epochs_done != 2:  # not asked for: not made
            saved[epochs_done] = copy.deepcopy(checkpoint())

    whole = group(after_epoch=save)
    assert list(saved) == [1, 3]
    assert saved[1].best.epochs_done == 1
    assert 0 < saved[1].seconds < saved[3].seconds
    resume = Checkpoint(trainer=saved[1].trainer, best=saved[1].best, seconds=saved[1].seconds + 1000)
    told = []
    resumed = group(resume=resume, after_epoch=lambda epochs_done, checkpoint: told.append((epochs_done, checkpoint())))
    assert [epochs_done for epochs_done, _ in told] == [2, 3]
    assert told[-1][1].seconds > 1000  # the seconds of the checkpoint count
    assert min(row["seconds"] for row in resumed.rows) > 1000 / len(candidates)  # of one candidate
    assert [row | {"seconds": 0} for row in resumed.rows] == [row | {"seconds": 0} for row in whole.rows]
    for one, other in ((whole.states, resumed.states), (whole.rewind, resumed.rewind)):
        assert one.keys() == other.keys() != set()
        assert all(len(value) == len(candidates) and torch.equal(value, other[name]) for name, value in one.items())


def _one_candidate(experiment, images, told, cancelled):
    """Trained from the dense network, keeping in `told` how many epochs were done."""
    return train_group(
        experiment,
        images,
        first_parent(experiment, 0, images),
        cycle=0,
        seed=0,
        candidates=[0.1],
        backend="plain",
        device=CPU,
        after_epoch=lambda epochs_done, checkpoint: told.append(epochs_done),
        cancelled=cancelled,
    )


@pytest.mark.parametrize(("asked", "epochs"), [(1, 0), (2, 1), (3, 2)])  # the how-manieth asking says yes
def test_a_cancelled_group_stops_between_epochs_and_gives_its_checkpoint(tiny, asked, epochs):
    experiment, told, questions = tiny(), [], []
    images = load_images(experiment, CPU)

    def cancelled():
        questions.append(True)
        return len(questions) == asked

    trained = _one_candidate(experiment, images, told, cancelled)
    assert isinstance(trained, Checkpoint)
    assert trained.best.epochs_done == epochs
    assert told == list(range(1, epochs + 1))
    assert len(questions) == asked


def test_a_complete_group_gives_its_rows_although_it_is_cancelled(tiny):
    experiment, told = tiny(), []
    images = load_images(experiment, CPU)
    trained = _one_candidate(experiment, images, told, lambda: len(told) == 3)
    assert [row["outcome"] for row in trained.rows] == ["finished"]


def test_a_finished_training_is_not_trained_on(tiny):
    experiment = tiny()
    images = load_images(experiment, CPU)
    trainer = trainer_of("plain", experiment, images, first_parent(experiment, 0, images))
    best = run_trainer(trainer, experiment, images, cycle=0, seed=0, candidates=[0.1])
    before = trainer.states()
    run_trainer(trainer, experiment, images, cycle=0, seed=0, candidates=[0.1], best=best)
    assert all(torch.equal(value, before[name]) for name, value in trainer.states().items())


# The loop, with planted losses and predictions

V, S = 7, 5


class PlantedImages:
    """One batch of one image an epoch; validation in two parts."""

    num_classes, num_train, num_validation, num_test = 10, 2, V, S

    def __init__(self):
        self.asked = []

    def epoch(self, key, batch_size):
        self.asked.append((*key, batch_size))
        for image in range(self.num_train // batch_size):
            yield torch.tensor([image]), torch.tensor([0])

    def validation(self):
        yield torch.arange(4), torch.zeros(4, dtype=torch.int64)
        yield torch.arange(4, V), torch.zeros(V - 4, dtype=torch.int64)

    def test(self):
        yield torch.arange(100, 100 + S), torch.zeros(S, dtype=torch.int64)


class PlantedTrainer:
    """Says what it was told to: right answers [epoch][candidate], losses [epoch][candidate]."""

    def __init__(self, correct, *, losses=None, scores=None, tested=None):
        self.correct, self.num_candidates = correct, len(correct[0])
        self.losses = losses or [[1.0] * self.num_candidates for _ in correct]
        self.scores = scores or [[1.0] * self.num_candidates for _ in correct]
        self.tested = tested or [[S] * self.num_candidates for _ in correct]
        self.steps, self.tests, self.rates = 0, 0, []

    def step(self, batch, rates):
        self.rates.append(rates.tolist())
        losses = self.losses[self.epoch + 1 if self.steps % 2 == 0 else self.epoch]
        self.steps += 1
        return torch.tensor(losses)

    @property
    def epoch(self):
        """Of the last step; two steps make one."""
        return (self.steps + 1) // 2 - 1

    def score(self, batch):
        images, _ = batch
        testing = int(images[0]) >= 100
        self.tests += testing
        counts = self.tested if testing else self.correct
        first = 100 if testing else 0
        right = torch.stack([images - first < count for count in counts[self.epoch]])
        return right, torch.tensor(self.scores[self.epoch], dtype=torch.float64) * len(images)

    def states(self):
        return {"steps": torch.full((self.num_candidates,), self.steps)}


def run_planted(trainer, **more):
    images = PlantedImages()
    epochs = len(trainer.correct)
    rates = torch.arange(2.0 * epochs).expand(trainer.num_candidates, -1)
    best = train_candidates(trainer, images, rates, key=(5, 6), epochs=epochs, batch_size=1, **more)
    return best, images


def test_the_best_epoch_is_the_earliest_on_ties():
    counts = [[3, 7, 0, 2], [5, 1, 0, 2], [5, 7, 0, 3], [4, 0, 0, 3]]
    best, _ = run_planted(PlantedTrainer(counts))
    assert best.best_epoch.tolist() == [1, 0, 0, 2]
    assert best.val_correct.sum(1).tolist() == [5, 7, 0, 3]
    assert best.epochs_done == 4  # trained to the end, whatever the best epoch


def test_loss_and_test_images_are_those_of_the_best_epoch():
    trainer = PlantedTrainer(
        [[3, 3], [6, 1], [5, 7]],
        scores=[[0.5, 0.6], [0.7, 0.8], [0.1, 0.2]],
        tested=[[1, 1], [2, 5], [5, 3]],
    )
    best, _ = run_planted(trainer)
    assert best.best_epoch.tolist() == [1, 2]
    assert best.test_correct.sum(1).tolist() == [2, 3]
    assert best.val_loss.tolist() == pytest.approx([0.7, 0.2], rel=1e-15)  # a mean over two parts of a batch
    assert best.val_correct.tolist() == [[True] * 6 + [False], [True] * 7]


def test_the_test_set_is_looked_at_only_at_a_new_best_epoch():
    trainer = PlantedTrainer([[3], [3], [2], [5], [5]])
    run_planted(trainer)
    assert trainer.tests == 2


def test_batches_are_asked_for_by_seed_cycle_and_epoch_and_rates_by_step():
    trainer = PlantedTrainer([[3, 1], [4, 1], [5, 1]])
    _, images = run_planted(trainer)
    assert images.asked == [(5, 6, 0, 1), (5, 6, 1, 1), (5, 6, 2, 1)]
    assert trainer.rates == [[float(step)] * 2 for step in range(6)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, DIVERGED_LOSS_FACTOR * math.log(10) * 1.001])
def test_a_diverged_candidate_stays_so_and_the_others_go_on(bad):
    trainer = PlantedTrainer([[3, 3], [7, 4], [7, 5]], losses=[[1.0, 1.0], [bad, 1.0], [1.0, 1.0]])
    best, _ = run_planted(trainer)
    assert best.alive.tolist() == [False, True]
    assert best.best_epoch.tolist() == [0, 2]
    assert best.epochs_done == 3


def test_a_loss_just_below_the_limit_has_not_diverged():
    limit = DIVERGED_LOSS_FACTOR * math.log(10)
    best, _ = run_planted(PlantedTrainer([[3]], losses=[[limit * 0.999]]))
    assert best.alive.tolist() == [True]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_validation_loss_that_is_no_number_is_divergence(bad):
    best, _ = run_planted(PlantedTrainer([[3, 3], [7, 7]], scores=[[1.0, 1.0], [bad, 1.0]]))
    assert best.alive.tolist() == [False, True]
    assert best.best_epoch.tolist() == [0, 1]


def test_training_ends_early_only_when_all_have_diverged():
    trainer = PlantedTrainer(
        [[3, 3], [3, 3], [3, 3], [3, 3]], losses=[[math.nan, 1.0], [1.0, math.nan], [1.0, 1.0], [1.0, 1.0]]
    )
    best, _ = run_planted(trainer)
    assert best.alive.tolist() == [False, False]
    assert best.epochs_done == 2
    assert is_complete(best, 4)
    assert trainer.steps == 4


@pytest.mark.parametrize("step", [1, 2, 3, 6])
def test_the_rewind_state_is_that_after_as_many_steps(step):
    best, _ = run_planted(PlantedTrainer([[1], [2], [3]]), rewind_step=step)
    assert best.rewind["steps"].tolist() == [step]


def test_no_rewind_state_is_kept_unasked():
    best, _ = run_planted(PlantedTrainer([[1], [2], [3]]))
    assert best.rewind == {}


def test_every_epoch_is_told():
    told = []
    run_planted(PlantedTrainer([[1], [2], [3]]), after_epoch=lambda best: told.append(best.epochs_done))
    assert told == [1, 2, 3]


def test_a_cancelled_training_is_not_complete():
    best, _ = run_planted(PlantedTrainer([[1], [2], [3]]), cancelled=iter([False, False, True]).__next__)
    assert best.epochs_done == 2
    assert not is_complete(best, 3)
    assert is_complete(best, 2)


# The same batches, whatever the pack


class Recorder(PlantedTrainer):
    def __init__(self, num_candidates, epochs):
        super().__init__([[0] * num_candidates] * epochs)
        self.seen = []

    def step(self, batch, rates):
        self.seen.append(batch)
        return torch.ones(self.num_candidates)

    def score(self, batch):
        images, _ = batch
        return torch.zeros(self.num_candidates, len(images), dtype=torch.bool), torch.ones(self.num_candidates)


def test_batches_are_the_same_whatever_the_pack(tiny):
    experiment = tiny("data.augment=crop-flip")
    recorders = [Recorder(size, 3) for size in (1, 3)]
    for recorder in recorders:
        images = load_images(experiment, CPU)
        candidates = RATES[: recorder.num_candidates]
        run_trainer(recorder, experiment, images, cycle=2, seed=1, candidates=candidates)
    one, three = (recorder.seen for recorder in recorders)
    assert len(one) == len(three) == 9  # 938 // 256 batches in each of 3 epochs
    for (x, labels), (u, others) in zip(one, three, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(labels, others)


# Rewinding


@pytest.mark.parametrize("step", [1, 3, 5, 9])  # within an epoch of 3 steps, at its end, and at the last step of all
@pytest.mark.parametrize("backend", ["plain", "pack"])
def test_rewind_weights_are_those_after_rewind_step_steps_of_cycle_0(tiny, backend, step):
    experiment = tiny(f"pruning.rewind_step={step}", "schedule={shape: constant}")
    images = load_images(experiment, CPU)
    parent = first_parent(experiment, 0, images)
    trainer = trainer_of(backend, experiment, images, parent)
    best = run_trainer(trainer, experiment, images, cycle=0, seed=0, candidates=[0.1])
    by_hand = trainer_of(backend, experiment, images, parent)
    found = (batch for epoch in range(3) for batch in images.epoch((0, 0, epoch), 256))
    for _, batch in zip(range(step), found, strict=False):
        by_hand.step(batch, torch.tensor([0.1], dtype=torch.float64))
    assert best.rewind.keys() == by_hand.states().keys()
    assert all(torch.equal(value, best.rewind[name]) for name, value in by_hand.states().items())
    later = run_trainer(trainer, experiment, images, cycle=1, seed=0, candidates=[0.1])
    assert later.rewind == {}


def test_a_rewind_step_beyond_the_training_is_refused(tiny):
    check_rewind_step(tiny("pruning.rewind_step=9"), 3)
    with pytest.raises(ExperimentError, match=r"pruning\.rewind_step: found 10, but a training has only 9 steps"):
        check_rewind_step(tiny("pruning.rewind_step=10"), 3)
    with pytest.raises(ExperimentError, match="rewind_step"):
        train(tiny("pruning.rewind_step=10"), cycle=0, candidates=[0.1])


# `train`, as others call it


def test_train_gives_a_row_and_a_state_for_every_seed_and_candidate(tiny):
    experiment = tiny()
    rows, states = train(experiment, cycle=0, candidates=[0.02, 0.4])
    known = [name for name in TRIALS.names if name not in {"lineage", "commit"}]
    assert all(sorted(row) == sorted(known) for row in rows)
    keys = [(0, 0.02), (0, 0.4), (1, 0.02), (1, 0.4)]
    assert [(row["seed"], row["max_lr"]) for row in rows] == list(states) == keys
    network = build_network("mlp-64x2", num_classes=10, input_shape=(1, 8, 8))
    for state in states.values():
        network.load_state_dict(state)  # strict
    for row in rows:
        assert (row["cycle"], row["outcome"], row["weights_remaining"]) == (0, "finished", 1.0)
        assert row["best_epoch"] in range(3)
        assert row["seconds"] > 0
        assert 0.1 < row["val_accuracy"] <= 1  # better than guessing


@pytest.mark.parametrize("backend", ["plain", "pack"])
def test_bits_of_images_are_the_accuracies_and_the_final_network_gives_them(tiny, backend):
    """Where the last epoch is the best one, the returned state must score what its row says."""
    experiment = tiny("training.precision=fp64")
    images = load_images(experiment, CPU)
    rows, states = train(experiment, cycle=0, candidates=RATES, backend=backend, images=images)
    network = build_network("mlp-64x2", num_classes=10, input_shape=(1, 8, 8)).double().eval()
    checked = 0
    for row in rows:
        validated, of_test = (
            np.unpackbits(np.frombuffer(row[name], dtype=np.uint8)) for name in ("val_correct", "test_correct")
        )
        assert len(validated) == 504  # 500 images, in whole bytes
        assert len(of_test) == 360  # 359
        assert not validated[500:].any()
        assert not of_test[359:].any()
        assert validated.sum() / 500 == row["val_accuracy"]
        assert of_test.sum() / 359 == row["test_accuracy"]
        if row["best_epoch"] == 2:
            checked += 1
            network.load_state_dict(states[row["seed"], row["max_lr"]])
            with torch.no_grad():
                validation = torch.cat([network(x).argmax(1) == y for x, y in images.validation()])
                tested = torch.cat([network(x).argmax(1) == y for x, y in images.test()])
            assert validation.tolist() == validated[:500].astype(bool).tolist()
            assert tested.tolist() == of_test[:359].astype(bool).tolist()
    assert checked


def test_train_starts_from_the_parents_it_is_given(tiny):
    experiment = tiny("training.epochs=1")
    images = load_images(experiment, CPU)
    parent = half_pruned(experiment, images)
    [row], states = train(experiment, cycle=3, candidates=[1e-12], parents={7: parent}, images=images)
    assert (row["cycle"], row["seed"], row["weights_remaining"]) == (3, 7, parent.weights_remaining)
    assert row["weights_remaining"] == pytest.approx(0.5, abs=1e-3)  # of 8,832 weights
    for name, value in states[7, 1e-12].items():
        # Three steps at a rate of 1e-12 move a weight by less than float32 can tell of weights around 0.1.
        torch.testing.assert_close(value, parent.state[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", ["plain", "pack"])
def test_training_leaves_global_random_numbers_alone_and_does_not_use_them(tiny, backend):
    experiment = tiny("data.augment=crop-flip", "seeds=[0]")

    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    torch.manual_seed(1)
    before = states()
    rows, weights = train(experiment, cycle=0, candidates=RATES, backend=backend)
    assert states() == before
    torch.manual_seed(2)
    random.seed(2)
    again, others = train(experiment, cycle=0, candidates=RATES, backend=backend)
    assert [row | {"seconds": 0} for row in rows] == [row | {"seconds": 0} for row in again]
    assert all(torch.equal(value, others[key][name]) for key, state in weights.items() for name, value in state.items())


def test_seeds_differ_in_their_starts_and_in_their_batches(tiny):
    experiment = tiny("training.epochs=1")
    images = load_images(experiment, CPU)
    first, second = (first_parent(experiment, seed, images) for seed in (0, 1))
    assert not torch.equal(first.state["1.weight"], second.state["1.weight"])
    rows, _ = train(experiment, cycle=0, candidates=[0.1], parents={0: first, 1: first}, images=images)
    assert rows[0]["val_loss"] != rows[1]["val_loss"]


@pytest.mark.parametrize("backend", ["plain", "pack"])
@pytest.mark.parametrize("precision", ["fp32", "fp64", "bf16"])
@pytest.mark.slow
def test_every_precision_trains(tiny, precision, backend):
    experiment = tiny(f"training.precision={precision}", "seeds=[0]")
    [row], states = train(experiment, cycle=0, candidates=[0.1], backend=backend)
    dtype = torch.float64 if precision == "fp64" else torch.float32  # bf16 keeps its weights in float32
    assert {value.dtype for value in states[0, 0.1].values()} == {dtype}
    assert row["val_accuracy"] > 0.5


@pytest.mark.parametrize(
    ("network", "device", "backend"),
    [
        ("mlp-64x2", "cpu", "pack"),
        ("resnet8", "cpu", "plain"),
        ("fc-256x3", "cpu", "plain"),
        ("resnet8", "cuda", "pack"),
    ],
)
def test_auto_packs_small_networks_without_convolutions_and_all_on_a_gpu(network, device, backend):
    assert choose_backend(build_network(network, num_classes=10, input_shape=(1, 8, 8)), device) == backend
