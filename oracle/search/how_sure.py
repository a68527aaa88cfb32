"""How sure a run's rows are: estimated as they are written, or afterwards for runs of versions that did not."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from oracle.errors import Error
from oracle.experiment import Experiment
from oracle.runs.records import opened, read_experiment, read_trials
from oracle.runs.tables import P_WITHIN, Row, oracle_rows, oracle_table, p_within_rows
from oracle.search.certainty import CurveReading, read_curve
from oracle.storage import Folder

CONFIDENCE = 0.95  # where the strategy names none


def reading_of(experiment: Experiment, cycle: int, trials: pa.Table) -> CurveReading | None:
    """The accuracy curve of a cycle, from the trials of all cycles up to it; None where fewer than two rates were tried.

    Raises as `estimate_interval`, where a strategy of one's own chose what it cannot be asked about.
    """
    trials = trials.filter(pc.less_equal(trials["cycle"], cycle))
    tried = set(trials.filter(pc.equal(trials["cycle"], cycle))["max_lr"].to_pylist())
    if len(tried) < 2:
        return None
    return read_curve(
        trials,
        candidates=sorted({*experiment.candidates(cycle), *tried}),
        num_validation=experiment.data.validation,
        tolerance=experiment.tolerance,
        confidence=experiment.search.parameters.get("confidence", CONFIDENCE),
    )


def with_estimates(out: str | Path | Folder) -> tuple[pa.Table, pa.Table]:
    """A run's oracle.parquet and p_within.parquet, what is missing of their estimates computed. Nothing is written.

    Raises FolderError as `read_oracle`.
    """
    folder = opened(out)
    experiment, rows = read_experiment(folder), oracle_rows(folder)
    written = p_within_rows(folder)
    by_cycle: Mapping[int, list[Row]] = {
        row["cycle"]: [each for each in written if each["cycle"] == row["cycle"]] for row in rows
    }
    missing = [row for row in rows if row["curve_max_lr"] is None or not by_cycle[row["cycle"]]]
    trials = read_trials(folder) if missing else None
    estimated = dict(by_cycle)
    for row in missing:
        assert trials is not None
        found = None
        with contextlib.suppress(Error, ArithmeticError, ValueError):  # numpy's LinAlgError is a ValueError
            found = reading_of(experiment, row["cycle"], trials)
        if found is not None:
            row |= {name: value for name, value in found.columns().items() if row[name] is None}
            estimated[row["cycle"]] = found.by_candidate(row["cycle"])
    candidates = [each for row in rows for each in estimated[row["cycle"]]]
    return oracle_table(experiment, rows), pa.Table.from_pylist(candidates, schema=P_WITHIN)
