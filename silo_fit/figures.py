"""The report's plots: the curve through the intervals, every candidate's accuracy, and each cycle's accuracy curve."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from oracle.runs.summaries import best_accuracies, clip_of_gaps, mean_accuracies, seed_counts
from oracle.view.words import points
from silo_fit import words
from silo_fit.estimates import Certainty, CycleCurve
from silo_fit.result import Fit
from silo_fit.tables import Intervals

if TYPE_CHECKING:
    import pyarrow

ORANGE, BLUE, RED, GREY = "#e8871e", "#4a86e8", "#e0474c", "#8a8f98"
WHITE, DARK_BLUE, LIGHT_BLUE = "#ffffff", "#1f3b73", "#a9c6f7"
SHADES: Mapping[Certainty, float] = {"possible": 0.10, "sure": 0.16}  # opacity
NORMAL_95 = 1.96  # standard deviations to each side hold 95% of a normal distribution


def curve_figure(fit: Fit) -> go.Figure:
    """Intervals and optima, the curve, and the band that all best curves span."""
    cycles = fit.intervals.cycles
    last = max(cycles[-1], 1)
    rise = min(last, 1.25 * fit.curve.cycle_at(0.99))  # drawn finely, however far the last cycle is
    dense = np.unique(np.concatenate([np.linspace(0, end, 241) for end in (rise, last)]))
    low, high = fit.best_curves.band(dense)
    possible = _of_kind(fit, "possible")
    highest = max(fit.intervals.scale, float(np.max(fit.curve(dense))), 0.0 if possible is None else possible.scale)
    roof = 1.12 * highest
    figure = go.Figure()
    figure.add_scatter(
        x=dense, y=np.minimum(high, 2 * roof), mode="lines", line_width=0, hoverinfo="skip", showlegend=False
    )
    figure.add_scatter(
        x=dense, y=low, mode="lines", line_width=0, fill="tonexty", fillcolor="rgba(232,135,30,0.20)", hoverinfo="skip",
        name="all best curves",
    )  # fmt: skip
    _add_range(figure, fit, "possible", {"color": LIGHT_BLUE, "width": 13}, "may be inside")
    for hit, colour, name in ((True, BLUE, "interval"), (False, RED, "interval missed")):
        rows = [row for row in fit.per_cycle if row.inside == hit]
        if rows:
            figure.add_scatter(
                x=[x for row in rows for x in (row.cycle, row.cycle, None)],
                y=[y for row in rows for y in (row.lo, row.hi, None)],
                mode="lines", line={"color": colour, "width": 7}, opacity=0.75, hoverinfo="skip", name=name,
            )  # fmt: skip
    _add_range(figure, fit, "sure", {"color": DARK_BLUE, "width": 3}, "surely inside")
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


def _of_kind(fit: Fit, kind: Certainty) -> Intervals | None:
    """The cycles that have a range of a kind; None where the table has none."""
    return fit.intervals.of_kind(kind) if kind in fit.intervals.kinds else None


def _add_range(figure: go.Figure, fit: Fit, kind: Certainty, line: dict[str, Any], name: str) -> None:
    """Draw a range of each cycle as a bar."""
    own = _of_kind(fit, kind)
    if own is None:
        return
    figure.add_scatter(
        x=[x for cycle in own.cycles.tolist() for x in (cycle, cycle, None)],
        y=[y for low, high in zip(own.lo.tolist(), own.hi.tolist(), strict=True) for y in (low, high, None)],
        mode="lines", line=line, hoverinfo="skip", name=name,
    )  # fmt: skip


def accuracy_figures(fit: Fit, trials: "pyarrow.Table | None") -> list[tuple[int, go.Figure]]:
    """Each cycle's accuracy curve with its band, as far as they are known; dots are means over seeds, of `trials`."""
    if fit.intervals.estimates is None:
        return []
    means, counts = ({}, {}) if trials is None else (mean_accuracies(trials), seed_counts(trials))
    figures = []
    for index, curve in enumerate(fit.intervals.estimates.curves):
        if curve is not None:
            cycle = fit.per_cycle[index].cycle
            tried = {
                max_lr: (100 * mean, counts[at, max_lr])
                for (at, max_lr), mean in means.items()
                if at == cycle and not math.isnan(mean)
            }
            figures.append((cycle, _accuracy_figure(fit, index, curve, tried)))
    return figures


