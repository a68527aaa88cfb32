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

from oracle.events import CancelToken
from oracle.execution.executors import Launch
from oracle.storage import file_beside
from oracle.view import stopping
from oracle.view.options import (
    Address,
    AsJson,
    BackendFlag,
    DataPath,
    ExecutorFlag,
    RunFolder,
    Slots,
    address_of,
    heavy_imports,
    not_empty,
    stdout_console,
)
from silo_fit.given import given_curve

if TYPE_CHECKING:
    from oracle.view.several import SeveralView
    from silo_fit.replay import Replayed

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


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """What is shown of trainings, and what stops them."""

    view: "SeveralView"
    cancel: CancelToken


@contextmanager
def _progress(headline: str) -> Iterator[_UnderWay]:
    """Show on standard error how far trainings have come."""
    from oracle.view.several import SeveralView

    # The stream itself: while Ray trains, the names sys.stdout and sys.stderr lead nowhere.
    console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
    console.print(headline, soft_wrap=True)
    cancel = CancelToken()
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


def _print_files(console: Console, out: str, *names: str) -> None:
    from oracle.storage import Folder

    for name in names:
        console.print(f"{'picture' if name.endswith('.png') else 'table':<8} {Folder(out) / name}")


def _accuracy(value: float | None, std: float | None = None) -> str:
    """In percent, with its deviation over seeds."""
    if value is None:
        return "-"
    return f"{100 * value:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")
