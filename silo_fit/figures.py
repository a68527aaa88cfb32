"""The report's two plots: the curve through the intervals, and every candidate's accuracy."""

import math
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from oracle.runs.summaries import best_accuracies, clip_of_gaps, mean_accuracies
from silo_fit.result import Fit

if TYPE_CHECKING:
    import pyarrow

ORANGE, BLUE, RED, GREY = "#e8871e", "#4a86e8", "#e0474c", "#8a8f98"
WHITE, DARK_BLUE = "#ffffff", "#1f3b73"


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
        x=dense, y=fit.rivals.paper_default.curve(dense), mode="lines", line={"color": GREY, "dash": "dot", "width": 2},
        hoverinfo="skip", name="q 1, beta 5",
    )  # fmt: skip
    figure.add_scatter(
        x=dense, y=fit.curve(dense), mode="lines", line={"color": ORANGE, "width": 3}, hoverinfo="skip", name="SILO"
    )
    figure.add_scatter(
        x=cycles, y=fit.intervals.max_lr, mode="markers", name="optimum",
        marker={"color": WHITE, "size": 8, "line": {"color": DARK_BLUE, "width": 2}},
        customdata=[[row.lo, row.hi, row.silo, "inside" if row.inside else "outside"] for row in fit.per_cycle],
        hovertemplate="cycle %{x}<br>optimum %{y:.4g}<br>interval %{customdata[0]:.4g} to %{customdata[1]:.4g}"
        "<br>SILO %{customdata[2]:.4g}, %{customdata[3]}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="pruning cycle", range=[-0.03 * dense[-1], 1.03 * dense[-1]])
    figure.update_yaxes(title="max_lr", range=[0, roof])
    return figure


def heat_map(fit: Fit, trials: "pyarrow.Table") -> go.Figure | None:
    """Mean validation accuracy of each candidate, as its gap to the cycle's best; None without trials of the cycles."""
    searched = {int(cycle) for cycle in fit.intervals.cycles}
    accuracies = {key: mean for key, mean in mean_accuracies(trials).items() if key[0] in searched}
    if not accuracies:
        return None
    cycles, rates = (sorted(set(values)) for values in zip(*accuracies, strict=True))
    means = np.full((len(rates), len(cycles)), np.nan)  # NaN: not tried, or diverged
    for (cycle, rate), mean in accuracies.items():
        means[rates.index(rate), cycles.index(cycle)] = mean
    failed = [(cycle, rate) for (cycle, rate), mean in accuracies.items() if math.isnan(mean)]
    best = best_accuracies(trials)
    gaps = np.array([best[cycle] for cycle in cycles]) - means
    clip = clip_of_gaps(_tolerance(fit))
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
            x=[cycles.index(cycle) for cycle, _ in failed], y=[rates.index(rate) for _, rate in failed], mode="markers",
            marker={"symbol": "x-thin", "size": 7, "line": {"color": RED, "width": 2}}, name="diverged",
            text=[f"cycle {cycle}, max_lr {rate:.4g}: diverged" for cycle, rate in failed],
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    _overlay(figure, fit, cycles, rates)
    ticks = _spread_ticks(len(rates), 12), _spread_ticks(len(cycles), 9)
    figure.update_yaxes(title="max_lr", tickvals=ticks[0], ticktext=[f"{rates[row]:.2g}" for row in ticks[0]])
    figure.update_xaxes(title="pruning cycle", tickvals=ticks[1], ticktext=[str(cycles[column]) for column in ticks[1]])
    return figure


def _tolerance(fit: Fit) -> float | None:
    """Of the intervals, a fraction of accuracy, as the table says; None where it says nothing that is one."""
    try:
        known = float(dict(fit.intervals.metadata)["tolerance"])
    except (KeyError, ValueError):
        return None
    return known if 0 < known < 1 else None


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
        marker={"color": WHITE, "size": 7, "line": {"color": DARK_BLUE, "width": 2}},
    )  # fmt: skip
    figure.add_scatter(
        x=columns, y=[height(row.silo) for row in rows], mode="lines", line={"color": ORANGE, "width": 3},
        hoverinfo="skip", name="SILO",
    )  # fmt: skip


def _spread_ticks(num: int, most: int) -> list[int]:
    """Places of at most `most` ticks on an axis of `num` rows or columns."""
    return list(range(0, num, math.ceil(num / most)))
