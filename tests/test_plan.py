"""`oracle plan`'s hours: with costs planted on a clock of its own, the answer is what was planted."""

import math
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oracle.data import load_images
from oracle.data.images import Batch
from oracle.errors import DataError
from oracle.events import CancelToken
from oracle.execution.worker import run_pack
from oracle.experiment import Experiment
from oracle.records import read_trials
from oracle.search import estimate, timing
from oracle.search.estimate import plan
from oracle.search.run import run_oracle
from oracle.search.timing import EPOCHS, TIMED_STEPS, FirstPack, time_epochs, time_training
from oracle.training.packs import PackTrainer
from oracle.training.parents import first_parent

Tiny = Callable[..., Experiment]
CPU = torch.device("cpu")
START, LOAD, VALIDATION, TEST, TRACE, BESIDE = 0.011, 0.003, 0.007, 0.013, 5.0, 0.017  # seconds
EXACT = 1e-9  # of a sum of clock readings, against the same sum in another order
WARM_STEPS = 2


class Clock:
    """Moves only when something is said to take time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.trainer: PlantedTrainer | None = None  # that packs are trained by
        self.stalls: dict[int, float] = {}  # by reading
        self.readings = 0

    def __call__(self, device: torch.device) -> float:
        self.readings += 1
        self.seconds += self.stalls.get(self.readings, 0.0)
        return self.seconds


class PlantedImages:
    """digits-mlp's shapes, as many batches as asked for, and a price for each."""

    num_classes, input_shape = 10, (1, 8, 8)

    def __init__(
        self, clock: Clock, *, steps: int, batch_size: int, validation: int = 1, test: int = 1, load: float = LOAD
    ) -> None:
        """`steps`: an epoch. `validation`, `test`: batches of two images."""
        self.num_train, self.num_validation, self.num_test = steps * batch_size, 2 * validation, 2 * test
        self._clock, self._steps, self._validation, self._test, self._load = clock, steps, validation, test, load
        self.keys: list[tuple[int, int, int]] = []
        self.drawn = 0  # images that were evaluated

    def epoch(self, key: tuple[int, int, int], batch_size: int) -> Iterator[Batch]:
        self.keys.append(key)
        self._clock.seconds += START
        for _ in range(self._steps):
            self._clock.seconds += self._load
            yield torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)

    def validation(self) -> Iterator[Batch]:
        return self._evaluated(self._validation, VALIDATION)

    def test(self) -> Iterator[Batch]:
        return self._evaluated(self._test, TEST)

    def sample(self, size: int, *key: int | str) -> Batch:
        raise NotImplementedError

    def _evaluated(self, batches: int, price: float) -> Iterator[Batch]:
        for _ in range(batches):
            self._clock.seconds += price
            self.drawn += 2
            yield torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)


