"""`silo-fit`: from an Oracle's intervals to SILO's curve, with a proof, and a report."""

import json
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oracle.errors import CurveError
from oracle.view import stopping
from oracle.view.options import run
from search_spaces.silo import RECOMMENDED, WIDE
from silo_fit import training_cli, words
from silo_fit.curve import SiloCurve
from silo_fit.fit import fit
from silo_fit.kinds import hits_by_kind
from silo_fit.result import CycleFit, Fit, check, notices_of_table, rows_as_dicts, verdict_as_dict
from silo_fit.tables import Intervals, read_intervals
from silo_fit.verdict import Verdict, judge

app = typer.Typer(
    name="silo-fit",
    help="From an Oracle's intervals to SILO's curve, with a proof of how many intervals any curve can hit; and the curve "
    "at work.",
    epilog="Example: silo-fit fit paper:resnet20",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Source = Annotated[
    str,
    typer.Argument(
        help="oracle.parquet, its folder, a CSV or Parquet file with cycle (or percent_remaining), lo, max_lr and hi, "
        "or one of the paper's tables: paper:vgg19, paper:resnet20.",
        show_default=False,
    ),
]
PruningRate = Annotated[
    float | None,
    typer.Option(help="Fraction of the remaining weights removed per cycle, if the table does not carry it."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
QRange = Annotated[
    tuple[float, float] | None,
    typer.Option("--q", help="Range to search q in.", metavar="LOW HIGH", show_default="0 3"),
]
BetaRange = Annotated[
    tuple[float, float] | None,
    typer.Option("--beta", help="Range to search beta in.", metavar="LOW HIGH", show_default="3 6"),
]
Wide = Annotated[
    bool,
    typer.Option(
        "--wide",
        help=f"Search q in [{WIDE.q[0]:g}, {WIDE.q[1]:g}] and beta in [{WIDE.beta[0]:g}, {WIDE.beta[1]:g}] instead.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the search: the same seed gives the same numbers.")]
Trials = Annotated[int, typer.Option(help="Points of (q, beta) that Optuna tries.")]


@app.callback()
def _commands() -> None:
    """Keep the commands' names even if there is only one."""


@app.command(name="fit", epilog="Example: silo-fit fit runs/mine/oracle.parquet   or   silo-fit fit paper:resnet20")
def fit_command(
    source: Source,
    pruning_rate: PruningRate = None,
    q: QRange = None,
    beta: BetaRange = None,
    wide: Wide = False,
    seed: Seed = 0,
    trials: Trials = 50,
    as_json: Json = False,
) -> None:
    """Fit eps, delta, q and beta to the intervals, and prove how many any curve can hit."""
    result = _fit(source, pruning_rate, q, beta, wide, seed, trials)
    if as_json:
        print(json.dumps(result.as_dict(), indent=2, allow_nan=False))
    else:
        _print_fit(result)


@app.command(
    name="check",
    epilog="Example: silo-fit check paper:resnet20 --eps 0.03 --delta 0.04 --q 1 --beta 5",
)
def check_command(
    source: Source,
    eps: Annotated[float, typer.Option(help="max_lr before the rise.")],
    delta: Annotated[float, typer.Option(help="Height of the rise.")],
    q: Annotated[float, typer.Option(help="Cycles before the rise starts.")] = 1.0,
    beta: Annotated[float, typer.Option(help="Steepness of the rise.")] = 5.0,
    pruning_rate: PruningRate = None,
    as_json: Json = False,
) -> None:
    """Hold a curve of your own against the intervals."""
    intervals = read_intervals(source, pruning_rate=pruning_rate)
    curve = SiloCurve(eps=eps, delta=delta, q=q, beta=beta, pruning_rate=intervals.pruning_rate)
    rows = check(intervals, curve)
    hits = sum(row.inside for row in rows)
    verdict = judge(intervals, curve, is_fitted=False)
    kinds = hits_by_kind(intervals, curve)
    notices = tuple(notices_of_table(intervals))
    if as_json:
        result = {
            "source": intervals.name,
            "curve": curve.as_dict(),
            "hits": hits,
            "num_cycles": len(rows),
            "per_cycle": rows_as_dicts(intervals, rows, verdict),
            "warnings": notices,
        }
        if intervals.estimates is not None:
            by_kind = {kind: {"hits": hits, "num_intervals": num} for kind, (hits, num) in kinds.items()}
            result |= {**verdict_as_dict(verdict), "kinds": by_kind}
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    console = Console(soft_wrap=True)
    console.print(f"[bold]{escape(intervals.name)}[/bold], pruning rate {intervals.pruning_rate:g}")
    _print_verdict(console, verdict)
    console.print(_cycle_table(rows))
    console.print(f"[bold]{hits} of {len(rows)}[/bold] intervals hit by {curve.in_words()}")
    for notice in notices:
        console.print(f"[yellow]! {escape(notice)}[/yellow]")
    if intervals.estimates is not None:
        console.print()
        said = [[words.KIND_LABELS[kind], words.hits_of_kind(*of, len(rows))] for kind, of in kinds.items()]
        console.print(_plain_table(["intervals", "hit by the curve"], said))
        _print_certainty(console, intervals, rows, verdict)


@app.command(name="report", epilog="Example: silo-fit report runs/mine --out report.html")
def report_command(
    source: Annotated[str, typer.Argument(help="A search's folder, or any table that fit takes.", show_default=False)],
    out: Annotated[
        str | None,
        typer.Option(help="Where to write it, also s3://; report.html in the folder, or here for a table."),
    ] = None,
    pruning_rate: PruningRate = None,
    q: QRange = None,
    beta: BetaRange = None,
    wide: Wide = False,
    seed: Seed = 0,
    trials: Trials = 50,
    as_json: Json = False,
) -> None:
    """Write one HTML file that stands alone: intervals and curve, heat map, table, parameters, settings."""
    from silo_fit.report import find_trials, report_target, write_report

    result = _fit(source, pruning_rate, q, beta, wide, seed, trials)
    target = report_target(source, out)
    size = write_report(result, target, trials=find_trials(source))
    if as_json:
        print(json.dumps({"report": target, "bytes": size, "hits": result.hits, "num_cycles": result.num_cycles}))
    else:
        print(f"{target}: {words.hits(result)}; {size / 1e6:.1f} MB, opens without a network")


app.command(
    name="replay",
    epilog="Example: silo-fit replay runs/digits-mlp --seeds 10   or   ... --curve eps=0.03,delta=0.04",
)(training_cli.replay)


app.command(name="sparse", epilog="Example: silo-fit sparse digits-mlp --cycles 0,3,4,6,10")(training_cli.sparse)


app.command(name="tune", epilog="Example: silo-fit tune digits-mlp --rates 12")(training_cli.tune)
app.command(
    name="compare",
    epilog="Example: silo-fit compare digits-mlp --curve runs/digits-mlp --curve eps=0.1,delta=0.1",
)(training_cli.compare)


def _fit(
    source: str,
    pruning_rate: float | None,
    q: tuple[float, float] | None,
    beta: tuple[float, float] | None,
    wide: bool,
    seed: int,
    trials: int,
) -> Fit:
    if wide and (q or beta):
        raise CurveError("--wide sets the ranges of q and beta; leave out --q and --beta, or leave out --wide")
    ranges = WIDE if wide else RECOMMENDED
    with stopping.at_once():  # it holds nothing; Optuna would print a traceback of an interrupt
        intervals = read_intervals(source, pruning_rate=pruning_rate)
        return fit(intervals, q=q or ranges.q, beta=beta or ranges.beta, seed=seed, trials=trials)


def _cycle_table(rows: tuple[CycleFit, ...]) -> Table:
    table = Table("cycle", "interval", "optimum", "SILO", "inside", "margin", box=None, pad_edge=False)
    for column in table.columns[:4] + table.columns[5:]:
        column.justify = "right"
    for row in rows:
        inside = "[green]yes[/green]" if row.inside else "[red]no[/red]"
        table.add_row(
            str(row.cycle),
            f"{row.lo:.4g} .. {row.hi:.4g}",
            f"{row.max_lr:.4g}",
            f"{row.silo:.4g}",
            inside + (" [yellow](edge)[/yellow]" if row.on_edge else ""),
            words.margin(row),
        )
    return table


def _plain_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> Table:
    """A table whose first column is bold, or one of numbers, aligned to the right."""
    table = Table(*map(escape, head), box=None, pad_edge=False)
    for column in table.columns if numbers else ():
        column.justify = "right"
    for first, *rest in rows:
        table.add_row(first if numbers else f"[bold]{escape(first)}[/bold]", *map(escape, rest))
    return table


def _print_verdict(console: Console, verdict: Verdict | None) -> None:
    if verdict is None:
        return
    console.print(f"[bold]{escape(verdict.sentence)}[/bold]")
    if remarks := words.remarks(verdict):
        console.print(escape(remarks))


def _print_certainty(
    console: Console, intervals: Intervals, rows: tuple[CycleFit, ...], verdict: Verdict | None
) -> None:
    head, cells = words.certainty_table(intervals, rows, verdict)
    if cells:
        console.print()
        console.print(_plain_table(head, cells, numbers=True))


def _print_fit(result: Fit) -> None:
    """Print a fit for people, what matters most first."""
    console = Console(soft_wrap=True)
    rate = f"pruning rate {result.curve.pruning_rate:g}"
    console.print(f"[bold]{escape(result.intervals.name)}[/bold], {rate}")
    _print_verdict(console, result.verdict)
    console.print()
    console.print(_cycle_table(result.per_cycle))
    console.print(f"\n[bold]{words.hits(result)}[/bold]; {escape(words.proof(result))}")
    if margin := words.smallest_margin(result):
        console.print(margin)
    for notice in result.notices:
        console.print(f"[yellow]! {escape(notice)}[/yellow]")
    console.print()
    if by_kind := words.kinds(result):
        console.print(_plain_table(["intervals", "hit by the curve", "most that any curve hits"], by_kind))
        console.print()
    console.print(_plain_table(*words.parameter_table(result)))
    if rise := words.rise(result):
        console.print(rise)
    _print_certainty(console, result.intervals, result.per_cycle, result.verdict)
    console.print()
    rows = words.comparison(result)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.print(escape(line.rstrip()))
    console.print(f"\nintervals on the grid's edge: {words.edges(result)}")
    basis, counts = words.trainings(result)
    console.print(f"trainings ({basis}): " + "; ".join(f"{name} {count}" for name, count in counts.items()))


def main() -> None:
    """Run the command; a refusal is a message and exit status 2, never a traceback."""
    run(app)


if __name__ == "__main__":
    main()
