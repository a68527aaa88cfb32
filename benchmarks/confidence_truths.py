"""Problems whose answer is known: every candidate trained with many seeds, along one chain of peaks.

An ordinary search with many seeds makes one; `benchmarks/truths/NAME.parquet` keeps what it found.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from numpy import ndarray

from oracle.experiment import Experiment, experiment_from_yaml, load_experiment
from oracle.records import read_trials
from oracle.runs.tables import TRIALS
from oracle.search.intervals import find_interval
from oracle.search.run import run_oracle

KEPT = Path(__file__).parent / "truths"
DIVERGED = -1  # in place of a number of correct images

# Axes: M cycles, C candidates, S seeds of the pool.


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a truth is made of."""

    preset: str
    overrides: tuple[str, ...]
    seeds: int
    every: int = 1  # cycle is kept
    noisy: bool = False  # by the goals that are asked of it
    fresh: bool = False  # never used to choose a constant of the model, nor to better it
    needs_data: bool = False

    def experiment(self, data: Path | None = None) -> Experiment:
        """With all its seeds."""
        path = [] if data is None else [f"data.path={data.resolve()}"]
        seeds = f"seeds={list(range(self.seeds))}"
        return load_experiment(self.preset, overrides=[*self.overrides, seeds, *path])


CIFAR = (
    "network.name=mlp-64x2",
    "data.train=5000",
    "data.resolution=8",
    "training.epochs=4",
    "training.batch_size=64",
    "grid.points=24",
    "grid.high=1",
    "grid.low=1e-3",
    "diagnostics=false",
)

