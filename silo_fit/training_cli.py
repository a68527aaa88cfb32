"""The commands of `silo-fit` that train: they launch chains as `oracle search` does."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from oracle.errors import ExperimentError
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
    Preset,
    RunFolder,
    Set,
    Slots,
    address_of,
    experiment_of,
    heavy_imports,
    not_empty,
)
from oracle.view.words import counted
from silo_fit.given import given_curve
from silo_fit.printing import print_compared, print_replay, print_sparse, print_tuned
from silo_fit.shapes import LABELS

if TYPE_CHECKING:
    from oracle.view.several import SeveralView

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
        used_seeds=[] if given is None else given.seeds(),
    )
    out = out or file_beside(source, "-replay")
    seed_count, cycle_count = len(plan.arms[0].experiment.seeds), len(plan.rows)
    extent = f"{len(plan.arms)} arms, {counted(cycle_count, 'cycle')}, {counted(seed_count, 'seed')}"
    with _progress(f"replay of {plan.source}: {extent}, {plan.num_trainings:,} trainings into {out}") as under_way:
        found = replaying.replay(plan, out, launch=launch, listener=under_way.view.listener, cancel=under_way.cancel)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2, allow_nan=False))
    else:
        print_replay(found, out, under_way.view.notes)


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
        print_sparse(found, out, view.notes)


def tune(
    context: typer.Context,
    preset: Preset,
    rates: Annotated[
        int | None,
        typer.Option(min=2, help="To try for eps, and for delta; with --joint, of each. [the grid's points; 4]"),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="In which Optuna proposes them; 1: evenly spaced, all at once. [4 at most]"),
    ] = None,
    eps: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="Range of eps. [the grid's]", show_default=False),
    ] = None,
    delta: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="Range of delta. [0 to the grid's largest rate]", show_default=False),
    ] = None,
    q: Annotated[float, typer.Option(help="Cycles before the rise starts.")] = 1.0,
    beta: Annotated[float, typer.Option(help="Steepness of the rise.")] = 5.0,
    q_beta: Annotated[
        int, typer.Option(metavar="NUM", min=0, help="Then try as many pairs of q and beta, a whole chain each.")
    ] = 0,
    joint: Annotated[
        bool, typer.Option("--joint", help="A whole chain for every pair of eps and delta, in place of one by one.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of Optuna's sampler.")] = 0,
    out: Annotated[str | None, typer.Option(help="Where to. [runs/NAME-tune]", callback=not_empty)] = None,
    executor: ExecutorFlag = "ray",
    address: Address = None,
    set_: Set = None,
    slots: Slots = None,
    backend: BackendFlag = "auto",
    data: DataPath = None,
    as_json: AsJson = False,
) -> None:
    """Find eps and delta by training, without an Oracle: eps on the dense network, delta at the last cycle."""
    launch = Launch(executor=executor, address=address_of(context, address, executor), slots=slots, backend=backend)
    experiment = experiment_of(preset, set_, data)
    with heavy_imports(executor):
        from silo_fit import tune as tuning
        from silo_fit.tune_strategy import tune_strategy
    if joint and rounds is not None:
        raise ExperimentError(
            "--rounds: with --joint every pair is trained, and nothing proposed in rounds; leave it out"
        )
    num = (4 if joint else None) if rates is None else rates
    strategy = tune_strategy(
        experiment, eps=eps, delta=delta, q=q, beta=beta, num_rates=num, num_rounds=rounds, seed=seed
    )
    out = out or f"runs/{experiment.name}-tune"
    headline = f"tuning {experiment.name} into {out}"
    with _progress(headline) as under_way:
        view, cancel = under_way.view, under_way.cancel
        if joint:
            found = tuning.tune_jointly(experiment, strategy, out, launch=launch, listener=view.listener, cancel=cancel)
        else:
            found = tuning.tune(
                experiment, strategy, out, launch=launch, listeners=[view.listener("eps, delta")], cancel=cancel
            )
        shape = None
        if q_beta and not found.curve.delta:
            view.notes.append("q and beta were not tuned: with delta 0 they change nothing")
        elif q_beta:
            shape = tuning.tune_shape(
                experiment,
                found.curve,
                out,
                num=q_beta,
                seed=seed,
                launch=launch,
                listener=view.listener,
                cancel=cancel,
            )
    if as_json:
        told = found.as_dict() | ({} if shape is None else {"q_beta": shape.as_dict()})
        print(json.dumps(told, indent=2, allow_nan=False))
    else:
        given = [preset, *(part for value in set_ or [] for part in ("--set", value))]
        print_tuned(found, shape, out, [*given, *(() if data is None else ("--data", data))], view.notes)


def compare(
    context: typer.Context,
    preset: Preset,
    curve: Annotated[
        list[str] | None, typer.Option(help=f"{CURVE}; several for the sensitivity to q and beta. The first is SILO.")
    ] = None,
    schedules: Annotated[str, typer.Option(help="To compare.")] = ",".join(LABELS),
    autolrs: Annotated[
        bool, typer.Option("--autolrs", help="AutoLRS, too: it finds its rates as it trains, at twice the steps.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Fresh seeds of the arms. More later go on. [as many as the experiment's]")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Within which two arms are equal, a fraction of accuracy. [the experiment's]")
    ] = None,
    cycles: Annotated[str | None, typer.Option(help="To print, as 0,5,6,11; the table has all. [five]")] = None,
    out: Annotated[str | None, typer.Option(help="Where to. [runs/NAME-compare]", callback=not_empty)] = None,
    executor: ExecutorFlag = "ray",
    address: Address = None,
    set_: Set = None,
    slots: Slots = None,
    backend: BackendFlag = "auto",
    data: DataPath = None,
    as_json: AsJson = False,
) -> None:
    """Train every schedule at its own best rate and under SILO's peaks, from the same seeds, and rank them."""
    launch = Launch(executor=executor, address=address_of(context, address, executor), slots=slots, backend=backend)
    experiment = experiment_of(preset, set_, data)
    shown = None if cycles is None else _cycles(cycles) or []
    last = experiment.pruning.cycles
    if shown is not None and not (shown and all(0 <= cycle <= last for cycle in shown)):
        raise ExperimentError(f"cycles: found {cycles!r}, expected some of 0 to {last}")
    given = [given_curve(text) for text in curve or []]
    with heavy_imports(executor):
        from silo_fit import compare as comparing
    plan = comparing.plan_comparison(
        experiment,
        [each.make for each in given],
        shapes=[part.strip() for part in schedules.split(",")],
        num_seeds=seeds,
        tolerance=tolerance,
        autolrs=autolrs,
        used_seeds=[seed for each in given for seed in each.seeds()],
    )
    out = out or f"runs/{experiment.name}-compare"
    headline = f"comparing {len(plan.shapes)} schedules and SILO on {experiment.name} into {out}"
    with _progress(headline) as under_way:
        found = comparing.compare(plan, out, launch=launch, listener=under_way.view.listener, cancel=under_way.cancel)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2, allow_nan=False))
    else:
        print_compared(found, out, under_way.view.notes, shown)


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
