"""Learning-rate schedules side by side, each at its own best rate and under SILO's peaks, from the same seeds.

The paper's Tables 2 to 9 and 12 to 14 as an experiment. A schedule's own rate is found on validation images at cycle 0 by
the experiment's grid; all arms then train from fresh seeds, that nothing was chosen with.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from oracle.errors import CurveError, ExperimentError
from oracle.events import CancelToken, Listener
from oracle.execution.executors import Launch
from oracle.experiment import Experiment, experiment_from_yaml
from oracle.runs.tables import to_parquet
from oracle.search.together import Search, run_together
from oracle.storage import Folder, file_within
from oracle.training.autolrs import extra_steps
from oracle.view.words import counted, points
from silo_fit.arms import Arm, TrainedArms, check_no_run, fresh_seeds, peaks_of, train_arms, trials_of, with_peaks
from silo_fit.curve import SiloCurve
from silo_fit.differences import LEVEL, Difference, Outcome, adjusted
from silo_fit.shapes import LABELS

FILE, PICTURE, RATES = "compare.parquet", "compare.png", "rates"  # the last: the folder of the schedules' own searches
SILO, AUTOLRS = "silo", "autolrs"  # arms: the one that others are compared to, and one that finds its own rates
WARMUP = "{shape: warmup, warmup: 0.1, drops: [0.5, 0.75]}"  # where the experiment's own schedule is another one


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is to be trained."""

    experiment: Experiment
    shapes: tuple[str, ...]
    curves: tuple[SiloCurve, ...]  # the first one is every schedule's
    seeds: tuple[int, ...]  # of the arms
    tolerance: float  # within which two arms count as equal
    autolrs: bool = False  # one arm more

    def curve_labels(self) -> dict[str, SiloCurve]:
        """The curves as people are told of them: SILO, SILO 2, ..."""
        return {"SILO" if number == 1 else f"SILO {number}": curve for number, curve in enumerate(self.curves, 1)}

    def search_of(self, shape: str) -> Experiment:
        """The search of a schedule's own rate, on the dense network."""
        overrides = [f"schedule={self._schedule(shape)}", "pruning.cycles=0", "diagnostics=false"]
        return experiment_from_yaml(self.experiment.to_yaml(), where=f"schedule {shape}", overrides=overrides)

    def arms(self, rates: Mapping[str, float]) -> tuple[Arm, ...]:
        """Every schedule at its own rate and under the first curve's peaks, and the warm-up under those of each curve."""
        cycles = self.experiment.pruning.cycles + 1
        arms = [self._arm(shape, LABELS[shape], shape, [rate] * cycles) for shape, rate in rates.items()]
        for label, curve in self.curve_labels().items():
            arms.append(self._arm(label.lower().replace(" ", "-"), label, "warmup", peaks_of(curve, cycles)))
        for shape in rates:
            if shape != "warmup":
                label = f"{LABELS[shape]}, SILO's peaks"
                arms.append(self._arm(f"{shape}-{SILO}", label, shape, peaks_of(self.curves[0], cycles)))
        if self.autolrs:
            highest = [max(self.experiment.candidates(0))] * cycles
            arms.append(self._arm(AUTOLRS, "AutoLRS", "constant", highest, "training.autolrs=true"))
        return tuple(arms)

    def _arm(self, name: str, label: str, shape: str, peaks: Sequence[float], *overrides: str) -> Arm:
        schedule = [f"schedule={self._schedule(shape)}", *overrides]
        return Arm(
            name=name,
            label=label,
            experiment=with_peaks(self.experiment, peaks, seeds=self.seeds, overrides=schedule),
        )

    def _schedule(self, shape: str) -> str:
        """The experiment's own where it has this shape; else the shape as it is by default."""
        own = self.experiment.schedule
        if own.shape == shape:
            return json.dumps(own.model_dump(mode="json", exclude_none=True))
        return WARMUP if shape == "warmup" else f"{{shape: {shape}}}"


