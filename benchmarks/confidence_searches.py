"""Whole searches of disjoint seeds, choices feeding back into what is pruned: how often they agree, and what they cost."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.confidence_truths import KEPT
from oracle.experiment import load_experiment
from oracle.records import read_trials
from oracle.search.run import run_oracle

SEARCHES = KEPT / "searches.parquet"
SETS = 6  # of seeds, disjoint
NUMBERS = (3, 5)  # of seeds in a set
STRATEGIES = ("adaptive", "grid")
COLUMNS = ("cycle", "max_lr", "lo", "hi", "curve_max_lr", "curve_lo", "curve_hi")
Row = Mapping[str, Any]


def make(runs: Path) -> Path:
    """Train what is missing of all searches, and keep their optima and intervals, those of a way when all its sets are."""
    rows: list[dict[str, Any]] = []
    SEARCHES.parent.mkdir(exist_ok=True)
    for number, strategy in product(NUMBERS, STRATEGIES):
        for which in range(SETS):
            rows += _search(runs, number, strategy, which)
        pq.write_table(pa.Table.from_pylist(rows), SEARCHES, compression="zstd")
    return SEARCHES


def _search(runs: Path, number: int, strategy: str, which: int) -> Iterator[dict[str, Any]]:
    """The rows of one, trained if it is not there."""
    seeds = list(range(which * number, (which + 1) * number))
    overrides = [f"seeds={seeds}"] + ([] if strategy == "grid" else [f"search={{strategy: {strategy}}}"])
    out = runs / f"search-{strategy}-{number}-{which}"
    found = run_oracle(load_experiment("digits-mlp", overrides=overrides), out, executor="local", slots=2)
    trainings = read_trials(out)["cycle"].to_pylist()
    for row in found.select(list(COLUMNS)).to_pylist():
        about = {"strategy": strategy, "seeds": number, "set": which}
        yield {**about, **row, "trainings": trainings.count(row["cycle"])}


def section() -> Iterator[str]:
    """Of the results; nothing where no searches are kept."""
    if not SEARCHES.exists():
        return
    rows = pq.read_table(SEARCHES).to_pylist()
    yield "## Whole searches"
    yield (
        f"digits-mlp, {len({row['cycle'] for row in rows})} cycles, {SETS} disjoint sets of seeds, each pruned along its "
        "own optima: all pairs of searches, all cycles. Made by `python -m benchmarks.confidence searches`."
    )
    lines = ["| way | seeds | trainings a search | agree | first half of cycles | second |", "|" + " --- |" * 6]
    for number in NUMBERS:
        for way, strategy, names in (
            ("adaptive", "adaptive", ("max_lr", "lo", "hi")),
            ("grid", "grid", ("max_lr", "lo", "hi")),
            ("grid, its curve", "grid", ("curve_max_lr", "curve_lo", "curve_hi")),
        ):
            own = [row for row in rows if (row["strategy"], row["seeds"]) == (strategy, number)]
            if own:
                trainings = sum(row["trainings"] for row in own) / SETS
                cells = [f"{share:.3f}" for share in _agreements(own, names)]
                lines.append(f"| {way} | {number} | {trainings:,.0f} | {' | '.join(cells)} |")
    yield "\n".join(lines)


def _agreements(rows: Sequence[Row], names: tuple[str, str, str]) -> Iterator[float]:
    """Over pairs of searches: of all cycles, the first half, the second."""
    cycles = sorted({row["cycle"] for row in rows})
    half = (len(cycles) + 1) // 2
    for chosen in (cycles, cycles[:half], cycles[half:]):
        yield statistics.fmean(
            _agree(one, other, names)
            for cycle in chosen
            for one, other in combinations([row for row in rows if row["cycle"] == cycle], 2)
        )


def _agree(one: Row, other: Row, names: tuple[str, str, str]) -> bool:
    optimum, lo, hi = names
    return bool(other[lo] <= one[optimum] <= other[hi] and one[lo] <= other[optimum] <= one[hi])
