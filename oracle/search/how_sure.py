"""How sure a run's rows are: estimated as they are written, or afterwards for runs of versions that did not."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from oracle.errors import Error
from oracle.experiment import Experiment
from oracle.runs.records import opened, read_experiment, read_trials
from oracle.runs.summaries import searched_cycles
from oracle.runs.tables import P_WITHIN, TRIALS, Row, oracle_rows, oracle_table, p_within_rows, write_p_within
from oracle.search.certainty import CurveReading, read_curve
from oracle.storage import Folder

CONFIDENCE = 0.95  # where the strategy names none
UNTOLD = (Error, ArithmeticError, ValueError)  # why an estimate cannot be had; numpy's LinAlgError is a ValueError


def reading_of(experiment: Experiment, cycle: int, trials: pa.Table) -> CurveReading | None:
    """The accuracy curve of a cycle, from the trials of all cycles up to it; None where fewer than two rates were tried.

    Earlier cycles where fewer were tried have no curve, and say nothing. Raises one of `UNTOLD` where it cannot be told, as
    where a strategy of one's own chose without a complete candidate.
    """
    searched = [each for each in searched_cycles(trials) if each <= cycle]
    if cycle not in searched:
        return None
    return read_curve(
        trials.filter(pc.is_in(trials["cycle"], pa.array(searched, pa.int64()))),
        candidates=experiment.candidates(cycle),
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
    by_cycle: dict[int, list[Row]] = {row["cycle"]: [] for row in rows}
    for candidate in p_within_rows(folder):
        by_cycle.setdefault(candidate["cycle"], []).append(candidate)
    missing = [row for row in rows if row["curve_max_lr"] is None or not by_cycle[row["cycle"]]]
    trials = read_trials(folder) if missing else TRIALS.empty_table()
    for row in missing:
        with contextlib.suppress(*UNTOLD):
            if found := reading_of(experiment, row["cycle"], trials):
                row |= {name: value for name, value in found.columns().items() if row[name] is None}
                by_cycle[row["cycle"]] = found.by_candidate(row["cycle"])
    candidates = [each for row in rows for each in by_cycle[row["cycle"]]]
    return oracle_table(experiment, rows), pa.Table.from_pylist(candidates, schema=P_WITHIN)


def keep_candidates(
    folder: Folder, experiment: Experiment, rows: Sequence[Row], cycle: int, found: CurveReading | None
) -> None:
    """Put a cycle's candidates into p_within.parquet, beside those of the other cycles of oracle.parquet's `rows`."""
    others = {row["cycle"] for row in rows} - {cycle}
    kept = [row for row in p_within_rows(folder) if row["cycle"] in others]
    kept += [] if found is None else found.by_candidate(cycle)
    if kept or folder.size("p_within.parquet") is not None:
        write_p_within(folder, experiment, sorted(kept, key=lambda row: (row["cycle"], row["max_lr"])))
