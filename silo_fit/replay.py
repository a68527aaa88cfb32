"""Does a SILO curve reach what the Oracle reaches? Three chains from fresh seeds: the curve, the optima, a constant.

The Oracle's own accuracies cannot say it: each is the largest of many noisy ones, and so too high. So its optima are
trained again as fixed peaks, from seeds that nothing was chosen with, beside the curve and one constant peak.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from oracle.errors import ExperimentError, TableError
from oracle.events import CancelToken, Listener
from oracle.execution.executors import Launch
from oracle.experiment import Experiment
from oracle.runs.records import opened, read_experiment, read_trials
from oracle.runs.tables import Row, oracle_rows, to_parquet
from oracle.storage import Folder
from oracle.view.words import counted
from search_spaces.grids import LEAST_RATE, MOST_RATE
from silo_fit.arms import Arm, TrainedArms, fresh_seeds, peaks_of, train_arms, with_peaks
from silo_fit.curve import SiloCurve
from silo_fit.differences import Difference
from silo_fit.fit import fit
from silo_fit.tables import read_intervals

SILO, ORACLE, CONSTANT = "silo", "oracle", "constant"  # arms
FILE, PICTURE = "replay.parquet", "replay.png"


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What is to be trained, and why."""

    source: str  # the Oracle's folder
    experiment: Experiment  # the Oracle's
    rows: tuple[Row, ...]  # of its oracle.parquet
    curve: SiloCurve
    is_fitted: bool  # the curve, to these rows
    constant: float
    tolerance: float
    arms: tuple[Arm, ...]
    num_searched: int  # the Oracle's trainings
    remarks: tuple[str, ...] = ()

    @property
    def num_trainings(self) -> int:
        """Of all arms."""
        return sum(len(arm.peaks) * len(arm.experiment.seeds) for arm in self.arms)


