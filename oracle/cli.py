"""The command `oracle`."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from oracle.errors import BudgetError, FolderError
from oracle.events import CancelToken
from oracle.execution.executors import BackendChoice
from oracle.experiment import Experiment, load_experiment, preset_names
from oracle.view import stopping
from oracle.view.options import (
    Address,
    AsJson,
    BackendFlag,
    DataPath,
    ExecutorFlag,
    MaxHours,
    PackSize,
    Preset,
    RunFolder,
    Set,
    Slots,
    address_of,
    experiment_of,
    heavy_imports,
    not_empty,
    run,
    stdout_console,
)

if TYPE_CHECKING:
    from oracle.search.estimate import Plan

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Search the best peak learning rate (max_lr) at every cycle of iterative pruning.",
)


@app.command(epilog="Example: oracle search digits-mlp --out runs/digits --set grid.points=16")
def search(
    context: typer.Context,
    preset: Preset,
    out: Annotated[
        str | None, typer.Option(help="The run's folder: local, s3:// or gs://. [runs/NAME]", callback=not_empty)
    ] = None,
    executor: ExecutorFlag = "ray",
    address: Address = None,
    set_: Set = None,
    data: DataPath = None,
    slots: Slots = None,
    backend: BackendFlag = "auto",
    pack_size: PackSize = None,
    carry: Annotated[
        Literal["keep", "retrain"],
        typer.Option(help="Keep each trial's weights until its cycle is chosen, or retrain."),
    ] = "keep",
    checkpoint_seconds: Annotated[float, typer.Option(min=0, help="Between two checkpoints of a long pack.")] = 60.0,
    until_sure: Annotated[
        float | None,
        typer.Option(
            metavar="PROBABILITY", help="Add seeds to a cycle until its optimum is within the tolerance with this."
        ),
    ] = None,
    max_seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds at a cycle, with those added. [twice the experiment's]")
    ] = None,
    max_hours: MaxHours = None,
    as_json: AsJson = False,
) -> None:
    """Search max_lr at every cycle. Run again after any stop, it goes on."""
    address = address_of(context, address, executor)
    experiment = experiment_of(preset, set_, data)
    out = out or f"runs/{experiment.name}"
    if max_hours is not None:
        _check_budget(_plan(experiment, executor, address, slots, backend, pack_size, out), max_hours)
    with heavy_imports(executor):
        from oracle.search.run import run_oracle
        from oracle.view.terminal import LiveView

    # The stream itself: while Ray trains, the names sys.stdout and sys.stderr lead nowhere.
    view = LiveView(Console(file=sys.stderr, highlight=False, markup=False, emoji=False))
    cancel = CancelToken()
    with stopping.telling(cancel.cancel):
        run_oracle(
            experiment,
            out,
            executor=executor,
            address=address,
            slots=slots,
            backend=backend,
            pack_size=pack_size,
            carry=carry,
            checkpoint_seconds=checkpoint_seconds,
            until_sure=until_sure,
            max_seeds=max_seeds,
            listeners=[view],
            cancel=cancel,
        )
    _show(out, as_json, view.notes)


@app.command(name="plan", epilog="Example: oracle plan digits-mlp --max-hours 1")
def plan_(
    context: typer.Context,
    preset: Preset,
    out: Annotated[
        str | None,
        typer.Option(
            help="A run's folder: what it holds already takes no more time.", show_default=False, callback=not_empty
        ),
    ] = None,
    executor: ExecutorFlag = "ray",
    address: Address = None,
    set_: Set = None,
    data: DataPath = None,
    slots: Slots = None,
    backend: BackendFlag = "auto",
    pack_size: PackSize = None,
    max_hours: MaxHours = None,
    as_json: AsJson = False,
) -> None:
    """Count trainings, steps and disk, time a few steps, and estimate the hours. Nothing is launched."""
    address = address_of(context, address, executor)
    experiment = experiment_of(preset, set_, data)
    found = _plan(experiment, executor, address, slots, backend, pack_size, out)
    if max_hours is not None:
        _check_budget(found, max_hours)
    from oracle.view.terminal import duration

    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    done = f", {found.trainings_done:,} of them done" if found.trainings_done else ""
    lines = {
        "trainings": f"{_trainings(found)} ({_extent(experiment)}){done}",
        "steps": f"{found.steps:,} ({found.steps_per_training:,} a training)",
        "network": f"{experiment.network.name}, {found.parameters:,} parameters",
        "disk": f"{_size(found.disk_bytes)} at the fullest; with --carry retrain {_size(found.disk_bytes_retrain)}, "
        f"and {found.trainings_retrain - found.trainings:,} trainings more",
        "speed": f"{found.seconds_per_training:.3g} s a training, measured on one slot ({found.device}, {found.backend})",
        "time": f"about {duration(3600 * found.hours)} {_where(found)}",
    }
    console = stdout_console()
    for name, text in lines.items():
        console.print(f"{name:>10}  {text}")


@app.command(epilog="Example: oracle show runs/digits-mlp --json")
def show(out: RunFolder, as_json: AsJson = False) -> None:
    """Print a run's table and draw its picture."""
    _show(out, as_json, [])


