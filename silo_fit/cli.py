"""`silo-fit`: from an Oracle's intervals to SILO's curve, with a proof, and a report."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oracle.cli import run
from oracle.errors import CurveError
from oracle.storage import expanded
from search_spaces.silo import RECOMMENDED, WIDE
from silo_fit.curve import SiloCurve
from silo_fit.fit import CycleFit, Fit, check, fit
from silo_fit.tables import read_intervals

app = typer.Typer(
    name="silo-fit",
    help="From an Oracle's intervals to SILO's curve, with a proof of how many intervals any curve can hit.",
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
    if as_json:
        fields = [{name: getattr(row, name) for name in CycleFit.__slots__} for row in rows]
        result = {"source": intervals.name, "curve": curve.as_dict(), "hits": hits, "num_cycles": len(rows)}
        print(json.dumps({**result, "per_cycle": fields, "warnings": intervals.warnings}, indent=2, allow_nan=False))
        return
    console = Console(soft_wrap=True)
    console.print(f"[bold]{escape(intervals.name)}[/bold], pruning rate {intervals.pruning_rate:g}")
    console.print(_cycle_table(rows))
    console.print(f"[bold]{hits} of {len(rows)}[/bold] intervals hit by {_numbers(curve)}")
    for warning in intervals.warnings:
        console.print(f"[yellow]! {escape(warning)}[/yellow]")


@app.command(name="report", epilog="Example: silo-fit report runs/mine --out report.html")
def report_command(
    source: Annotated[str, typer.Argument(help="A search's folder, or any table that fit takes.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Where to write it; report.html in the folder, or here for a table.")
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
    from silo_fit.report import find_trials, write_report

    result = _fit(source, pruning_rate, q, beta, wide, seed, trials)
    folder = expanded(source)
    target = out or (folder if folder.is_dir() else Path()) / "report.html"
    size = write_report(result, target, trials=find_trials(source))
    if as_json:
        print(json.dumps({"report": str(target), "bytes": size, "hits": result.hits, "num_cycles": result.num_cycles}))
    else:
        hits = f"{result.hits} of {result.num_cycles} intervals hit"
        print(f"{target}: {hits}; {size / 1e6:.1f} MB, opens without a network")


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
    intervals = read_intervals(source, pruning_rate=pruning_rate)
    return fit(intervals, q=q or ranges.q, beta=beta or ranges.beta, seed=seed, trials=trials)


def _numbers(curve: SiloCurve) -> str:
    return f"eps {curve.eps:.4g}, delta {curve.delta:.4g}, q {curve.q:.4g}, beta {curve.beta:.4g}"


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
            f"{0.0 if row.on_edge else row.margin:+.2g}",
        )
    return table


def _print_fit(result: Fit) -> None:
    """Print a fit for people, what matters most first."""
    console = Console(soft_wrap=True)
    curve = result.curve
    searched = f"q in [{result.settings['q'][0]:g}, {result.settings['q'][1]:g}], "
    searched += f"beta in [{result.settings['beta'][0]:g}, {result.settings['beta'][1]:g}]"
    console.print(f"[bold]{escape(result.intervals.name)}[/bold], pruning rate {curve.pruning_rate:g}\n")
    console.print(_cycle_table(result.per_cycle))
    proof = (
        f"proven: no curve with {searched} hits more"
        if result.certified
        else f"at most {result.most_hits} can be hit with {searched}; a gap of {result.most_hits - result.hits} remains"
    )
    console.print(f"\n[bold]{result.hits} of {result.num_cycles} intervals hit[/bold]; {escape(proof)}")
    if result.depth is not None:
        console.print(f"smallest margin: {result.depth:.0%} of half an interval's width")
    for notice in result.notices:
        console.print(f"[yellow]! {escape(notice)}[/yellow]")
    console.print()
    values = {name: getattr(curve, name) for name in result.determined}
    table = Table("", "fitted", f"by all curves that hit {result.hits}", box=None, pad_edge=False)
    for name, words in result.determined.items():
        label = "eps + delta" if name == "top" else name
        table.add_row(f"[bold]{label}[/bold]", f"{values[name]:.5g}", escape(words))
    console.print(table)
    if result.s_shape_supported:
        start, end = result.rise
        console.print(f"half of the rise is done at cycle {result.half_way:.2f}, 5% at {start:.2f}, 95% at {end:.2f}")
    console.print()
    console.print(escape("\n".join(_comparison(result))))


def _comparison(result: Fit) -> list[str]:
    """What else hits how many, what to search next, and what it all costs."""
    total = result.num_cycles
    default = result.paper_default
    whole = "none in range" if result.whole_q_hits is None else result.whole_q_hits
    wide = f"{result.wide_hits}{'' if result.wide_certified else ' or more'}"
    lines = [
        f"hits: whole q {whole}, real q {result.hits}, wide range {wide}",
        f"the paper's default, q 1 and beta 5: {default.hits} of {total} with eps {default.curve.eps:.4g}, "
        f"delta {default.curve.delta:.4g}",
    ]
    if result.paper_curve:
        lines.append(
            f"the paper's own numbers, {_numbers(result.paper_curve.curve)}: {result.paper_curve.hits} of {total}"
        )
    lines.append(f"a constant of {result.constant_max_lr:.4g}: {result.constant_hits} of {total}")
    following = result.next_cycle
    if following:
        high = "no upper bound" if following.high is None else f"{following.high:.4g}"
        span = f"the best curves span {following.low:.4g} to {high}"
        lines.append(f"most useful to search next: cycle {following.cycle}, where {span}")
    else:
        lines.append("every cycle up to the end of the rise is searched")
    if result.edge_limited:
        cycles = ", ".join(map(str, result.edge_limited))
        lines.append(f"intervals that end on the grid's edge, and may be wider than they look: cycle {cycles}")
    elif result.edge_limited is None:
        lines.append("the table does not say which intervals end on the grid's edge")
    else:
        lines.append("no interval ends on the grid's edge")
    return [*lines, _costs(result)]


def _costs(result: Fit) -> str:
    counts, intervals = result.trainings, result.intervals
    candidates = f"{counts['candidates']:g} candidates{'' if intervals.num_candidates else ' assumed'}"
    seeds = f"{counts['seeds']:g} seed(s){'' if intervals.num_seeds else ' assumed'}"
    joint = f"{counts['joint_oracle']:.2g}" if "joint_oracle" in counts else "over 1e300"
    return (
        f"trainings ({candidates}, {counts['chain']:g} cycles, {seeds}): "
        f"greedy Oracle {counts['greedy_oracle']:g}, joint Oracle {joint}, "
        f"sparse Oracle of {counts['sparse_cycles']:g} cycles {counts['sparse_oracle']:g}; "
        f"SILO by a grid of (eps, delta) {counts['silo_grid']:g}, one after the other {counts['silo_one_by_one']:g}, "
        f"delta on the target sparsity alone {counts['silo_one_network']:g}"
    )


def main() -> None:
    """Run the command; a refusal is a message and exit status 2, never a traceback."""
    run(app)


if __name__ == "__main__":
    main()
