"""The commands of `silo-fit` that train: they launch chains as `oracle search` does."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from oracle.errors import ExperimentError
from oracle.events import CancelToken
from oracle.execution.executors import Launch
from oracle.storage import Folder, file_beside
from oracle.view import stopping
from oracle.view.options import (
    Address,
    AsJson,
    BackendFlag,
    DataPath,
    ExecutorFlag,
    Preset,
    RunFolder,
    Set,
    Slots,
    address_of,
    experiment_of,
    heavy_imports,
    not_empty,
    stdout_console,
)
from oracle.view.terminal import duration
from silo_fit.given import given_curve
from silo_fit.words import KIND_LABELS

if TYPE_CHECKING:
    from oracle.view.several import SeveralView
    from silo_fit.replay import Replayed
    from silo_fit.sparse import Against, SparseOracle

CURVE = "eps=0.03,delta=0.04,q=1,beta=5 (q and beta may be left out), or a search's folder or table to fit"


def replay(
    context: typer.Context,
    source: RunFolder,
    out: Annotated[str | None, typer.Option(help="Where to. [DIR-replay]", callback=not_empty)] = None,
    curve: Annotated[str | None, typer.Option(help=f"{CURVE}. [the curve that fits DIR]", callback=not_empty)] = None,
    constant: Annotated[float | None, typer.Option(help="The constant peak. [the optimum of cycle 0]")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Fresh seeds. More later go on. [as many as the Oracle had]")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Within which two arms are equal, a fraction of accuracy. [the experiment's]")
    ] = None,
    executor: ExecutorFlag = "ray",
    address: Address = None,
    slots: Slots = None,
    backend: BackendFlag = "auto",
    data: DataPath = None,
    as_json: AsJson = False,
) -> None:
    """Train a curve, the Oracle's optima and a constant from fresh seeds, and say whether SILO reaches the Oracle."""
    launch = Launch(executor=executor, address=address_of(context, address, executor), slots=slots, backend=backend)
    given = None if curve is None else given_curve(curve)
    with heavy_imports(executor):
        from silo_fit import replay as replaying
    overrides = [] if data is None else [f"data.path={json.dumps(data)}"]
    plan = replaying.plan_replay(
        source,
        curve=None if given is None else given.make,
        constant=constant,
        num_seeds=seeds,
        tolerance=tolerance,
        overrides=overrides,
    )
    out = out or file_beside(source, "-replay")
    extent = f"{len(plan.arms)} arms, {len(plan.rows)} cycles, {len(plan.arms[0].experiment.seeds)} seeds"
    with _progress(f"replay of {plan.source}: {extent}, {plan.num_trainings:,} trainings into {out}") as under_way:
        found = replaying.replay(plan, out, launch=launch, listener=under_way.view.listener, cancel=under_way.cancel)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2, allow_nan=False))
    else:
        _print_replay(found, out, under_way.view.notes)


def sparse(
    context: typer.Context,
    preset: Preset,
    cycles: Annotated[
        str,
        typer.Option(help="To search, as 0,3,4,6,10,20; or auto: wherever the fit so far leaves the curve open."),
    ] = "auto",
    sure: Annotated[
        float | None,
        typer.Option(help="auto: below this share of the curves that are still possible a cycle is searched. [0.9]"),
    ] = None,
    out: Annotated[str | None, typer.Option(help="The run's folder. [runs/NAME-sparse]", callback=not_empty)] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="A full Oracle to compare with, at the cycles not searched.", callback=not_empty
        ),
    ] = None,
    executor: ExecutorFlag = "ray",
    address: Address = None,
    set_: Set = None,
    slots: Slots = None,
    backend: BackendFlag = "auto",
    data: DataPath = None,
    as_json: AsJson = False,
) -> None:
    """Search some cycles, train the others once at the fitted curve's value, and fit SILO."""
    launch = Launch(executor=executor, address=address_of(context, address, executor), slots=slots, backend=backend)
    chosen = _cycles(cycles)
    if sure is not None and chosen is not None:
        raise ExperimentError("--sure goes with --cycles auto: cycles that are named are searched in any case")
    experiment = experiment_of(preset, set_, data)
    with heavy_imports(executor):
        from oracle.view.terminal import LiveView
        from silo_fit.sparse import run_sparse
        from silo_fit.sparse_strategy import SURE, sparse_strategy
    plain, strategy = sparse_strategy(experiment, chosen, sure=SURE if sure is None else sure)
    out = out or f"runs/{experiment.name}-sparse"
    view, cancel = LiveView(_stderr()), CancelToken()
    with stopping.telling(cancel.cancel):
        found = run_sparse(plain, strategy, out, launch=launch, against=against, listeners=[view], cancel=cancel)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2, allow_nan=False))
    else:
        _print_sparse(found, out, view.notes)


