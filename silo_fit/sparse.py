"""A sparse Oracle, run and told of: what its fit hits, and what it saves against a full one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from oracle.errors import TableError
from oracle.events import CancelToken, Listener
from oracle.execution.executors import Launch
from oracle.experiment import Experiment, differences
from oracle.runs.records import opened, read_experiment, read_trials
from oracle.runs.summaries import training_seconds
from oracle.runs.tables import Row, oracle_rows
from oracle.search.run import run_oracle
from silo_fit.fit import fit
from silo_fit.kinds import hits_by_kind
from silo_fit.result import Fit
from silo_fit.sparse_strategy import Sparse
from silo_fit.tables import Intervals, Kind, read_intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a search took."""

    trainings: int
    seconds: float  # of all trainings, one after the other

    @classmethod
    def of(cls, trials: pa.Table) -> "Cost":
        """Of a run's trials."""
        return cls(trainings=trials.num_rows, seconds=training_seconds(trials))


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """A sparse fit held against a full Oracle, at the cycles that the sparse one did not search."""

    name: str  # the full Oracle's folder
    cycles: tuple[int, ...]
    # By kind of the full Oracle's intervals, as many as there are, and how many of them each one lands in:
    num_intervals: dict[Kind, int]
    silo: dict[Kind, int]  # the sparse fit
    constant: dict[Kind, int]  # the constant that hits most of what the sparse Oracle searched
    full: dict[Kind, int]  # the curve that fits the full Oracle, these cycles among its own
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseOracle:
    """What a sparse Oracle found."""

    experiment: Experiment
    rows: tuple[Row, ...]  # of oracle.parquet
    fit: Fit
    cost: Cost
    full_trainings: int  # of a full search of the same grid
    against: Against | None = None
    notes: tuple[str, ...] = ()

    @property
    def searched(self) -> tuple[int, ...]:
        """Cycles."""
        return tuple(row["cycle"] for row in self.rows if row["num_candidates"] > 1)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {
            "searched": self.searched,
            "trainings": self.cost.trainings,
            "seconds": self.cost.seconds,
            "full_trainings": self.full_trainings,
            "notes": self.notes,
            "constant": {"max_lr": self.fit.rivals.constant_max_lr, "hits": self.fit.rivals.constant_hits},
            "fit": self.fit.as_dict(),
            "rows": [{**row, "silo": self.fit.curve(row["cycle"])} for row in self.rows],
        }
        if self.against is not None:
            found["against"] = {
                "source": self.against.name,
                "cycles": self.against.cycles,
                "trainings": self.against.cost.trainings,
                "seconds": self.against.cost.seconds,
                **{name: getattr(self.against, name) for name in ("num_intervals", "silo", "constant", "full")},
            }
        return found


def run_sparse(
    experiment: Experiment,
    strategy: Sparse,
    out: str,
    *,
    launch: Launch,
    against: str | None = None,
    listeners: Sequence[Listener] = (),
    cancel: CancelToken | None = None,
) -> SparseOracle:
    """Search `strategy`'s cycles into `out`, and fit them. Run again after any stop, it goes on.

    `against`: a full Oracle's folder of the same pruning rate, to compare with. Raises as `run_oracle`, and TableError
    where that folder cannot be compared with.
    """
    full = None if against is None else _full(against, experiment, strategy)
    run_oracle(
        experiment,
        out,
        **asdict(launch),
        strategy=strategy,
        listeners=listeners,
        cancel=cancel,
    )
    folder = opened(out)
    rows, found = tuple(oracle_rows(folder)), fit(read_intervals(out))
    searched = {row["cycle"] for row in rows if row["num_candidates"] > 1}
    compared: Against | None = None
    notes: tuple[str, ...] = ()
    if against is not None and full is not None:
        compared = _compare(against, full, found, searched, len(rows))
        notes = _unlike(against, experiment)
        if compared is None:
            notes = (f"{against}: every cycle of it was searched here too, so there is nothing to compare", *notes)
    return SparseOracle(
        experiment=read_experiment(folder),
        rows=rows,
        fit=found,
        cost=Cost.of(read_trials(folder)),
        full_trainings=len(experiment.candidates(0)) * len(experiment.seeds) * len(rows),
        against=compared,
        notes=notes,
    )


def _unlike(source: str, experiment: Experiment) -> tuple[str, ...]:
    """In what else a full Oracle's experiment differs than how it was searched."""
    free = ("name", "seeds", "search", "grid", "peaks")
    there, here = (
        {name: value for name, value in each.items() if name not in free}
        for each in (read_experiment(opened(source)).identity(), experiment.identity())
    )
    for each in (there, here):
        each["pruning"] = {name: value for name, value in each["pruning"].items() if name != "cycles"}
    found = differences(there, here)
    return (f"{source} is of another experiment: {'; '.join(found)}",) if found else ()


def _full(source: str, experiment: Experiment, strategy: Sparse) -> Intervals:
    opened(source)
    full = read_intervals(source)
    if full.pruning_rate != experiment.pruning.rate:
        raise TableError(
            f"{source}: its pruning rate is {full.pruning_rate:g}, this experiment's {experiment.pruning.rate:g}: their "
            "cycles are not the same"
        )
    left = set(full.cycles) - set(strategy.cycles or ())
    if not [cycle for cycle in left if cycle <= experiment.pruning.cycles]:
        raise TableError(f"{source}: has no interval at a cycle that is not searched here, so nothing can be compared")
    return full


def _compare(source: str, full: Intervals, found: Fit, searched: set[int], num_cycles: int) -> Against | None:
    cycles = [int(cycle) for cycle in full.cycles if cycle not in searched and cycle < num_cycles]
    if not cycles:
        return None
    rest = full.at(cycles)
    constant = replace(found.curve, eps=found.rivals.constant_max_lr, delta=0.0)
    by_kind = [hits_by_kind(rest, curve) for curve in (found.curve, constant, fit(full).curve)]
    trials = read_trials(source)
    silo, level, own = ({kind: hits for kind, (hits, _) in counts.items()} for counts in by_kind)
    return Against(
        name=source,
        cycles=tuple(cycles),
        num_intervals={kind: number for kind, (_, number) in by_kind[0].items()},
        silo=silo,
        constant=level,
        full=own,
        cost=Cost.of(trials.filter(pc.less(trials["cycle"], num_cycles))),
    )