def _accuracy_figure(fit: Fit, index: int, curve: CycleCurve, tried: Mapping[float, tuple[float, int]]) -> go.Figure:
    """`tried`: mean accuracy in points, and of how many seeds, by max_lr."""
    row, tolerance = fit.per_cycle[index], words.tolerance_of(fit.intervals)
    mean, band = 100 * curve.mean, 100 * NORMAL_95 * curve.std
    bottom, top = float((mean - band).min()), float((mean + band).max())
    top = max([top, *(accuracy for accuracy, _ in tried.values())])
    room = 0.06 * max(top - bottom, 0.1)
    figure = go.Figure(layout={"template": None})
    figure.add_scatter(
        x=[*curve.max_lr, *curve.max_lr[::-1]], y=[*(mean + band), *(mean - band)[::-1]], mode="lines", line_width=0,
        fill="toself", fillcolor="rgba(74,134,232,0.22)", hoverinfo="skip", name="95% band",
    )  # fmt: skip
    figure.add_scatter(
        x=curve.max_lr, y=mean, mode="lines", line={"color": BLUE, "width": 3}, name="accuracy curve",
        customdata=np.stack([band, curve.p_within], axis=1),
        hovertemplate="max_lr %{x:.4g}<br>%{y:.2f}% +- %{customdata[0]:.2f}<br>inside with probability "
        "%{customdata[1]:.3f}<extra></extra>",
    )  # fmt: skip
    if tolerance is not None:
        figure.add_scatter(
            x=curve.max_lr[[0, -1]], y=[float(mean.max()) - 100 * tolerance] * 2, mode="lines", hoverinfo="skip",
            line={"color": GREY, "dash": "dash", "width": 2}, name=f"{points(tolerance)} below its best",
        )  # fmt: skip
    _add_dots(figure, tried, bottom - room)
    if row.silo > 0:
        figure.add_scatter(
            x=[row.silo] * 2, y=[bottom - room, top + room], mode="lines", line={"color": ORANGE, "width": 3},
            name="SILO", hovertemplate=f"SILO {row.silo:.4g}<extra></extra>",
        )  # fmt: skip
    ends = [math.log10(rate) for rate in (curve.max_lr[0], curve.max_lr[-1], row.silo) if rate > 0]
    margin = 0.03 * max(max(ends) - min(ends), 0.1)
    figure.update_xaxes(title="max_lr", type="log", range=[min(ends) - margin, max(ends) + margin], dtick=1)
    figure.update_yaxes(title="validation accuracy, %", range=[bottom - 1.5 * room, top + 1.2 * room])
    _shade_ranges(figure, fit, index)
    return figure


def _add_dots(figure: go.Figure, tried: Mapping[float, tuple[float, int]], bottom: float) -> None:
    """Means over seeds; those of fewer seeds than others smaller, those below `bottom` as triangles there."""
    most = max((count for _, count in tried.values()), default=0)
    low = [rate for rate, (accuracy, _) in tried.items() if accuracy < bottom]
    fewer = [rate for rate, (_, count) in tried.items() if count < most and rate not in low]
    whole = [rate for rate in tried if rate not in low and rate not in fewer]
    for rates, name, symbol, size in (
        (whole, "tried, mean over seeds", "circle", 9),
        (fewer, "tried by fewer seeds", "circle", 6),
        (low, "tried, lower than shown", "triangle-down", 9),
    ):
        if rates:
            figure.add_scatter(
                x=rates, y=[max(tried[rate][0], bottom) for rate in rates], mode="markers", name=name,
                customdata=[tried[rate] for rate in rates],
                marker={"color": WHITE, "size": size, "symbol": symbol, "line": {"color": DARK_BLUE, "width": 2}},
                hovertemplate="max_lr %{x:.4g}<br>%{customdata[0]:.2f}%<extra>seeds: %{customdata[1]}</extra>",
            )  # fmt: skip


def _shade_ranges(figure: go.Figure, fit: Fit, index: int) -> None:
    """Behind a cycle's accuracy curve: what is surely inside, dark, within what may be, light."""
    assert fit.intervals.estimates is not None
    for kind, (lo, hi) in fit.intervals.estimates.ends.items():
        if not math.isnan(lo[index]):
            figure.add_vrect(
                x0=lo[index], x1=hi[index], fillcolor=BLUE, opacity=SHADES[kind], line_width=0, layer="below"
            )


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
    clip = clip_of_gaps(words.tolerance_of(fit.intervals))
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
