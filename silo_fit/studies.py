"""Optuna's part in tuning: it proposes from what is known, and keeps studies that optuna-dashboard opens.

What a proposal was worth is read from the trainings' own records, so a study is made anew from them at any time, and the
same results lead to the same proposals.
"""

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oracle.storage import Folder, read_file
from silo_fit.quiet import quiet

FILE = "optuna.journal"
DIGITS = 6  # of a proposed number
MOST_REPEATS = 100  # proposals that are there already, before the last one is taken all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What a number may be."""

    low: float
    high: float
    log: bool = False

    def spaced(self, num: int) -> list[float]:
        """So many values, evenly spaced from end to end; a single one in the middle, or where both ends are the same.

        >>> Axis(low=0.01, high=1, log=True).spaced(3)
        [0.01, 0.1, 1]
        """
        parts = [0.5] if num == 1 or self.low == self.high else [index / (num - 1) for index in range(num)]
        return [self.at(part) for part in parts]

    def at(self, part: float) -> float:
        """The value that lies so far from low to high, to six digits; the ends as they are."""
        if part in (0, 1):
            return self.high if part else self.low
        value = self.low * (self.high / self.low) ** part if self.log else self.low + part * (self.high - self.low)
        return min(max(_short(value), self.low), self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What was tried, and what it was worth."""

    numbers: Mapping[str, float]
    value: float | None  # accuracy, a fraction; None: diverged
    notes: Mapping[str, Any] = field(default_factory=dict)


def propose(axes: Mapping[str, Axis], told: Sequence[Told], num: int, *, seed: int) -> list[dict[str, float]]:
    """What to try next, by a tree-structured Parzen estimator; nothing that was tried."""
    import optuna

    known = {tuple(each.numbers.values()) for each in told}
    found: list[dict[str, float]] = []
    with quiet(optuna):
        sampler = optuna.samplers.TPESampler(seed=seed + len(told), n_startup_trials=0, constant_liar=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([_trial(optuna, axes, each) for each in told])
        for _ in range(MOST_REPEATS + num):
            asked = study.ask(_distributions(optuna, axes)).params
            numbers = {name: min(max(_short(asked[name]), axis.low), axis.high) for name, axis in axes.items()}
            if tuple(numbers.values()) not in known:
                known.add(tuple(numbers.values()))
                found.append(numbers)
            if len(found) == num:
                break
    return found


def grid_of(axes: Mapping[str, Axis], num: int) -> list[dict[str, float]]:
    """Every combination of `num` evenly spaced values an axis, in the order of the axes."""
    spaced = itertools.product(*(axis.spaced(num) for axis in axes.values()))
    return [dict(zip(axes, values, strict=True)) for values in spaced]


def write_studies(folder: Folder, studies: Mapping[str, tuple[Mapping[str, Axis], Sequence[Told]]]) -> None:
    """Keep studies as one journal, which `optuna-dashboard optuna.journal` opens."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    with quiet(optuna), tempfile.TemporaryDirectory(prefix="silo-fit-") as scratch:
        path = str(Path(scratch) / FILE)
        storage = optuna.storages.JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
        for name, (axes, told) in studies.items():
            study = optuna.create_study(direction="maximize", study_name=name, storage=storage)
            study.add_trials([_trial(optuna, axes, each) for each in told])
        content = read_file(path)
    assert content is not None
    folder.write(FILE, content)


def _distributions(optuna: Any, axes: Mapping[str, Axis]) -> dict[str, Any]:
    return {
        name: optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.log) for name, axis in axes.items()
    }


def _trial(optuna: Any, axes: Mapping[str, Axis], told: Told) -> Any:
    """Diverged: failed, for people; the sampler learns from finished ones alone."""
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.FAIL if told.value is None else optuna.trial.TrialState.COMPLETE,
        value=told.value,
        params=dict(told.numbers),
        distributions=_distributions(optuna, axes),
        user_attrs=dict(told.notes),
    )


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