def plan_replay(
    source: str,
    *,
    curve: Callable[[float], SiloCurve] | None = None,
    constant: float | None = None,
    num_seeds: int | None = None,
    tolerance: float | None = None,
    overrides: Sequence[str] = (),
    used_seeds: Sequence[int] = (),
) -> Replay:
    """Lay out the arms for a search's folder, whose cycles so far are replayed.

    `curve`: makes one from the pruning rate; None: the one that fits the Oracle's intervals. `constant`: its peak; None:
    the optimum of cycle 0. `num_seeds`: as many as the Oracle had by default. `tolerance`: within which two arms count as
    equal; the experiment's by default. `overrides`: of the experiment, where its data lie elsewhere now. `used_seeds`:
    that the curve was found with; no arm has them, nor the Oracle's. Raises FolderError for what is no search's folder,
    TableError for one without a finished cycle, CurveError and ExperimentError for peaks that nobody can train with.
    """
    folder = opened(source)
    experiment, rows = read_experiment(folder), oracle_rows(folder)
    if experiment.peaks is not None:
        raise TableError(f"{folder.url}: its peaks were fixed, so there is no Oracle to replay; give a search's folder")
    if not rows:
        raise TableError(f"{folder.url}: no cycle is finished yet, so there is nothing to replay")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ExperimentError(f"tolerance: expected a fraction of accuracy between 0 and 1, found {tolerance:g}")
    if constant is not None and not LEAST_RATE <= constant <= MOST_RATE:
        raise ExperimentError(f"constant: expected a rate from {LEAST_RATE:g} to {MOST_RATE:g}, found {constant:g}")
    own = curve(experiment.pruning.rate) if curve else fit(read_intervals(source)).curve
    trials = read_trials(folder)
    used = sorted({*experiment.seeds, *trials["seed"].to_pylist(), *used_seeds})
    peaks = {
        SILO: peaks_of(own, len(rows)),
        ORACLE: [row["max_lr"] for row in rows],
        CONSTANT: [rows[0]["max_lr"] if constant is None else constant] * len(rows),
    }
    labels = {SILO: "SILO", ORACLE: "Oracle's optima", CONSTANT: f"constant {peaks[CONSTANT][0]:.4g}"}
    seeds = fresh_seeds(used, len(experiment.seeds) if num_seeds is None else num_seeds)
    cycles = [f"pruning.cycles={len(rows) - 1}", *overrides]
    remarks = []
    if len(rows) <= experiment.pruning.cycles:
        remarks.append(
            f"the search has finished {len(rows)} of {experiment.pruning.cycles + 1} cycles; these are replayed"
        )
    return Replay(
        source=folder.url,
        experiment=experiment,
        rows=tuple(rows),
        curve=own,
        is_fitted=curve is None,
        constant=peaks[CONSTANT][0],
        tolerance=experiment.tolerance if tolerance is None else tolerance,
        arms=tuple(
            Arm(
                name=name,
                label=labels[name],
                experiment=with_peaks(experiment, own_peaks, seeds=seeds, overrides=cycles),
            )
            for name, own_peaks in peaks.items()
        ),
        num_searched=trials.num_rows,
        remarks=tuple(remarks),
    )


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What the arms reached, and what that says."""

    replay: Replay
    trained: TrainedArms

    @cached_property
    def differences(self) -> Mapping[tuple[str, str], Difference | None]:
        """SILO less the Oracle's optima, SILO less the constant, and the optima less the constant.

        None where one of the two diverged at once.
        """
        pairs = ((SILO, ORACLE), (SILO, CONSTANT), (ORACLE, CONSTANT))
        return {pair: self.trained.difference(*pair, tolerance=self.replay.tolerance) for pair in pairs}

    @property
    def verdict(self) -> str:
        """Whether SILO reaches the Oracle, in a sentence."""
        return self._sentence(SILO, ORACLE)

    def _sentence(self, one: str, other: str) -> str:
        """What is said of two arms; where one ended early, that comes first."""
        names = {SILO: "SILO", ORACLE: "the Oracle", CONSTANT: f"a constant max_lr of {self.replay.constant:.4g}"}
        peaks = {arm.name: arm.peaks for arm in self.replay.arms}
        if peaks[one] == peaks[other]:
            return f"{names[one]} and {names[other]} have the same peaks, so there is nothing to tell apart"
        found, cycles = self.differences[one, other], len(self.replay.rows)
        ended = [f"{names[arm]} {why}" for arm in (one, other) if (why := self.trained.ended(arm))]
        if not ended:
            assert found is not None
            return found.sentence(names[one], names[other])
        rest = ""
        if found is not None:
            rest = f"; over the {counted(found.num_cycles, 'cycle')} before, of {cycles}, {found.in_words()}"
        return f"no comparison of {names[one]} and {names[other]} to the end: {' and '.join(ended)}{rest}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What else is to be said: against the constant, and what must be known beside it."""
        said = [self._sentence(SILO, CONSTANT), self._sentence(ORACLE, CONSTANT)]
        first = self.differences[SILO, ORACLE]
        images = None if first is None else first.images_in_words()
        said += [f"SILO less the Oracle: {images}"] if images else []
        return (*said, *self.replay.remarks)

    @property
    def costs(self) -> str:
        """What the arms and the Oracle took."""
        chain = len(self.replay.rows)
        return (
            f"trainings: {self.trained.num_trainings:,} for this replay; the Oracle took {self.replay.num_searched:,}, a "
            f"chain of known peaks {chain} a seed"
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row a cycle: weights remaining, and each arm's max_lr and mean test accuracy with its deviation."""
        found = []
        for cycle, searched in enumerate(self.replay.rows):
            row: dict[str, Any] = {"cycle": cycle, "weights_remaining": searched["weights_remaining"]}
            for arm in self.replay.arms:
                mean, std = self.trained.mean_at(arm.name, cycle) or (None, None)
                row[arm.name] = {"max_lr": arm.peaks[cycle], "test_accuracy": mean, "test_accuracy_std": std}
            found.append(row | {"oracle_in_sample": searched["test_accuracy"]})
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON; fractions of accuracy."""
        return {
            "source": self.replay.source,
            "curve": self.replay.curve.as_dict(),
            "is_fitted": self.replay.is_fitted,
            "seeds": self.trained.seeds,
            "verdict": self.verdict,
            "notes": self.notes,
            "differences": {
                f"{one}-{other}": each and each.as_dict() for (one, other), each in self.differences.items()
            },
            "trainings": {"replay": self.trained.num_trainings, "oracle": self.replay.num_searched},
            "seconds": self.trained.seconds,
            "per_cycle": self.rows(),
        }

    def write(self, out: str) -> None:
        """Keep all trainings as a table, with what they say in its metadata, and the picture."""
        from silo_fit.plots import Line, draw_replay

        folder = Folder(out)
        table = self.trained.table().replace_schema_metadata({"replay": json.dumps(self.as_dict())})
        folder.write_if_changed(FILE, to_parquet(table))
        lines = [
            Line(label=arm.label, accuracies=self.trained.accuracies(arm.name), peaks=arm.peaks)
            for arm in self.replay.arms
        ]
        folder.write_if_changed(PICTURE, draw_replay(lines, title=self.verdict, rows=self.replay.rows))


def replay(
    plan: Replay,
    out: str,
    *,
    launch: Launch,
    listener: Callable[[str], Listener] = lambda label: lambda event: None,
    cancel: CancelToken | None = None,
) -> Replayed:
    """Train the arms into `out`, and write what they reached beside them. Run again after any stop, it goes on.

    Raises as `run_oracle`, FolderError also where `out` is a run's own folder.
    """
    found = Replayed(replay=plan, trained=train_arms(plan.arms, out, launch=launch, listener=listener, cancel=cancel))
    found.write(out)
    return found