def plan_comparison(
    experiment: Experiment,
    curves: Sequence[Callable[[float], SiloCurve]],
    *,
    shapes: Sequence[str] = tuple(LABELS),
    num_seeds: int | None = None,
    tolerance: float | None = None,
    autolrs: bool = False,
    used_seeds: Sequence[int] = (),
) -> Comparison:
    """Lay out a comparison. `curves`: each makes one from the pruning rate. `shapes`: of schedules, keys of `LABELS`.

    `num_seeds`: of the arms, as many as the experiment's by default. `autolrs`: an arm of it, too, which searches up to the
    grid's largest rate. `used_seeds`: that the curves were found with; no arm has them. CurveError where there is no curve,
    or one that nobody can train with; ExperimentError for what else cannot be compared.
    """
    unknown = [shape for shape in shapes if shape not in LABELS]
    if unknown or len(set(shapes)) < len(shapes) or not shapes:
        raise ExperimentError(f"schedules: expected some of {', '.join(LABELS)}, each once, found {', '.join(shapes)}")
    if experiment.peaks is not None:
        raise ExperimentError("peaks: each schedule's own rate is searched, so the experiment must have none")
    if not curves:
        raise CurveError("no curve to compare with: name one (--curve), as numbers or as a search's folder to fit")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ExperimentError(f"tolerance: expected a fraction of accuracy between 0 and 1, found {tolerance:g}")
    made = tuple(make(experiment.pruning.rate) for make in curves)
    for curve in made:
        peaks_of(curve, experiment.pruning.cycles + 1)
    if len(set(made)) < len(made):
        raise CurveError("a curve is there twice; each may be named once")
    num = len(experiment.seeds) if num_seeds is None else num_seeds
    return Comparison(
        experiment=experiment,
        shapes=tuple(shapes),
        curves=made,
        seeds=tuple(fresh_seeds([*experiment.seeds, *used_seeds], num)),
        tolerance=experiment.tolerance if tolerance is None else tolerance,
        autolrs=autolrs,
    )


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one arm stands among those that finished every cycle."""

    arm: Arm
    accuracy: float  # of the test images, mean over seeds and cycles
    rank: float  # 1 the best; mean over seeds
    difference: Difference | None  # to SILO; None for itself
    p_value: float | None  # of the paired test, adjusted for there being several; None with one seed

    @property
    def outcome(self) -> Outcome | None:
        """Against SILO; better or worse only where the adjusted test says so."""
        if self.difference is None:
            return None
        found = self.difference.outcome
        is_sure = found == "equal" or (self.p_value is not None and self.p_value < 1 - LEVEL)
        return found if is_sure else "open"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the arms reached."""

    comparison: Comparison
    rates: Mapping[str, float]  # each schedule's own
    left_out: tuple[str, ...]  # schedules of which every rate diverged, in words
    trained: TrainedArms
    num_searched: int  # trainings of the schedules' own searches

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """The best first. Arms that diverged have none."""
        cycles = self.comparison.experiment.pruning.cycles + 1
        whole = [arm for arm in self.trained.arms if self.trained.finished(arm.name) == cycles]
        if not whole:
            return ()
        means = np.array([self.trained.accuracies(arm.name).mean(axis=1) for arm in whole])  # [arms, seeds]
        ranks = stats.rankdata(-means, axis=0).mean(axis=1)
        others = [arm.name for arm in whole if arm.name != SILO] if SILO in {arm.name for arm in whole} else []
        differences = {
            name: self.trained.difference(name, SILO, tolerance=self.comparison.tolerance) for name in others
        }
        tested = {name: each.p_value for name, each in differences.items() if each and each.p_value is not None}
        raised = dict(zip(tested, adjusted(list(tested.values())), strict=True))
        found = [
            Standing(
                arm=arm,
                accuracy=float(own.mean()),
                rank=float(rank),
                difference=differences.get(arm.name),
                p_value=raised.get(arm.name),
            )
            for arm, own, rank in zip(whole, means, ranks, strict=True)
        ]
        return tuple(sorted(found, key=lambda each: (each.rank, -each.accuracy)))

    @property
    def verdict(self) -> str:
        """How SILO stands, in a sentence."""
        others = [each for each in self.standings if each.difference is not None]
        if not others:
            return "SILO, or everything else, diverged: there is nothing to compare"
        place = next(number for number, each in enumerate(self.standings, 1) if each.arm.name == SILO)
        counts = {
            "worse": "surely worse",
            "equal": f"equal to it within {points(self.comparison.tolerance)}",
            "better": "surely better",
            "open": "not told apart from it by these seeds",
        }
        said = []
        for outcome, words in counts.items():
            num = sum(each.outcome == outcome for each in others)
            said += [f"{num} {words}"] if num else []
        return f"SILO is number {place} of {len(self.standings)} by mean rank; of the others {', '.join(said)}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be known beside the table."""
        ended = [f"{arm.label} {why}" for arm in self.trained.arms if (why := self.trained.ended(arm.name))]
        return (*self.left_out, *ended)

    @property
    def costs(self) -> str:
        """What it took."""
        said = (
            f"trainings: {self.num_searched:,} to find the own rates of "
            f"{counted(len(self.comparison.shapes), 'schedule')} at cycle 0, {self.trained.num_trainings:,} of "
            f"{len(self.trained.arms)} arms"
        )
        if not self.comparison.autolrs:
            return said
        return f"{said}; AutoLRS took {self.extra_steps:,} steps more than the {self.trained.steps:,} of each training"

    @property
    def extra_steps(self) -> int:
        """That AutoLRS takes in each training to try rates."""
        return extra_steps(self.trained.steps) if self.comparison.autolrs else 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON; fractions of accuracy."""
        cycles = range(self.comparison.experiment.pruning.cycles + 1)
        standings = {each.arm.name: each for each in self.standings}
        arms = []
        for arm in self.trained.arms:
            own = standings.get(arm.name)
            arms.append(
                {
                    "arm": arm.name,
                    "label": arm.label,
                    "peaks": arm.peaks,
                    "test_accuracy": [self.trained.mean_at(arm.name, cycle) for cycle in cycles],
                    "mean": own and own.accuracy,
                    "rank": own and own.rank,
                    "difference_to_silo": own and own.difference and own.difference.as_dict(),
                    "adjusted_p_value": own and own.p_value,
                    "outcome": own and own.outcome,
                    "ended": self.trained.ended(arm.name),
                }
            )
        return {
            "experiment": self.comparison.experiment.name,
            "curves": [curve.as_dict() for curve in self.comparison.curves],
            "seeds": self.comparison.seeds,
            "rates": dict(self.rates),
            "verdict": self.verdict,
            "notes": self.notes,
            "trainings": {"rates": self.num_searched, "arms": self.trained.num_trainings},
            "steps": self.trained.steps,
            "autolrs_extra_steps": self.extra_steps,
            "seconds": self.trained.seconds,
            "arms": arms,
        }

    def write(self, out: str) -> None:
        """Keep all trainings of the arms as a table, with what they say in its metadata, and the picture."""
        from silo_fit.plots import Line, draw_comparison

        folder = Folder(out)
        table = self.trained.table().replace_schema_metadata({"compare": json.dumps(self.as_dict())})
        folder.write_if_changed(FILE, to_parquet(table))
        order = [each.arm for each in self.standings]
        if not order:
            return
        lines = [
            Line(
                label=arm.label,
                accuracies=self.trained.accuracies(arm.name),
                peaks=arm.peaks,
                kind=AUTOLRS if arm.name == AUTOLRS else arm.experiment.schedule.shape,
                is_silo=SILO in arm.name,
            )
            for arm in order
        ]
        differences = [each.difference for each in self.standings]
        picture = draw_comparison(
            lines,
            [None if each is None else (each.mean, each.interval()) for each in differences],
            tolerance=self.comparison.tolerance,
            title=f"{self.comparison.experiment.name}: {self.verdict}",
            weights_remaining=self.trained.weights_remaining(order[0].name),
        )
        folder.write_if_changed(PICTURE, picture)


def compare(
    comparison: Comparison,
    out: str,
    *,
    launch: Launch,
    listener: Callable[[str], Listener] = lambda label: lambda event: None,
    cancel: CancelToken | None = None,
) -> Compared:
    """Find each schedule's own rate, train all arms, and write what they reached. Run again after any stop, it goes on."""
    check_no_run(out)
    if comparison.autolrs and launch.backend == "pack":
        raise ExperimentError("backend: found pack, but AutoLRS trains one candidate at a time: plain, or auto")
    searches = [
        Search(
            name=shape,
            experiment=comparison.search_of(shape),
            out=file_within(out, f"{RATES}/{shape}"),
            listeners=[listener(f"{LABELS[shape]}: its own rate")],
        )
        for shape in comparison.shapes
    ]
    ended = run_together(searches, launch=launch, cancel=cancel)
    rates = {
        each.name: ended[each.name].oracle["max_lr"][0].as_py()
        for each in searches
        if ended[each.name].diverged is None
    }
    left_out = tuple(
        f"{LABELS[each.name]}: every rate of the grid diverged at cycle 0, so it is left out"
        for each in searches
        if ended[each.name].diverged is not None
    )
    trained = train_arms(comparison.arms(rates), out, launch=launch, listener=listener, cancel=cancel)
    found = Compared(
        comparison=comparison,
        rates=rates,
        left_out=left_out,
        trained=trained,
        num_searched=sum(trials_of(str(each.out)).num_rows for each in searches),
    )
    found.write(out)
    return found