PROBLEMS: Mapping[str, Problem] = {
    "digits-mlp": Problem(preset="digits-mlp", overrides=("pruning.cycles=8",), seeds=64, every=2),
    "cifar-noisy": Problem(
        preset="fc-cifar10-small",
        overrides=("name=cifar-noisy", *CIFAR, "data.validation=1000", "pruning.rate=0.6", "pruning.cycles=2"),
        seeds=48,
        noisy=True,
        needs_data=True,
    ),
    # Half the validation images: harder than what is asked of the estimator.
    "cifar-noisiest": Problem(
        preset="fc-cifar10-small",
        overrides=("name=cifar-noisiest", *CIFAR, "data.validation=500", "pruning.rate=0.4", "pruning.cycles=3"),
        seeds=40,
        noisy=True,
        needs_data=True,
    ),
    "digits-adam": Problem(
        preset="digits-mlp",
        overrides=(
            "name=digits-adam",
            "data.train=400",
            "pruning.method=lamp",
            "pruning.rewind=none",
            "pruning.rate=0.5",
            "pruning.cycles=4",
            "schedule={shape: cosine}",
            "optimizer={name: adam}",
            "training.epochs=20",
            "training.batch_size=32",
            "grid.low=1e-5",
            "grid.high=1e-1",
        ),
        seeds=40,
        every=2,
    ),
    "digits-rmsprop": Problem(
        preset="digits-mlp",
        overrides=(
            "name=digits-rmsprop",
            "data.train=600",
            "pruning.rate=0.4",
            "pruning.cycles=2",
            "schedule={shape: constant}",
            "optimizer={name: rmsprop}",
            "training.epochs=10",
            "training.batch_size=32",
            "grid.low=1e-5",
            "grid.high=1e-1",
        ),
        seeds=40,
        fresh=True,
    ),
    "cifar-plain": Problem(
        preset="fc-cifar10-small",
        overrides=(
            *("name=cifar-plain", *CIFAR, "data.validation=800", "data.train=4000", "pruning.rate=0.5"),
            *("pruning.method=lamp", "pruning.cycles=3", "pruning.rewind=weights", "schedule={shape: cosine}"),
            *("optimizer={name: sgd, momentum: 0.0}", "training.epochs=6", "grid.low=1e-2", "grid.high=10"),
        ),
        seeds=40,
        noisy=True,
        fresh=True,
        needs_data=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A pool of seeds at every candidate: its means are what an Oracle of endless seeds would see, drawing from it."""

    name: str
    experiment: Experiment
    cycles: tuple[int, ...]
    correct: Int[ndarray, "M C S"]  # validation images; DIVERGED where it did
    losses: Float[ndarray, "M C S"]  # of validation

    @classmethod
    def read(cls, name: str, folder: Path = KEPT) -> "Truth":
        """One that is kept."""
        table = pq.read_table(folder / f"{name}.parquet")
        experiment = experiment_from_yaml(table.schema.metadata[b"experiment"].decode())
        cycles = sorted(set(table["cycle"].to_pylist()))
        shape = len(cycles), len(experiment.grid.candidates()), len(experiment.seeds)

        def cube(column: str, missing: float) -> Any:
            values = table[column].to_numpy(zero_copy_only=False)
            return np.where(np.isnan(values), missing, values).reshape(shape)

        return cls(
            name=name,
            experiment=experiment,
            cycles=tuple(cycles),
            correct=cube("correct", DIVERGED).astype(np.int64),
            losses=cube("val_loss", np.inf).astype(float),
        )

    @cached_property
    def grid(self) -> tuple[float, ...]:
        """Candidates, ascending."""
        return self.experiment.grid.candidates()

    @property
    def num_validation(self) -> int:
        """Images."""
        return self.experiment.data.validation

    @cached_property
    def accuracies(self) -> Float[ndarray, "M C S"]:
        """In points; -inf where diverged."""
        return np.where(self.correct == DIVERGED, -np.inf, 100 * self.correct / self.num_validation)

    @cached_property
    def intervals(self) -> tuple[tuple[int, int], ...]:
        """First and last candidate of each cycle's interval, by the rule of every Oracle, of all seeds."""
        everyone = range(self.correct.shape[2])
        rows = [
            find_interval(self.trials(index, everyone), tolerance=self.experiment.tolerance)
            for index in range(len(self.cycles))
        ]
        return tuple((self.grid.index(row["lo"]), self.grid.index(row["hi"])) for row in rows)

    def is_within(self, index: int, candidate: int) -> bool:
        """Whether a candidate's mean accuracy at a kept cycle is within the tolerance of the best one's."""
        mean = self.accuracies[index].mean(1)
        return bool(mean[candidate] >= mean.max() - 100 * self.experiment.tolerance - 1e-9)

    def trials(self, index: int, picked: Sequence[int]) -> pa.Table:
        """Rows of a kept cycle, as a search of seeds 0, 1, ... leaves them; `picked`: which of the pool each is."""
        rows = [
            {
                "cycle": self.cycles[index],
                "seed": seed,
                "max_lr": max_lr,
                "outcome": "diverged" if count == DIVERGED else "finished",
                "weights_remaining": (1 - self.experiment.pruning.rate) ** self.cycles[index],
                "val_accuracy": None if count == DIVERGED else count / self.num_validation,
                "val_loss": None if count == DIVERGED else float(self.losses[index, candidate, member]),
                "lineage": "",
                "commit": "",
            }
            for candidate, max_lr in enumerate(self.grid)
            for seed, member in enumerate(picked)
            for count in [int(self.correct[index, candidate, member])]
        ]
        return pa.Table.from_pylist(rows, schema=TRIALS)


def kept_names() -> list[str]:
    """Of truths that are there, in the order of PROBLEMS."""
    return [name for name in PROBLEMS if (KEPT / f"{name}.parquet").exists()]


def make(name: str, runs: Path, data: Path | None) -> Path:
    """Train what is missing of a problem in `runs/NAME`, and keep what was found."""
    problem = PROBLEMS[name]
    run_oracle(problem.experiment(data), runs / name, executor="local", slots=2)
    trials = read_trials(runs / name).to_pylist()
    return keep(problem.experiment(), [row for row in trials if row["cycle"] % problem.every == 0], KEPT)


def keep(experiment: Experiment, trials: Iterable[Mapping[str, Any]], folder: Path) -> Path:
    """Write a truth: an experiment, without where its data lie, and its trials."""
    names = ("cycle", "max_lr", "seed", "val_accuracy", "val_loss")
    rows = sorted((tuple(row[name] for name in names) for row in trials), key=lambda row: row[:3])
    cycles, rates, seeds, accuracies, losses = zip(*rows, strict=True)
    images = experiment.data.validation
    table = pa.table(
        {
            "cycle": pa.array(cycles, pa.int16()),
            "max_lr": pa.array(rates, pa.float64()),
            "seed": pa.array(seeds, pa.int16()),
            "correct": pa.array([None if a is None else round(a * images) for a in accuracies], pa.int32()),
            "val_loss": pa.array(losses, pa.float32()),
        }
    )
    about = {"experiment": experiment.to_yaml(), "correct": f"of {images} validation images; null: diverged"}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{experiment.name}.parquet"
    pq.write_table(table.replace_schema_metadata(about), path, compression="zstd", compression_level=19)
    return path