@app.command(epilog="Example: oracle presets")
def presets(as_json: AsJson = False) -> None:
    """List the experiments that ship, one line each."""
    from oracle.search.strategies import make_strategy, trainings

    shipped = [load_experiment(name) for name in preset_names()]
    counts = {it.name: trainings(it, make_strategy(it)).likely for it in shipped}
    if as_json:
        print(json.dumps([{"name": name, "trainings": count} for name, count in counts.items()], indent=2))
        return
    width = max(len(it.name) for it in shipped)
    console = stdout_console()
    for it in shipped:
        console.print(
            f"{it.name:<{width}}  {it.network.name} on {it.data.source}, {it.pruning.method}, "
            f"{_extent(it)}: {counts[it.name]:,} trainings of {it.training.epochs} epochs"
        )


@app.command(
    epilog="Example: oracle convert vit_b_16.pth --network vit-b-16 --classes 10 --side 384 --out vit.safetensors"
)
def convert(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A torchvision checkpoint (.pth).")],
    network: Annotated[str, typer.Option(help="resnet50, mobilenetv2 or vit-b-16.")],
    classes: Annotated[int, typer.Option(min=2, help="Classes of the data that it will train on.")],
    side: Annotated[int, typer.Option(min=1, help="Pixels a side of its images.")],
    out: Annotated[str, typer.Option(help="The safetensors file to write, for network.weights.", callback=not_empty)],
) -> None:
    """Turn a torchvision checkpoint into the weights that a search can start from."""
    with heavy_imports():
        from oracle.networks.pretrained import convert_checkpoint
        from oracle.storage import expanded

    changes = convert_checkpoint(checkpoint, out, name=network, num_classes=classes, input_shape=(3, side, side))
    console = stdout_console()
    for change in changes or ["every number is the checkpoint's"]:
        console.print(change)
    console.print(f"weights  {expanded(out).absolute()}")


def main() -> None:
    """Run the command; a refusal is a message and exit status 2, never a traceback."""
    run(app)


def _plan(
    experiment: Experiment,
    executor: str,
    address: str | None,
    slots: int | None,
    backend: BackendChoice,
    pack_size: int | None,
    out: str | None,
) -> "Plan":
    with heavy_imports(executor if address else None):
        from oracle.search.estimate import plan

    return plan(
        experiment,
        executor=executor,
        address=address,
        slots=slots,
        backend=backend,
        pack_size=pack_size,
        out=out,
    )


def _check_budget(found: "Plan", max_hours: float) -> None:
    from oracle.view.terminal import duration

    if found.hours > max_hours:
        raise BudgetError(
            f"{found.name} would take about {duration(3600 * found.hours)} {_where(found)} "
            f"({found.trainings - found.trainings_done:,} trainings of {found.seconds_per_training:.3g} s), more than "
            f"--max-hours {max_hours:g}; fewer cycles, candidates, seeds or epochs (--set), or more slots, make it shorter"
        )


def _extent(experiment: Experiment) -> str:
    from oracle.search.strategies import first_round, make_strategy
    from oracle.view.terminal import extent

    pairs = first_round(make_strategy(experiment))
    candidates, seeds = (len(set(values)) for values in zip(*pairs, strict=True))
    return extent(cycles=experiment.pruning.cycles + 1, candidates=candidates, seeds=seeds)


def _trainings(found: "Plan") -> str:
    """The likely number, and between which it lies."""
    if found.trainings_least == found.trainings_most:
        return f"{found.trainings:,}"
    most = "more" if found.trainings_most is None else f"{found.trainings_most:,}"
    least = "" if found.trainings_least == found.trainings else f"from {found.trainings_least:,} "
    return f"{found.trainings:,}, {least}up to {most} by what is found"


def _where(found: "Plan") -> str:
    return f"on {found.slots} slot{'s' * (found.slots != 1)}, packs of {found.pack_size}"


def _show(out: str, as_json: bool, notes: list[str]) -> None:
    from oracle.runs.records import read_experiment, read_trials
    from oracle.search.how_sure import with_estimates
    from oracle.storage import Folder
    from oracle.view.plots import draw
    from oracle.view.terminal import cycle_table
    from oracle.view.words import how_sure, overall

    folder = Folder(out)
    (table, candidates), trials = with_estimates(folder), read_trials(folder)
    if as_json:
        metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        found = {"metadata": metadata, "rows": table.to_pylist(), "p_within": candidates.to_pylist()}
        print(json.dumps(found, indent=2))
        return
    console = stdout_console()
    if table.num_rows == 0:
        done = trials.num_rows
        console.print(
            f"no cycle is finished yet; {done} trial{'s' * (done != 1)} of the first {'are' if done != 1 else 'is'}"
        )
        return
    experiment, rows = read_experiment(folder), table.to_pylist()
    console.print(cycle_table(rows, width=console.width if console.is_terminal else None))
    if any(row[name] for row in rows for name in ("lo_on_edge", "hi_on_edge", "lo_open", "hi_open")):
        console.print("* on the edge of the grid: may reach further")
    for row in rows:
        said = how_sure(row, tolerance=experiment.tolerance)
        if said is not None:
            console.print(said)
    advice = overall(rows)
    if advice is not None:
        console.print(advice)
    for note in notes:
        console.print(note)
    console.print(f"table    {folder / 'oracle.parquet'}")
    picture = draw(trials, table, title=experiment.name)
    try:
        folder.write_if_changed("oracle.png", picture)
    except FolderError as error:  # a run of someone else's may be looked at all the same
        console.print(f"no picture: {error}")
    else:
        console.print(f"picture  {folder / 'oracle.png'}")


def _size(num_bytes: int) -> str:
    """Bytes as people read them.

    >>> _size(3_700_000), _size(12_500_000_000)
    ('3.7 MB', '12.5 GB')
    """
    size = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
