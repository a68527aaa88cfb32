"""Arms: chains of fixed peaks that are trained from the same seeds, side by side, and compared by test accuracy.

Axes: S seeds, M cycles, I test images.
"""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float
from numpy import ndarray

from oracle.errors import CurveError, ExperimentError, FolderError
from oracle.events import CancelToken, Listener
from oracle.execution.executors import Launch
from oracle.experiment import Experiment, experiment_from_yaml
from oracle.experiment.schema import MOST_SEEDS
from oracle.runs.records import EXPERIMENT, read_trials
from oracle.runs.summaries import training_seconds
from oracle.runs.tables import TRIALS
from oracle.search.together import Search, run_together
from oracle.storage import Folder, file_within
from search_spaces.grids import LEAST_RATE, MOST_RATE
from silo_fit.curve import SiloCurve
from silo_fit.differences import Difference, image_error, paired

COLUMNS = (
    "cycle", "seed", "max_lr", "outcome", "weights_remaining", "val_accuracy", "test_accuracy", "best_epoch", "seconds",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One chain with its peaks, as people call it."""

    name: str  # also that of its folder
    label: str
    experiment: Experiment  # with `peaks`

    @property
    def peaks(self) -> tuple[float, ...]:
        """The max_lr of each cycle."""
        return tuple(self.experiment.candidates(cycle)[0] for cycle in range(self.experiment.pruning.cycles + 1))


def with_peaks(
    experiment: Experiment, peaks: Sequence[float], *, seeds: Sequence[int], overrides: Sequence[str] = ()
) -> Experiment:
    """The experiment of an arm: the same, with these peaks and seeds, and nothing searched or looked at beside."""
    own = [f"peaks={json.dumps(list(peaks))}", f"seeds={list(seeds)}", "search={strategy: grid}", "diagnostics=false"]
    return experiment_from_yaml(experiment.to_yaml(), where="arm", overrides=[*own, *overrides])


def peaks_of(curve: SiloCurve, num_cycles: int) -> list[float]:
    """A curve's max_lr at each cycle, to six digits. CurveError where nobody can train with one."""
    peaks = [float(f"{curve(cycle):.6g}") for cycle in range(num_cycles)]
    for cycle, peak in enumerate(peaks):
        if not LEAST_RATE <= peak <= MOST_RATE:
            raise CurveError(
                f"{curve.in_words()}: its max_lr at cycle {cycle} is {peak:g}, and trainings take {LEAST_RATE:g} to "
                f"{MOST_RATE:g}; give another curve (--curve)"
            )
    return peaks


def fresh_seeds(used: Sequence[int], num_seeds: int) -> list[int]:
    """As many seeds that nothing was chosen with: the next whole numbers."""
    if not 1 <= num_seeds <= MOST_SEEDS:
        raise ExperimentError(f"seeds: expected 1 to {MOST_SEEDS:,}, found {num_seeds}")
    first = max(used) + 1
    if first + num_seeds > 2**63:
        raise ExperimentError(f"seeds: there are no {num_seeds} whole numbers of 63 bits after {max(used)}")
    return list(range(first, first + num_seeds))


@dataclass(frozen=True, kw_only=True)
class TrainedArms:
    """What arms reached. Two of them are compared over the cycles that both have finished, with every seed."""

    arms: tuple[Arm, ...]
    trials: Mapping[str, pa.Table]  # by arm: cycles that are finished, and the one in which it diverged
    steps: int  # optimiser steps of one training

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of every arm."""
        return tuple(sorted(self.arms[0].experiment.seeds))

    @cached_property
    def _rows(self) -> dict[str, list[dict[str, Any]]]:
        return {name: table.to_pylist() for name, table in self.trials.items()}

    def finished(self, name: str) -> int:
        """Cycles from 0 on that an arm has finished with every seed."""
        done = Counter(row["cycle"] for row in self._rows[name] if row["outcome"] == "finished")
        return next(cycle for cycle in itertools.count() if done[cycle] < len(self.seeds))

    def ended(self, name: str) -> str | None:
        """Where an arm diverged, in words; None where it did not."""
        lost = [row for row in self._rows[name] if row["outcome"] == "diverged"]
        if not lost:
            return None
        where = f"at cycle {lost[0]['cycle']}, max_lr {lost[0]['max_lr']:.4g}"
        seeds = ", ".join(str(row["seed"]) for row in lost)
        return f"diverged {where} with seed{'s' * (len(lost) != 1)} {seeds}, and could not go on"

    def accuracies(self, name: str, num_cycles: int | None = None) -> Float[ndarray, "S M"]:
        """An arm's test accuracy by seed and cycle, fractions; of its first cycles, by default all that it finished."""
        return np.array([[row["test_accuracy"] for row in rows] for rows in self._by_seed(name, num_cycles)])

    def mean_at(self, name: str, cycle: int) -> tuple[float, float | None] | None:
        """Mean test accuracy at a cycle, and its deviation over seeds; None where the arm did not get there."""
        own = self.accuracies(name)[:, cycle : cycle + 1]
        if not own.size:
            return None
        return float(own.mean()), float(own.std(ddof=1)) if own.size > 1 else None

    def weights_remaining(self, name: str) -> dict[int, float]:
        """By cycle, as far as an arm came; fractions."""
        return {row["cycle"]: row["weights_remaining"] for row in self._rows[name]}

    def bits(self, name: str, num_cycles: int) -> Bool[ndarray, "S M I"] | None:
        """Which test images an arm had right at its first cycles; None where its rows do not tell."""
        rows = [row for rows in self._by_seed(name, num_cycles) for row in rows]
        if not rows or any(row["test_correct"] is None for row in rows):
            return None
        found = np.array(
            [np.unpackbits(np.frombuffer(row["test_correct"], dtype=np.uint8)) for row in rows], dtype=bool
        )
        best = max(range(len(rows)), key=lambda index: rows[index]["test_accuracy"])
        if not rows[best]["test_accuracy"]:
            return None
        images = round(int(found[best].sum()) / rows[best]["test_accuracy"])  # the last byte is filled up with zeros
        return found[:, :images].reshape(len(self.seeds), num_cycles, images)

    def _by_seed(self, name: str, num_cycles: int | None) -> list[list[dict[str, Any]]]:
        cycles = range(self.finished(name) if num_cycles is None else num_cycles)
        rows = {(row["seed"], row["cycle"]): row for row in self._rows[name]}
        return [[rows[seed, cycle] for cycle in cycles] for seed in self.seeds]

    def difference(self, one: str, other: str, *, tolerance: float) -> Difference | None:
        """One arm less another one, over the cycles that both have finished; None where there are none."""
        num_cycles = min(self.finished(one), self.finished(other))
        if not num_cycles:
            return None
        bits = self.bits(one, num_cycles), self.bits(other, num_cycles)
        image_se = None if bits[0] is None or bits[1] is None else image_error(bits[0], bits[1])
        accuracies = self.accuracies(one, num_cycles), self.accuracies(other, num_cycles)
        return paired(*accuracies, tolerance=tolerance, image_se=image_se)

    @property
    def num_trainings(self) -> int:
        """Of all arms."""
        return sum(table.num_rows for table in self.trials.values())

    @property
    def seconds(self) -> float:
        """That all trainings took, one after the other."""
        return sum(map(training_seconds, self.trials.values()))

    def table(self) -> pa.Table:
        """All trainings, a row each: arm, and `COLUMNS` as in a run's trials."""
        parts = [
            table.select(list(COLUMNS)).add_column(0, "arm", pa.array([name] * table.num_rows, pa.string()))
            for name, table in self.trials.items()
        ]
        return pa.concat_tables(parts)


def train_arms(
    arms: Sequence[Arm],
    out: str,
    *,
    launch: Launch,
    listener: Callable[[str], Listener],
    cancel: CancelToken | None = None,
) -> TrainedArms:
    """Train arms together, each in a folder of its name below `out`. Run again after any stop, they go on.

    `listener`: who hears of an arm, by its label. Raises as `run_oracle`, but for an arm that diverges, which ends there.
    """
    check_no_run(out)
    searches = [
        Search(
            name=arm.name, experiment=arm.experiment, out=file_within(out, arm.name), listeners=[listener(arm.label)]
        )
        for arm in arms
    ]
    ended = run_together(searches, launch=launch, cancel=cancel)
    return TrainedArms(
        arms=tuple(arms),
        trials={arm.name: trials_of(file_within(out, arm.name)) for arm in arms},
        steps=next(iter(ended.values())).steps,
    )


def check_no_run(out: str) -> None:
    """FolderError where a folder is a run's own, which nothing else is put into."""
    if Folder(out).size(EXPERIMENT) is not None:
        raise FolderError(f"{Folder(out).url}: is a run's own folder; choose another one with --out")


def trials_of(out: str) -> pa.Table:
    """A run's trials; none where it never began."""
    try:
        return read_trials(out)
    except FolderError:
        return TRIALS.empty_table()
