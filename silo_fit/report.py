"""One HTML file that stands alone: an Oracle's intervals, SILO's curve, accuracies, parameters, settings.

plotly.js is written into the file, which therefore needs no network and weighs about 5 MB. A content policy in the page
forbids it to load anything from elsewhere.
"""

import json
import math
import re
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from oracle.errors import FolderError
from silo_fit.curve import SiloCurve
from silo_fit.fit import Fit

if TYPE_CHECKING:
    import pyarrow

PAPER_TOLERANCE = 0.005  # of accuracy
SMALLEST_CLIP = 0.05  # of accuracy: gaps beyond the clip share one colour, or failures would drown the rest
ORANGE, BLUE, RED, GREY = "#e8871e", "#4a86e8", "#e0474c", "#8a8f98"
_METADATA_LABELS = {
    "name": "name", "experiment": "experiment", "version": "version of the table", "tolerance": "tolerance of the intervals"
}  # fmt: skip
_SETTING_LABELS = {
    "q": "searched q", "beta": "searched beta", "seed": "seed", "trials": "trials",
    "tolerance": "forgiven at an interval's end, of the largest hi",
}  # fmt: skip
PARAMETERS = {"eps": "eps", "delta": "delta", "top": "eps + delta", "q": "q", "beta": "beta"}


def find_trials(source: str) -> "pyarrow.Table | None":
    """Read the trials of a search's folder, or of the folder of its oracle.parquet; None where there are none."""
    from oracle.runs.tables import read_trials

    folder, _, name = source.rpartition("/")
    own = name == "oracle.parquet"
    if source.startswith("paper:") or (source.endswith((".csv", ".parquet")) and not own):
        return None
    try:
        trials = read_trials((folder or ".") if own else source)
    except FolderError:
        return None  # a folder with an oracle.parquet and nothing else is a table
    return trials if trials.num_rows else None


def write_report(fit: Fit, target: Path, *, trials: "pyarrow.Table | None" = None) -> int:
    """Write the report of a fit, with a heat map if there are trials; return its size in bytes."""
    page = render(fit, trials=trials).encode()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(page)
    except OSError as error:
        raise FolderError(f"{target}: the report cannot be written: {error.strerror or error}") from error
    return len(page)


def render(fit: Fit, *, trials: "pyarrow.Table | None" = None) -> str:
    """Return the page."""
    title = dict(fit.intervals.metadata).get("name", fit.intervals.name)
    heat = None if trials is None else heat_map(fit, trials)
    figures = {"curve": curve_figure(fit), **({} if heat is None else {"heat": heat})}
    parts = {
        "TITLE": escape(title),
        "HEADLINE": _headline(fit),
        "NOTICES": "".join(f"<li>{escape(notice)}</li>" for notice in fit.notices),
        "HEAT": "" if heat is None else _HEAT_SECTION,
        "CYCLES": _cycles_table(fit),
        "PARAMETERS": _parameters_table(fit),
        "RIVALS": _rivals_table(fit),
        "SETTINGS": _settings_table(fit),
        "FIGURES": _embedded({name: json.loads(figure.to_json()) for name, figure in figures.items()}),
        "PLOTLY": get_plotlyjs(),
    }
    return re.sub(r"\[\[([A-Z]+)\]\]", lambda found: parts[found[1]], _PAGE)


def _tolerance(fit: Fit) -> float:
    """Of the intervals, as the table says; the paper's half a point where it says nothing that is one."""
    try:
        known = float(dict(fit.intervals.metadata)["tolerance"])
    except (KeyError, ValueError):
        return PAPER_TOLERANCE
    return known if 0 < known < 1 else PAPER_TOLERANCE


