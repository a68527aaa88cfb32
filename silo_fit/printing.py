"""What the commands that train print."""

import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from oracle.storage import Folder
from oracle.view.options import stdout_console
from oracle.view.terminal import duration
from oracle.view.words import points
from silo_fit.differences import in_points
from silo_fit.shapes import LABELS
from silo_fit.studies import FILE as STUDY
from silo_fit.words import KIND_LABELS

if TYPE_CHECKING:
    from silo_fit.compare import Compared, Standing
    from silo_fit.replay import Replayed
    from silo_fit.sparse import Against, SparseOracle
    from silo_fit.tune import Tuned

WIDEST = 400  # characters of a table: a terminal may break its lines, but nothing is left out
MOST_COLUMNS = 5  # cycles of a comparison that are printed; its table has all


def _print_table(
    console: Console, head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 0, bold: int | None = None
) -> None:
    """A table that is never squeezed; the first `left` columns are text. `bold`: a row's number."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place < left else "right", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(*row, style="bold" if number == bold else None)
    console.print(table)


def print_replay(found: "Replayed", out: str, notes: Sequence[str]) -> None:
    """A replay: the verdict first, then test accuracy by cycle."""
    from silo_fit.replay import FILE, PICTURE

    console = stdout_console(WIDEST)
    console.print(found.verdict)
    for note in found.notes:
        console.print(note)
    console.print()
    labels = {arm.name: arm.label for arm in found.replay.arms}
    head = ["cycle", "weights %", *labels.values(), "in-sample"]
    rows = [
        [
            str(row["cycle"]),
            _accuracy(row["weights_remaining"]),
            *(_accuracy(row[name]["test_accuracy"], row[name]["test_accuracy_std"]) for name in labels),
            _accuracy(row["oracle_in_sample"]),
        ]
        for row in found.rows()
    ]
    console.print("test accuracy, %:")
    _print_table(console, head, rows)
    console.print("in-sample: the search's own rows at its optima, which are biased by having been chosen")
    console.print(f"SILO: {found.replay.curve.in_words()}{', fitted to this search' * found.replay.is_fitted}")
    console.print(found.costs)
    for note in notes:
        console.print(note)
    _print_files(console, out, FILE, PICTURE)


def print_sparse(found: "SparseOracle", out: str, notes: Sequence[str]) -> None:
    """A sparse Oracle: its cycles, what its fit hits, what it cost."""
    console, fit = stdout_console(WIDEST), found.fit
    inside = {row.cycle: "yes" if row.inside else "no" for row in fit.per_cycle}
    rows = [
        [
            str(row["cycle"]),
            _accuracy(row["weights_remaining"]),
            f"{row['max_lr']:.4g}",
            f"[{row['lo']:.4g}, {row['hi']:.4g}]" if row["cycle"] in inside else "not searched",
            f"{fit.curve(row['cycle']):.4g}",
            inside.get(row["cycle"], "-"),
            _accuracy(row["test_accuracy"], row["test_accuracy_std"]),
        ]
        for row in found.rows
    ]
    _print_table(console, ["cycle", "weights %", "max_lr", "interval", "SILO", "inside", "test %"], rows)
    rivals, num = fit.rivals, fit.num_cycles
    level = f"a constant max_lr of {rivals.constant_max_lr:.4g}"
    console.print(f"SILO: {fit.curve.in_words()}")
    console.print(f"of the {num} searched intervals SILO hits {fit.hits}, {level} {rivals.constant_hits}")
    if (against := found.against) is not None:
        _print_against(console, against, level)
    console.print(
        f"trainings: {found.cost.trainings:,}; a full search of this grid takes {found.full_trainings:,} "
        f"({found.full_trainings / found.cost.trainings:.1f} times as many)"
    )
    if against is not None:
        console.print(
            f"{against.name}: {against.cost.trainings:,} trainings, {duration(against.cost.seconds)} of training; "
            f"here {duration(found.cost.seconds)}"
        )
    for note in (*found.notes, *fit.notices, *notes):
        console.print(f"! {note}")
    console.print(
        f"table    {Folder(out) / 'oracle.parquet'}   (silo-fit fit, silo-fit report and oracle show read it)"
    )


def _print_against(console: Console, against: "Against", level: str) -> None:
    cycles = ", ".join(map(str, against.cycles))
    console.print(f"at the cycles that were not searched ({cycles}), of the intervals of {against.name}:")
    for kind, number in against.num_intervals.items():
        console.print(
            f"  {KIND_LABELS[kind]}, {number}: SILO hits {against.silo[kind]}, {level} {against.constant[kind]}, the curve "
            f"fitted to all cycles there {against.full[kind]}"
        )


def _print_files(console: Console, out: str, *names: str) -> None:
    for name in names:
        console.print(f"{'picture' if name.endswith('.png') else 'table':<8} {Folder(out) / name}")


def _accuracy(value: float | None, std: float | None = None) -> str:
    """In percent, with its deviation over seeds."""
    if value is None:
        return "-"
    return f"{100 * value:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")


def print_compared(found: "Compared", out: str, notes: Sequence[str], cycles: Sequence[int] | None) -> None:
    """A comparison: the verdict, a row an arm, the best first; `cycles`: to print, a few by default."""
    from silo_fit.compare import FILE, PICTURE, SILO

    console, last = stdout_console(WIDEST), found.comparison.experiment.pruning.cycles
    console.print(found.verdict)
    for note in found.notes:
        console.print(note)
    console.print()
    shown = _spread(last) if cycles is None else list(cycles)
    weights = found.trained.weights_remaining(SILO)
    head = ["test %, at weights %", *(_accuracy(weights.get(cycle)) for cycle in shown)]
    _print_table(
        console,
        [*head, "mean", "rank", "less SILO", "95% interval", "p"],
        [_standing(found, each, shown) for each in found.standings],
        left=1,
        bold=next((place for place, each in enumerate(found.standings) if each.arm.name == SILO), None),
    )
    console.print(
        "mean: over all cycles; rank: 1 is best, mean over seeds; each interval is for its arm alone; p: of the paired "
        "t-test against SILO over seeds, raised for there being several (Holm)"
    )
    rates = ", ".join(f"{LABELS[shape]} {rate:.4g}" for shape, rate in found.rates.items())
    console.print(f"own rates, best on validation at cycle 0: {rates}")
    for label, curve in found.comparison.curve_labels().items():
        console.print(f"{label}: {curve.in_words()}")
    console.print(found.costs)
    for note in notes:
        console.print(note)
    _print_files(console, out, FILE, PICTURE)


def _standing(found: "Compared", each: "Standing", cycles: Sequence[int]) -> list[str]:
    cells = [found.trained.mean_at(each.arm.name, cycle) for cycle in cycles]
    other = each.difference
    interval = None if other is None else other.interval()
    return [
        each.arm.label,
        *("-" if cell is None else _accuracy(*cell) for cell in cells),
        _accuracy(each.accuracy),
        f"{each.rank:.1f}",
        "-" if other is None else in_points(other.mean),
        "-" if interval is None else f"{in_points(interval[0])} to {in_points(interval[1])}",
        "-" if each.p_value is None else f"{each.p_value:.2g}",
    ]


def _spread(last: int) -> list[int]:
    """A few cycles from the first to the last.

    >>> _spread(12), _spread(2)
    ([0, 3, 6, 9, 12], [0, 1, 2])
    """
    num = min(MOST_COLUMNS, last + 1)
    return [0] if num == 1 else [round(index * last / (num - 1)) for index in range(num)]


def print_tuned(found: "Tuned", shape: "Tuned | None", out: str, same: Sequence[str], notes: Sequence[str]) -> None:
    """What tuning found; `shape`: q and beta, where they were tuned too; `same`: the experiment, as arguments."""
    from silo_fit.tune import CHAINS, SHAPES

    console = stdout_console(WIDEST)
    if found.rows:
        console.print(found.eps_in_words())
        console.print(found.delta_in_words())
    for tried in (found, shape):
        if tried is None:
            continue
        if tried.tried:
            _print_chains(console, tried)
        for name in tried.on_edge:
            console.print(
                f"! {name}: its best value lies at the end of what was tried, and may lie beyond; widen the range"
            )
    last = found if shape is None else shape
    console.print(f"SILO: {last.curve.in_words()}")
    total = found.num_trainings + (0 if shape is None else shape.num_trainings)
    console.print(f"trainings: {total:,}")
    for note in notes:
        console.print(note)
    studies = [STUDY] if found.rows else [f"{CHAINS}/{STUDY}"]
    studies += [] if shape is None else [f"{SHAPES}/{CHAINS}/{STUDY}"]
    for name in studies:
        console.print(f"study    {Folder(out) / name}   (optuna-dashboard opens it)")
    numbers = ",".join(f"{name}={value:.4g}" for name, value in last.curve.as_dict().items() if name != "pruning_rate")
    console.print(f"next     silo-fit compare {shlex.join(same)} --curve {numbers}")


def _print_chains(console: Console, found: "Tuned") -> None:
    """The curves that were tried, the best first."""
    names = list(found.tried[0].numbers)
    rows = [
        [
            *(f"{each.numbers[name]:.4g}" for name in names),
            "diverged" if each.value is None else _accuracy(each.value),
            *(_accuracy(each.notes.get(name)) for name in ("dense", "target")),
        ]
        for each in sorted(found.tried, key=lambda each: -(each.value or 0.0))
    ]
    _print_table(console, [*names, "val %", "dense %", "target %"], rows)
    known = [each.value for each in found.tried if each.value is not None]
    close = sum(value >= max(known) - found.tolerance for value in known)
    console.print(f"within {points(found.tolerance)} of the best: {close} of {len(found.tried)}")