def _cycles(text: str) -> list[int] | None:
    if text.strip() == "auto":
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ExperimentError(f"cycles: found {text!r}, expected auto, or whole numbers as 0,3,4,6,10,20") from None


def _stderr() -> Console:
    """The stream itself: while Ray trains, the names sys.stdout and sys.stderr lead nowhere."""
    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False)


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """What is shown of trainings, and what stops them."""

    view: "SeveralView"
    cancel: CancelToken


@contextmanager
def _progress(headline: str) -> Iterator[_UnderWay]:
    """Show on standard error how far trainings have come."""
    from oracle.view.several import SeveralView

    console, cancel = _stderr(), CancelToken()
    console.print(headline, soft_wrap=True)
    with stopping.telling(cancel.cancel), SeveralView(console) as view:
        yield _UnderWay(view, cancel)


def _print_replay(found: "Replayed", out: str, notes: list[str]) -> None:
    from silo_fit.replay import FILE, PICTURE

    console = stdout_console()
    console.print(found.verdict)
    for note in found.notes:
        console.print(note)
    console.print()
    table = Table(box=None, pad_edge=False, header_style="bold")
    labels = {arm.name: arm.label for arm in found.replay.arms}
    for name in ("cycle", "weights %", *(f"{label}: test %" for label in labels.values()), "in-sample"):
        table.add_column(name, justify="right")
    for row in found.rows():
        cells = [_accuracy(row[name]["test_accuracy"], row[name]["test_accuracy_std"]) for name in labels]
        table.add_row(
            str(row["cycle"]), _accuracy(row["weights_remaining"]), *cells, _accuracy(row["oracle_in_sample"])
        )
    console.print(table)
    console.print("in-sample: the search's own rows at its optima, which are biased by having been chosen")
    console.print(f"SILO: {found.replay.curve.in_words()}{', fitted to this search' * found.replay.is_fitted}")
    console.print(found.costs)
    for note in notes:
        console.print(note)
    _print_files(console, out, FILE, PICTURE)


def _print_sparse(found: "SparseOracle", out: str, notes: list[str]) -> None:
    console, fit = stdout_console(), found.fit
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("cycle", "weights %", "searched", "max_lr", "interval", "SILO", "inside", "test %"):
        table.add_column(name, justify="right", no_wrap=True)
    inside = {row.cycle: "yes" if row.inside else "no" for row in fit.per_cycle}
    for row in found.rows:
        is_searched = row["cycle"] in inside
        table.add_row(
            str(row["cycle"]),
            _accuracy(row["weights_remaining"]),
            "yes" if is_searched else "-",
            f"{row['max_lr']:.4g}",
            f"[{row['lo']:.4g}, {row['hi']:.4g}]" if is_searched else "-",
            f"{fit.curve(row['cycle']):.4g}",
            inside.get(row["cycle"], "-"),
            _accuracy(row["test_accuracy"], row["test_accuracy_std"]),
        )
    console.print(table)
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
    for note in (*fit.notices, *notes):
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
