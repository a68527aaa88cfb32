"""What the commands of both packages share: options, how a search is launched, manners."""

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console

from oracle.errors import Error
from oracle.execution.executors import EXECUTORS, BackendChoice
from oracle.experiment import Experiment, load_experiment
from oracle.view import stopping


def not_empty(value: str | None) -> str | None:
    """Refuse what a variable of the shell that is not set leaves behind."""
    if value == "":
        raise typer.BadParameter("found nothing between the quotes; is a variable of the shell not set?")
    return value


Preset = Annotated[str, typer.Argument(metavar="PRESET_OR_YAML", help="A shipped preset, or a file ending in .yaml.")]
RunFolder = Annotated[str, typer.Argument(metavar="DIR", help="A run's folder.", callback=not_empty)]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the experiment.")
]
DataPath = Annotated[
    str | None, typer.Option("--data", metavar="DIR", help="Where the images lie (data.path).", callback=not_empty)
]
ExecutorFlag = Annotated[str, typer.Option(metavar=f"<{'|'.join(EXECUTORS)}>", help="Ray Tune, or this process alone.")]
Address = Annotated[str | None, typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster: local, auto or HOST:PORT.")]
Slots = Annotated[int | None, typer.Option(min=1, help="Packs trained at a time; all that fit by default.")]
BackendFlag = Annotated[BackendChoice, typer.Option(help="Candidates in packs, or one by one in plain PyTorch.")]
PackSize = Annotated[int | None, typer.Option(min=1, help="Candidates in a pack, at most.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON on standard output.")]
MaxHours = Annotated[float | None, typer.Option(min=0, help="Refuse to start above this many hours.")]


def run(command: Callable[..., Any]) -> None:
    """Run a typer application with this project's manners."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where only ASCII can be shown: ? and no traceback
    try:
        with stopping.orderly():
            command()
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def heavy_imports(executor: str | None = None) -> Iterator[None]:
    """Torch, and what an executor needs: seconds in which nothing is under way yet."""
    with stopping.at_once():
        import oracle.execution.compilers  # noqa: F401  # before all others

        yield
        if executor is not None and executor in EXECUTORS:
            EXECUTORS[executor].load()


def address_of(context: typer.Context, address: str | None, executor: str) -> str | None:
    """Without the environment's RAY_ADDRESS where no cluster is joined; one on the command line is refused there."""
    given = context.get_parameter_source("address")
    from_environment = given is not None and given.name == "ENVIRONMENT"
    kind = EXECUTORS.get(executor)
    return None if kind is not None and not kind.joins_clusters and from_environment else address


def experiment_of(preset: str, set_: list[str] | None, data: str | None) -> Experiment:
    """The experiment that the options name."""
    overrides = list(set_ or [])
    if data is not None:
        overrides.append(f"data.path={json.dumps(data)}")
    return load_experiment(preset, overrides=overrides)


def stdout_console(width: int | None = None) -> Console:
    """Standard output; what is printed are names and paths, no markup. `width`: characters, the terminal's by default."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False, width=width)
