"""A run on one picture: validation accuracy over cycle x max_lr, optima and intervals drawn in."""

import io
import os
import tempfile
from bisect import bisect
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from oracle.errors import FolderError
from oracle.runs.summaries import best_accuracies, clip_of_gaps, mean_accuracies, searched_cycles

if "MPLCONFIGDIR" not in os.environ:  # else matplotlib keeps its fonts' list in the home folder; making it takes 0.1 s
    _SCRATCH = tempfile.TemporaryDirectory(prefix="oracle-matplotlib-")
    os.environ["MPLCONFIGDIR"] = _SCRATCH.name

from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke


def draw(trials: pa.Table, oracle: pa.Table, *, title: str) -> bytes:
    """A PNG. `trials` and `oracle` as `oracle.records` reads them; cycles without a row are drawn without interval.

    Colour: the gap of a candidate's mean validation accuracy to the best of its cycle, clipped (`clip_of_gaps`); a cross
    marks candidates that diverged with a seed. Cycles at which one max_lr alone was trained have no interval. Raises
    FolderError where there are no trials yet.
    """
    if trials.num_rows == 0:
        raise FolderError("there is nothing to draw yet: no trial is finished")
    figure = new_figure(10, 5.5)
    axes = figure.add_subplot()
    means, rows = mean_accuracies(trials), oracle.to_pylist()
    searched = set(searched_cycles(trials)) or {
        cycle for cycle, _ in means
    }  # or nothing was, as in a run of fixed peaks
    alone = {cycle: max_lr for cycle, max_lr in means if cycle not in searched}
    means = {key: mean for key, mean in means.items() if key[0] in searched}
    rates = sorted({max_lr for _, max_lr in means})
    cycles = sorted({*searched, *alone})
    grid = np.full((len(rates), len(cycles)), np.nan)
    for (cycle, max_lr), mean in means.items():
        grid[rates.index(max_lr), cycles.index(cycle)] = mean
    best = best_accuracies(trials)
    gaps = np.array([best[cycle] for cycle in cycles]) - grid
    even = len(rates) > 2 and np.allclose(np.diff(rates), rates[1] - rates[0])
    axes.set_yscale("linear" if even else "log")
    edges = _edges(rates, even)
    mesh = axes.pcolormesh(
        [cycle - 0.5 for cycle in [*cycles, cycles[-1] + 1]],
        edges,
        100 * gaps,
        cmap="viridis_r",
        norm=Normalize(0, 100 * clip_of_gaps()),
    )
    figure.colorbar(mesh, label="points of accuracy below the cycle's best", extend="max", pad=0.01)
    crosses = [(cycle, max_lr) for (cycle, max_lr), mean in means.items() if np.isnan(mean)]
    if crosses:
        axes.plot(*zip(*crosses, strict=True), "x", color="0.45", markersize=4, label="diverged", linestyle="none")
    tolerance = float((oracle.schema.metadata or {}).get(b"tolerance", b"0.005"))
    framed = [row for row in rows if row["cycle"] in searched]
    for row in framed:
        lo, hi = edges[_cell(edges, row["lo"])], edges[_cell(edges, row["hi"]) + 1]
        axes.plot(
            [row["cycle"] - 0.5, row["cycle"] + 0.5, row["cycle"] + 0.5, row["cycle"] - 0.5, row["cycle"] - 0.5],
            [lo, lo, hi, hi, lo],
            color="black",
            linewidth=1.8,
            label=f"within {100 * tolerance:g} points of the best" if row is framed[0] else None,
        )
    _draw_ranges(axes, rows)
    axes.plot([row["cycle"] for row in rows], [row["max_lr"] for row in rows], "o-", color="red", label="optimum")
    if alone:
        axes.plot(
            list(alone),
            list(alone.values()),
            "o",
            color="red",
            markerfacecolor="white",
            label="trained at, not searched",
        )
    _label(axes, rows, cycles, title)
    return png(figure)


def new_figure(width: float, height: float) -> Figure:
    """An empty picture, in inches; no window opens, and nothing is written."""
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def png(figure: Figure) -> bytes:
    """A figure's bytes."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()


def label_cycles(axes: Any, weights_remaining: Mapping[int, float | None]) -> None:
    """Name the cycles, sixteen or so, and the weights remaining below each; by cycle."""
    cycles = list(weights_remaining)[:: max(1, len(weights_remaining) // 16)]
    said = {cycle: f"\n{100 * left:.3g}%" for cycle, left in weights_remaining.items() if left is not None}
    axes.set_xticks(cycles, [f"{cycle}{said.get(cycle, '')}" for cycle in cycles])
    axes.set_xlabel("pruning cycle, and weights remaining")


def _draw_ranges(axes: Any, rows: list[dict[str, Any]]) -> None:
    """What is surely in each interval, dark, on what may be, light with a rim: behind it nothing may have been trained."""
    rim = withStroke(linewidth=4.5, foreground="0.4")
    for kind, colour, width in (("possible", "white", 3.0), ("sure", "black", 6.0)):
        known = [row for row in rows if row[f"lo_{kind}"] is not None]
        axes.vlines(
            [row["cycle"] for row in known],
            [row[f"lo_{kind}"] for row in known],
            [row[f"hi_{kind}"] for row in known],
            colors=colour,
            linewidth=width,
            label={"possible": "may be within", "sure": "surely within"}[kind] if known else None,
            capstyle="butt",
            path_effects=[rim] if kind == "possible" else [],
        )


def _edges(rates: list[float], even: bool) -> list[float]:
    """Cell borders halfway between neighbouring rates, on the axis as it is drawn; a lone rate gets a cell of its own."""
    at = np.array(rates) if even else np.log(rates)
    if len(at) == 1:
        return [rates[0] / 1.1, rates[0] * 1.1]
    middles = (at[1:] + at[:-1]) / 2
    edges = np.array([2 * at[0] - middles[0], *middles, 2 * at[-1] - middles[-1]])
    return [float(edge) for edge in (edges if even else np.exp(edges))]


def _cell(edges: list[float], rate: float) -> int:
    """The cell that a rate lies in, which need not have been trained; the nearest one beyond the ends."""
    return min(max(bisect(edges, rate) - 1, 0), len(edges) - 2)


def _label(axes: Any, rows: list[dict[str, Any]], cycles: list[int], title: str) -> None:
    axes.set_ylabel("max_lr")
    known = {row["cycle"]: row["weights_remaining"] for row in rows}
    label_cycles(axes, {cycle: known.get(cycle) for cycle in cycles})
    axes.set_title(title)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, facecolor="0.8", framealpha=1)