class PlantedTrainer:
    """Steps and evaluations at a price; the first of each traces."""

    def __init__(self, clock: Clock, *, num_candidates: int, step: float, score: float) -> None:
        self.num_candidates = num_candidates
        self.steps = self.scores = 0
        self._clock, self._step, self._score = clock, step, score

    def step(self, batch: Batch, rates: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        self._clock.seconds += self._step + (TRACE if self.steps == 1 else 0.0)
        return torch.zeros(self.num_candidates)

    def score(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        self.scores += 1
        self._clock.seconds += self._score + (TRACE if self.scores == 1 else 0.0)
        return torch.ones(self.num_candidates, len(batch[1]), dtype=torch.bool), torch.zeros(self.num_candidates)

    def states(self) -> dict[str, torch.Tensor]:
        return {}

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def restore(self, state: Any) -> None:
        """Nothing to go on from."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In place of the real one; a pack that is cancelled takes BESIDE for each of its candidates."""
    clock = Clock()

    def priced(job: Any, pack: Any, images: Any, **options: Any) -> None:
        run_pack(job, pack, images, **options)
        clock.seconds += BESIDE * len(pack.candidates)

    monkeypatch.setattr(timing, "_now", clock)
    monkeypatch.setattr(FirstPack, "trainer", lambda pack: clock.trainer)
    monkeypatch.setattr(timing, "run_pack", priced)
    return clock


def planted(
    clock: Clock, experiment: Experiment, *, step: float, score: float = 0.002, **images: Any
) -> tuple[FirstPack, PlantedTrainer]:
    """A pack of three candidates, and its trainer."""
    own: Any = PlantedImages(clock, batch_size=experiment.training.batch_size, **images)
    trainer = PlantedTrainer(clock, num_candidates=3, step=step, score=score)
    clock.trainer = trainer
    pack = FirstPack(
        experiment=experiment,
        images=own,
        seed=0,
        parent=first_parent(experiment, 0, own),
        candidates=(0.02, 0.1, 0.4),
        backend="pack",
        device=CPU,
    )
    return pack, trainer


@pytest.mark.parametrize("step", [0.0001, 0.05, 0.5, 60.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 14, 390])
def test_a_training_takes_what_its_parts_take(tiny: Tiny, clock: Clock, steps: int, step: float) -> None:
    pack, _ = planted(clock, tiny("training.epochs=7"), steps=steps, step=step)
    epochs = 7 * (START + steps * (LOAD + step) + (VALIDATION + 0.002) + (TEST + 0.002))
    checkpoints = min(6, epochs // 60)
    whole = epochs + (1 + checkpoints) * 3 * BESIDE
    assert time_training(pack, slots=1) == pytest.approx(whole / 3, rel=EXACT)


@pytest.mark.parametrize("steps", [14, 390])
def test_quick_steps_are_timed_as_often_as_is_allowed_and_no_more(tiny: Tiny, clock: Clock, steps: int) -> None:
    pack, trainer = planted(clock, tiny(), steps=steps, step=0.0001, load=0.0)
    time_training(pack, slots=1)
    assert trainer.steps == WARM_STEPS + TIMED_STEPS


@pytest.mark.parametrize(("step", "most"), [(0.5, 3 * EPOCHS), (60.0, 2)])
def test_slow_steps_are_timed_a_few_times(tiny: Tiny, clock: Clock, step: float, most: int) -> None:
    pack, trainer = planted(clock, tiny(), steps=390, step=step)
    time_training(pack, slots=1)
    assert 2 <= trainer.steps - WARM_STEPS <= most


@pytest.mark.parametrize("steps", [1, 14, 390])
def test_the_epochs_that_are_timed_are_the_first_ones_of_cycle_0(tiny: Tiny, clock: Clock, steps: int) -> None:
    pack, _ = planted(clock, tiny(), steps=steps, step=0.01)
    time_training(pack, slots=1)
    images: Any = pack.images
    assert len(images.keys) > EPOCHS
    assert images.keys[1:] == [(0, 0, epoch) for epoch in range(len(images.keys) - 1)]


@pytest.mark.parametrize("stall", [2.0, 100.0])
@pytest.mark.parametrize("steps", [1, 3, 14, 390])
def test_a_stall_of_any_one_block_does_not_move_the_answer(tiny: Tiny, clock: Clock, steps: int, stall: float) -> None:
    experiment, moved = tiny(), []
    pack, trainer = planted(clock, experiment, steps=steps, step=0.02)
    expected = time_epochs(pack, trainer, CancelToken()).epoch(steps)
    readings = clock.readings
    for reading in {*range(2, 40), *range(41, readings + 1, 11)}:
        pack, trainer = planted(clock, experiment, steps=steps, step=0.02)
        clock.readings, clock.stalls = 0, {reading: stall}
        if time_epochs(pack, trainer, CancelToken()).epoch(steps) != pytest.approx(expected, rel=EXACT):
            moved.append(reading)
    assert not moved
    assert readings > 39


def test_a_long_evaluation_is_timed_in_part_and_counted_whole(tiny: Tiny, clock: Clock) -> None:
    pack, _ = planted(clock, tiny("training.epochs=2"), steps=5, step=0.01, score=0.4, validation=1000, test=700)
    epochs = 2 * (START + 5 * (LOAD + 0.01) + 1000 * (VALIDATION + 0.4) + 700 * (TEST + 0.4))
    expected = epochs + (1 + 1) * 3 * BESIDE  # and one checkpoint
    assert time_training(pack, slots=1) == pytest.approx(expected / 3, rel=EXACT)
    images: Any = pack.images
    assert images.drawn < 100


def test_large_networks_are_written_in_part_and_counted_whole(
    tiny: Tiny, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = planted(clock, tiny(), steps=5, step=0.01)
    expected = time_training(whole, slots=1)
    sizes = []

    def sized(job: Any, pack: Any, images: Any, **options: Any) -> None:
        sizes.append(len(pack.candidates))
        clock.seconds += BESIDE * len(pack.candidates)

    monkeypatch.setattr(timing, "TIMED_BYTES", 1.0)
    monkeypatch.setattr(timing, "run_pack", sized)
    pack, _ = planted(clock, tiny(), steps=5, step=0.01)
    assert time_training(pack, slots=1) == pytest.approx(expected, rel=EXACT)
    assert set(sizes) == {1}


def test_a_pack_that_is_timed_beside_its_epochs_makes_its_trainer_and_writes_its_files(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: set[str] = set()

    def look(job: Any, pack: Any, images: Any, **options: Any) -> None:
        run_pack(job, pack, images, **options)
        written.update(path.name for path in Path(pack.store.folder.url).rglob("*") if path.is_dir())

    monkeypatch.setattr(timing, "run_pack", look)
    plan(tiny(), executor="local")
    assert {"attempts", "checkpoints"} <= written


def test_a_plan_leaves_no_file_behind(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert plan(tiny(), executor="local").hours > 0
    assert not list(tmp_path.iterdir())


def test_a_plan_needs_no_room_for_files(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "is not there"))
    assert plan(tiny(), executor="local").hours > 0


@pytest.mark.parametrize("batch_size", [64, 900])
def test_hours_are_those_of_all_packs(tiny: Tiny, clock: Clock, batch_size: int) -> None:
    step, score = 0.25, 0.125
    clock.trainer = PlantedTrainer(clock, num_candidates=2, step=step, score=score)
    experiment = tiny(f"training.batch_size={batch_size}")
    planned = plan(experiment, executor="local", backend="pack", pack_size=2, slots=1)
    steps = load_images(experiment, CPU).num_train // batch_size
    a_pack = 3 * (steps * step + 2 * score) + 2 * BESIDE
    assert planned.steps_per_training == 3 * steps
    packs = 3 * 2 * 2  # cycles, seeds, packs of a seed: three candidates, two at a time
    assert 3600 * planned.hours == pytest.approx(packs * a_pack, rel=EXACT)


@pytest.mark.parametrize("strategy", ["grid", "adaptive"])
def test_hours_are_those_of_the_trainings_that_are_likely(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    monkeypatch.setattr(estimate, "time_training", lambda *_, **__: 1.0)
    grid = "grid={spacing: log, low: 0.01, high: 1, points: 24}"
    experiment = tiny(grid, f"search.strategy={strategy}")
    planned = plan(experiment, executor="local", slots=1, pack_size=1)
    assert 3600 * planned.hours == pytest.approx(planned.trainings)
    with_ray = plan(experiment, executor="ray", slots=1, pack_size=1)
    rounds = {"grid": 3, "adaptive": 6}[strategy]
    assert 3600 * with_ray.hours == pytest.approx(planned.trainings + 6 * rounds)


@pytest.mark.slow
def test_a_finished_run_has_nothing_left(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny("grid={spacing: log, low: 0.01, high: 1, points: 9}", "search.strategy=adaptive")
    run_oracle(experiment, tmp_path, executor="local")
    planned = plan(experiment, executor="local", out=tmp_path)
    assert planned.trainings == planned.trainings_done == len(read_trials(tmp_path))
    assert planned.hours == 0


def test_with_one_step_an_epoch_many_are_timed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, step = 0, PackTrainer.step

    def counted(self: PackTrainer, *arguments: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        return step(self, *arguments)

    monkeypatch.setattr(PackTrainer, "step", counted)
    plan(tiny("training.batch_size=900"), executor="local", backend="pack")
    assert WARM_STEPS + EPOCHS <= steps <= WARM_STEPS + TIMED_STEPS


def test_slots_that_share_a_process_are_timed_side_by_side(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    both, step = threading.Barrier(2, timeout=60), PackTrainer.step
    met: set[int] = set()

    def meet(self: PackTrainer, *arguments: Any) -> torch.Tensor:
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            both.wait()  # BrokenBarrierError where nobody comes
        return step(self, *arguments)

    monkeypatch.setattr(PackTrainer, "step", meet)
    threads = torch.get_num_threads()
    planned = plan(tiny(), executor="local", backend="pack", slots=2)
    assert (planned.slots, len(met)) == (2, 2)
    assert torch.get_num_threads() == threads


def test_ctrl_c_ends_all_slots_after_the_step_at_hand(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, step, main = 0, PackTrainer.step, threading.get_ident()

    def interrupted(self: PackTrainer, *arguments: Any) -> torch.Tensor:
        nonlocal steps
        if threading.get_ident() == main:
            raise KeyboardInterrupt
        steps += 1
        return step(self, *arguments)

    monkeypatch.setattr(PackTrainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan(tiny("training.batch_size=64"), executor="local", backend="pack", slots=2)
    assert steps <= WARM_STEPS + 1 + 10 + 9  # a first step, and a block


def test_no_more_slots_are_timed_than_there_are_packs(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("oracle.search.estimate.time_training", lambda first, *, slots: asked.append(slots) or 1.0)
    planned = plan(tiny(), executor="local", backend="pack", pack_size=3, slots=64)
    assert (asked, planned.slots) == ([2], 64)  # a pack a seed


def test_one_slot_of_a_cluster_is_timed_alone(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("oracle.search.estimate.time_training", lambda first, *, slots: asked.append(slots) or 1.0)
    planned = plan(tiny(), executor="ray", slots=4)
    assert (asked, planned.slots) == ([1], 4)


@pytest.mark.parametrize("backend", ["pack", "plain"])
def test_rates_at_which_every_candidate_diverges_are_planned_all_the_same(tiny: Tiny, backend: Any) -> None:
    diverging = tiny("grid={spacing: explicit, values: [1e10, 1e20]}", "training.batch_size=64")
    hours = plan(diverging, executor="local", backend=backend).hours
    assert hours > 0
    assert math.isfinite(hours)


def test_a_folder_of_images_is_planned_and_a_broken_one_named(tiny: Tiny, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for part, number in (("train", 12), ("val", 3)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(number):
                pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{index}.png")
    data = f"data={{source: folder, path: '{tmp_path}', validation: 4, augment: resized-crop-flip, resolution: 8}}"
    experiment = tiny(data, "training.batch_size=8")
    assert plan(experiment, executor="local").hours > 0
    for path in (tmp_path / "val").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"\.png: the image cannot be decoded"):
        plan(experiment, executor="local")