def curve_figure(fit: Fit) -> go.Figure:
    """Intervals and optima, the curve, and the band that all best curves span."""
    cycles = fit.intervals.cycles
    last = max(cycles[-1], 1)
    rise = min(last, 1.25 * fit.curve.cycle_at(0.99))  # drawn finely, however far the last cycle is
    dense = np.unique(np.concatenate([np.linspace(0, end, 241) for end in (rise, last)]))
    low, high = fit.best_curves.band(dense)
    roof = 1.12 * max(fit.intervals.scale, float(np.max(fit.curve(dense))))
    figure = go.Figure()
    figure.add_scatter(
        x=dense, y=np.minimum(high, 2 * roof), mode="lines", line_width=0, hoverinfo="skip", showlegend=False
    )
    figure.add_scatter(
        x=dense, y=low, mode="lines", line_width=0, fill="tonexty", fillcolor="rgba(232,135,30,0.20)", hoverinfo="skip",
        name="all best curves",
    )  # fmt: skip
    for hit, colour, name in ((True, BLUE, "interval"), (False, RED, "interval missed")):
        rows = [row for row in fit.per_cycle if row.inside == hit]
        if rows:
            figure.add_scatter(
                x=[x for row in rows for x in (row.cycle, row.cycle, None)],
                y=[y for row in rows for y in (row.lo, row.hi, None)],
                mode="lines", line={"color": colour, "width": 7}, opacity=0.75, hoverinfo="skip", name=name,
            )  # fmt: skip
    figure.add_scatter(
        x=dense, y=fit.paper_default.curve(dense), mode="lines", line={"color": GREY, "dash": "dot", "width": 2},
        hoverinfo="skip", name="q 1, beta 5",
    )  # fmt: skip
    figure.add_scatter(
        x=dense, y=fit.curve(dense), mode="lines", line={"color": ORANGE, "width": 3}, hoverinfo="skip", name="SILO"
    )
    figure.add_scatter(
        x=cycles, y=fit.intervals.max_lr, mode="markers", name="optimum",
        marker={"color": "#ffffff", "size": 8, "line": {"color": "#1f3b73", "width": 2}},
        customdata=[[row.lo, row.hi, row.silo, "inside" if row.inside else "outside"] for row in fit.per_cycle],
        hovertemplate="cycle %{x}<br>optimum %{y:.4g}<br>interval %{customdata[0]:.4g} to %{customdata[1]:.4g}"
        "<br>SILO %{customdata[2]:.4g}, %{customdata[3]}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="pruning cycle", range=[-0.03 * dense[-1], 1.03 * dense[-1]])
    figure.update_yaxes(title="max_lr", range=[0, roof])
    return figure


def heat_map(fit: Fit, trials: "pyarrow.Table") -> go.Figure | None:
    """Mean validation accuracy of each candidate, as its gap to the cycle's best; None without trials of the cycles."""
    accuracies = _accuracies(trials, {int(cycle) for cycle in fit.intervals.cycles})
    if not accuracies:
        return None
    cycles, rates = (sorted(set(values)) for values in zip(*accuracies, strict=True))
    means = np.full((len(rates), len(cycles)), np.nan)
    failed = []
    for (cycle, rate), seeds in accuracies.items():
        row, column = rates.index(rate), cycles.index(cycle)
        if None in seeds:
            failed.append((column, row))
        else:
            means[row, column] = np.mean([seed for seed in seeds if seed is not None])
    best = np.nanmax(np.where(np.isnan(means), -np.inf, means), axis=0)
    gaps = best - means
    clip = max(SMALLEST_CLIP, 4 * _tolerance(fit))
    figure = go.Figure(
        go.Heatmap(
            z=np.minimum(gaps, clip) * 100, zmin=0, zmax=clip * 100, colorscale="Viridis", reversescale=True,
            customdata=np.dstack([means * 100, gaps * 100, *np.meshgrid(cycles, rates)]), xgap=1, ygap=1,
            hovertemplate="cycle %{customdata[2]:.0f}, max_lr %{customdata[3]:.4g}<br>accuracy %{customdata[0]:.2f}%"
            "<br>%{customdata[1]:.2f} points below the best<extra></extra>",
            colorbar={
                "title": {"text": "points below the cycle's best", "side": "top"}, "orientation": "h", "thickness": 10,
                "len": 0.6, "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom",
            },
        )
    )  # fmt: skip
    if failed:
        figure.add_scatter(
            x=[column for column, _ in failed], y=[row for _, row in failed], mode="markers", name="diverged",
            marker={"symbol": "x-thin", "size": 7, "line": {"color": RED, "width": 2}},
            text=[f"cycle {cycles[column]}, max_lr {rates[row]:.4g}: diverged" for column, row in failed],
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    _overlay(figure, fit, cycles, rates)
    ticks = _spread_ticks(len(rates), 12), _spread_ticks(len(cycles), 9)
    figure.update_yaxes(title="max_lr", tickvals=ticks[0], ticktext=[f"{rates[row]:.2g}" for row in ticks[0]])
    figure.update_xaxes(title="pruning cycle", tickvals=ticks[1], ticktext=[str(cycles[column]) for column in ticks[1]])
    return figure


def _accuracies(trials: "pyarrow.Table", cycles: set[int]) -> dict[tuple[int, float], list[float | None]]:
    """Accuracies of the seeds by (cycle, max_lr), None for a diverged one; a trial told twice counts once."""
    columns = ("cycle", "max_lr", "seed", "outcome", "val_accuracy")
    by_seed = {}
    for row in trials.select(columns).to_pylist():
        accuracy = row["val_accuracy"] if row["outcome"] == "finished" else None
        by_seed[row["cycle"], row["max_lr"], row["seed"]] = accuracy
    found: dict[tuple[int, float], list[float | None]] = defaultdict(list)
    for (cycle, rate, _), accuracy in by_seed.items():
        if cycle in cycles:
            found[cycle, rate].append(accuracy)
    return found


def _overlay(figure: go.Figure, fit: Fit, cycles: list[int], rates: list[float]) -> None:
    """Draw intervals, optima and the curve over the heat map, whose rows are candidates, not a scale."""

    def height(value: float) -> float:
        return float(np.interp(np.log(max(value, 1e-300)), np.log(rates), np.arange(len(rates))))

    rows = [row for row in fit.per_cycle if row.cycle in cycles]
    columns = [cycles.index(row.cycle) for row in rows]
    outlines: list[tuple[float | None, float | None]] = []
    for column, row in zip(columns, rows, strict=True):
        left, right, bottom, top = column - 0.47, column + 0.47, height(row.lo) - 0.47, height(row.hi) + 0.47
        outlines += [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom), (None, None)]
    figure.add_scatter(
        x=[x for x, _ in outlines], y=[y for _, y in outlines], mode="lines", line={"color": BLUE, "width": 2},
        hoverinfo="skip", name="interval",
    )  # fmt: skip
    figure.add_scatter(
        x=columns, y=[height(row.max_lr) for row in rows], mode="markers", hoverinfo="skip", name="optimum",
        marker={"color": "#ffffff", "size": 7, "line": {"color": "#1f3b73", "width": 2}},
    )  # fmt: skip
    figure.add_scatter(
        x=columns, y=[height(row.silo) for row in rows], mode="lines", line={"color": ORANGE, "width": 3},
        hoverinfo="skip", name="SILO",
    )  # fmt: skip


def _spread_ticks(num: int, most: int) -> list[int]:
    return list(range(0, num, math.ceil(num / most)))


def _headline(fit: Fit) -> str:
    proof = (
        "No curve in the searched range hits more: proven."
        if fit.certified
        else f"Proven is only that no curve hits more than {fit.most_hits}."
    )
    start, end = fit.rise
    half = f" Half of the rise is done at cycle {fit.half_way:.1f}, 5% at {start:.1f}, 95% at {end:.1f}."
    half = half if fit.s_shape_supported else ""
    depth = "" if fit.depth is None else f" The smallest margin is {fit.depth:.0%} of half an interval's width."
    return f"<strong>{fit.hits} of {fit.num_cycles} intervals hit.</strong> {proof}{half}{depth}"


def _table(head: list[str], rows: list[list[str]], *, numbers: bool = True) -> str:
    """An HTML table of cells that are HTML already."""
    top = "<thead><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr></thead>" if any(head) else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="numbers"' if numbers else ""
    return f'<div class="scroll"><table{kind}>{top}<tbody>{body}</tbody></table></div>'


def _cycles_table(fit: Fit) -> str:
    edges = set(fit.edge_limited or ())
    rows = []
    for row in fit.per_cycle:
        inside = '<span class="yes">yes</span>' if row.inside else '<span class="no">no</span>'
        remaining = 100 * (1 - fit.curve.pruning_rate) ** row.cycle
        rows.append(
            [
                str(row.cycle),
                inside + (" (edge)" if row.on_edge else ""),
                f"{row.silo:.4g}",
                f"{row.lo:.4g} to {row.hi:.4g}" + (" *" if row.cycle in edges else ""),
                f"{row.max_lr:.4g}",
                f"{0.0 if row.on_edge else row.margin:+.2g}",
                f"{remaining:.3g}%",
            ]
        )
    note = "<p>* ends on the grid's edge, so it may be wider than it looks.</p>" if edges else ""
    return _table(["cycle", "inside", "SILO", "interval", "optimum", "margin", "weights left"], rows) + note


def _parameters_table(fit: Fit) -> str:
    rows = [
        [label, f"{getattr(fit.curve, name):.5g}", escape(fit.determined[name])] for name, label in PARAMETERS.items()
    ]
    return _table(["", "fitted", f"by all curves that hit {fit.hits}"], rows, numbers=False)


def _rivals_table(fit: Fit) -> str:
    total = fit.num_cycles

    def spelt(curve: SiloCurve) -> str:
        return f"eps {curve.eps:.4g}, delta {curve.delta:.4g}, q {curve.q:.3g}, beta {curve.beta:.3g}"

    rows = [["SILO as fitted", f"{fit.hits} of {total}", spelt(fit.curve)]]
    if fit.whole_q_hits is not None:
        rows.append(["best with a whole q", f"{fit.whole_q_hits} of {total}", ""])
    wide = f"q in [{fit.wide_ranges.q[0]:g}, {fit.wide_ranges.q[1]:g}], beta in "
    wide += f"[{fit.wide_ranges.beta[0]:g}, {fit.wide_ranges.beta[1]:g}]"
    rows.append(
        ["best in a wide range", f"{fit.wide_hits} of {total}" + ("" if fit.wide_certified else " or more"), wide]
    )
    rows.append(["the paper's default shape", f"{fit.paper_default.hits} of {total}", spelt(fit.paper_default.curve)])
    if fit.paper_curve:
        rows.append(["the paper's own numbers", f"{fit.paper_curve.hits} of {total}", spelt(fit.paper_curve.curve)])
    rows.append(["a constant", f"{fit.constant_hits} of {total}", f"max_lr {fit.constant_max_lr:.4g}"])
    if fit.next_cycle:
        high = "no upper bound" if fit.next_cycle.high is None else f"{fit.next_cycle.high:.4g}"
        span = f"best curves span {fit.next_cycle.low:.4g} to {high}"
        rows.append(["most useful to search next", f"cycle {fit.next_cycle.cycle}", span])
    return _table(["", "", ""], rows, numbers=False)


def _settings_table(fit: Fit) -> str:
    if fit.edge_limited is None:
        edge = "not recorded in the table"
    else:
        edge = "cycle " + ", ".join(map(str, fit.edge_limited)) if fit.edge_limited else "none"
    counts = {name.replace("_", " "): f"{count:,.6g}" for name, count in fit.trainings.items()}
    values = {
        "table": fit.intervals.name,
        **{_METADATA_LABELS[name]: value for name, value in fit.intervals.metadata},
        "pruning rate": f"{fit.curve.pruning_rate:g}",
        "intervals on the grid's edge": edge,
        **{_SETTING_LABELS[name]: value for name, value in fit.settings.items()},
        "found by": "Optuna" if fit.found_by == "optuna" else "the certificate",
        **{f"trainings: {name}": count for name, count in counts.items()},
        **{f"version of {name}": value for name, value in fit.versions.items()},
    }
    return _table(["", ""], [[escape(str(key)), escape(_shown(value))] for key, value in values.items()], numbers=False)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:g} to {value[1]:g}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _embedded(data: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


_HEAT_SECTION = """
<h2>Accuracy of every candidate</h2>
<p>Colour: how far the mean validation accuracy lies below the cycle's best, clipped. Crosses: diverged.</p>
<div id="heat" class="plot"></div>"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<link rel="icon" href="data:,">
<title>[[TITLE]]</title>
<style>
:root { color-scheme: light dark; --ink: #1c1f24; --paper: #ffffff; --line: #d9dde3; --soft: #5c6470; --note: #8a5a00;
  --yes: #1a7f37; --no: #c9252d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #15181c; --line: #363c44; --soft: #a3abb6;
  --note: #f0b44c; --yes: #56d364; --no: #ff7b72; } }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .3rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
p { margin: .4rem 0; }
.notices { color: var(--note); padding-left: 1.2rem; }
.notices:empty { display: none; }
.plot { width: 100%; height: 26rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; overflow-wrap: normal; }
th { text-align: left; color: var(--soft); font-weight: 500; }
th, td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.numbers th, .numbers td, td:nth-child(2) { white-space: nowrap; font-variant-numeric: tabular-nums; }
.yes { color: var(--yes); } .no { color: var(--no); font-weight: 600; }
@media (max-width: 40rem) { .plot { height: 25rem; } body { padding: .7rem; }
  table { font-size: .85rem; } th, td { padding-right: .6rem; } }
</style>
</head>
<body>
<h1>[[TITLE]]</h1>
<p>[[HEADLINE]]</p>
<ul class="notices">[[NOTICES]]</ul>
<div id="curve" class="plot"></div>
[[HEAT]]
<h2>Cycles</h2>
[[CYCLES]]
<h2>Parameters</h2>
[[PARAMETERS]]
<h2>Compared</h2>
[[RIVALS]]
<h2>Settings and versions</h2>
[[SETTINGS]]
<noscript><p>The plots need JavaScript.</p></noscript>
<script id="figures" type="application/json">[[FIGURES]]</script>
<script>[[PLOTLY]]</script>
<script>
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const ink = dark.matches ? "#e6e8eb" : "#1c1f24", line = dark.matches ? "#363c44" : "#d9dde3";
  const narrow = window.innerWidth < 640;
  for (const [name, figure] of Object.entries(figures)) {
    const axis = { gridcolor: line, linecolor: line, zeroline: false, automargin: true, fixedrange: narrow };
    const layout = {
      ...figure.layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 13 },
      margin: { l: 10, r: 10, t: 10, b: 10 }, hovermode: "closest",
      legend: { orientation: "h", y: -0.2, x: 0 },
      xaxis: { ...figure.layout.xaxis, ...axis, showgrid: name !== "heat" },
      yaxis: { ...figure.layout.yaxis, ...axis, showgrid: name !== "heat" },
    };
    Plotly.react(name, figure.data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
  }
}
draw();
dark.addEventListener("change", draw);
</script>
</body>
</html>
"""
