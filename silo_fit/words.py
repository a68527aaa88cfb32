"""What a fit says in words: the terminal and the report draw the same sentences and rows."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from oracle.view.words import how_sure
from silo_fit.kinds import KindFit
from silo_fit.result import CycleFit, Fit, Rival, in_words
from silo_fit.tables import Intervals, Kind
from silo_fit.verdict import Odds, Verdict

# The numbers as people read them.
LABELS = {"eps": "eps", "delta": "delta", "top": "eps + delta", "q": "q", "beta": "beta"}


KIND_LABELS: Mapping[Kind, str] = {"sure": "surely inside", "estimated": "the table's own", "possible": "may be inside"}
# What `how_sure` reads of a row of oracle.parquet.
HOW_SURE_COLUMNS = {
    "cycle", "curve_max_lr", "lo_possible", "lo_sure", "hi_sure", "hi_possible", "lo_open", "hi_open", "evidence",
    "seed_se_lo", "image_se_lo", "seed_se_hi", "image_se_hi",
}  # fmt: skip


class Row(NamedTuple):
    """One line of the comparison."""

    label: str
    found: str  # hits in words; of the last row, the cycle
    details: str


def hits(fit: Fit) -> str:
    """How many intervals the curve hits."""
    return f"{fit.hits} of {fit.num_cycles} intervals hit"


def proof(fit: Fit) -> str:
    """What is proven about the most hits."""
    searched = fit.settings.ranges.in_words()
    if fit.certified:
        return f"proven: no curve with {searched} hits more"
    return f"at most {fit.most_hits} can be hit with {searched}; a gap of {fit.most_hits - fit.hits} remains"


def smallest_margin(fit: Fit) -> str | None:
    """How far inside its intervals the curve stays; None without hits."""
    return None if fit.depth is None else f"smallest margin: {fit.depth:.0%} of half an interval's width"


def rise(fit: Fit) -> str | None:
    """When the curve rises; None where the table supports no S-shape."""
    if not fit.s_shape_supported:
        return None
    start, end = fit.rise
    return f"half of the rise is done at cycle {fit.curve.half_way:.2f}, 5% at {start:.2f}, 95% at {end:.2f}"


def margin(row: CycleFit) -> str:
    """How far inside a cycle's interval the curve lies; on its edge, the rounding is not shown."""
    return f"{0.0 if row.on_edge else row.margin:+.2g}"


def remarks(verdict: Verdict) -> str:
    """What must be known beside a verdict, in one line; empty where there is nothing."""
    return "; ".join(verdict.remarks)


def kinds(fit: Fit) -> list[tuple[str, str, str]]:
    """Each kind of intervals: its label, how many the curve hits, and the most that any curve hits; none to compare: []."""
    if fit.intervals.estimates is None:
        return []
    return [
        (KIND_LABELS[kind.kind], hits_of_kind(kind.hits, kind.num_intervals, fit.num_cycles), most(kind))
        for kind in fit.kinds
    ]


def hits_of_kind(hits: int, num_intervals: int, num_cycles: int) -> str:
    """How many intervals of a kind a curve hits; cycles without such an interval cannot be hit.

    >>> hits_of_kind(9, 13, 13), hits_of_kind(7, 10, 13), hits_of_kind(0, 0, 13)
    ('9 of 13', '7 of 13 (3 cycles have none)', '0 of 13 (no cycle has any)')
    """
    missing = num_cycles - num_intervals
    said = "no cycle has any" if not num_intervals else f"{missing} cycle{'s have' if missing > 1 else ' has'} none"
    return f"{hits} of {num_cycles}" + (f" ({said})" if missing else "")


def most(kind: KindFit) -> str:
    """The most intervals of a kind that any curve of the range hits."""
    return f"{kind.most_hits}, proven" if kind.certified else f"{kind.reachable_hits} found, {kind.most_hits} at most"


def parameter_table(fit: Fit) -> tuple[list[str], list[list[str]]]:
    """Head and rows: each number, its fitted value, and what all curves with the most hits leave of it, by kind."""
    if fit.intervals.estimates is None:
        return ["", "fitted", f"by all curves that hit {fit.hits}"], [list(row) for row in parameters(fit)]
    head, rows = ["", "fitted"], [[label, value] for label, value, _ in parameters(fit)]
    for kind in fit.kinds:
        own = fit.intervals.of_kind(kind.kind)
        if own is None or kind.limits is None:
            continue
        head.append(f"{KIND_LABELS[kind.kind]}, {kind.reachable_hits} hit")
        if_exact = bool(own.lone(resolved=False))
        for name, row in zip(LABELS, rows, strict=True):
            row.append(_short(in_words(name, kind.limits, fit.settings, if_exact=if_exact)))
    return head, rows


def _short(range_in_words: str) -> str:
    """For a column: without the words that its head makes needless."""
    if range_in_words.startswith("not determined"):
        return "not determined"
    said = range_in_words.removeprefix("determined to ").replace(" if the intervals are", " if")
    return said.replace("no upper bound (at least ", "at least ").rstrip(")")


def certainty_table(
    intervals: Intervals, rows: tuple[CycleFit, ...], verdict: Verdict | None
) -> tuple[list[str], list[list[str]]]:
    """Head and rows, one a cycle, of how sure the intervals are and how the curve stands in them; no rows: not known."""
    if intervals.estimates is None:
        return [], []
    there = [kind for kind in intervals.kinds if kind != "estimated"]
    head = ["cycle", "SILO", *(KIND_LABELS[kind] for kind in there)]
    head += ["p inside", "points lost"] if verdict is not None else []
    table = []
    for index, row in enumerate(rows):
        cells = [str(row.cycle), f"{row.silo:.4g}", *(ends(intervals, index, kind) for kind in there)]
        table.append(cells + (list(_odds(verdict.odds[index])) if verdict is not None else []))
    return head, table


def ends(intervals: Intervals, index: int, kind: Kind) -> str:
    """A range of ends of one cycle; what may reach beyond the grid says so."""
    assert intervals.estimates is not None
    assert kind != "estimated"
    lo, hi = (float(values[index]) for values in intervals.estimates.ends[kind])
    if math.isnan(lo):
        return "none"
    row, may = intervals.estimates.rows[index], kind == "possible"
    low = f"{lo:.4g} or less" if may and row.get("lo_open") else f"{lo:.4g}"
    return f"{low} .. {hi:.4g}" + (" or more" if may and row.get("hi_open") else "")


def _odds(odds: Odds) -> tuple[str, str]:
    if odds.p_within is None:
        return "-", "-"
    lost = "-" if odds.below_best is None else f"{100 * odds.below_best:.2f}"
    return f"{odds.p_within:.3f}" + (" (beyond)" if odds.is_beyond else ""), lost


def certainty(intervals: Intervals, index: int) -> str | None:
    """How sure one cycle is, in a sentence; None where the table does not hold all that it is made of."""
    row = intervals.estimates.rows[index] if intervals.estimates else {}
    tolerance = tolerance_of(intervals)
    if tolerance is None or HOW_SURE_COLUMNS - set(row) or row["lo_possible"] is None:
        return None
    return how_sure(row, tolerance=tolerance)


def tolerance_of(intervals: Intervals) -> float | None:
    """Of the intervals, a fraction of accuracy, as the table says; None where it says nothing that is one."""
    try:
        known = float(dict(intervals.metadata)["tolerance"])
    except (KeyError, ValueError):
        return None
    return known if 0 < known < 1 else None


def parameters(fit: Fit) -> list[tuple[str, str, str]]:
    """Each number: its label, its fitted value, and what all curves with as many hits leave of it."""
    return [(label, f"{getattr(fit.curve, name):.5g}", fit.determined[name]) for name, label in LABELS.items()]


def comparison(fit: Fit) -> list[Row]:
    """What else hits how many of the same intervals, and which cycle to search next."""

    def of_all(hits: int) -> str:
        return f"{hits} of {fit.num_cycles}"

    def row(label: str, rival: Rival) -> Row:
        return Row(label, of_all(rival.hits), rival.curve.in_words())

    others = fit.rivals
    whole = "none in range" if others.whole_q_hits is None else of_all(others.whole_q_hits)
    wide = of_all(others.wide_hits) + ("" if others.wide_certified else " or more")
    return [
        row("SILO as fitted", Rival(curve=fit.curve, hits=fit.hits)),
        Row("best with a whole q", whole, ""),
        Row("best in a wide range", wide, others.wide_ranges.in_words()),
        row("the paper's default, q 1 and beta 5", others.paper_default),
        *([row("the paper's own numbers", others.paper_curve)] if others.paper_curve else []),
        Row("a constant", of_all(others.constant_hits), f"max_lr {others.constant_max_lr:.4g}"),
        _next_cycle(fit),
    ]


def _next_cycle(fit: Fit) -> Row:
    label, following = "most useful to search next", fit.next_cycle
    if following is None:
        return Row(label, "none", "every cycle up to the end of the rise is searched")
    high = "no upper bound" if following.high is None else f"{following.high:.4g}"
    return Row(label, f"cycle {following.cycle}", f"there the best curves span {following.low:.4g} to {high}")


def edges(fit: Fit) -> str:
    """Which intervals end on the grid's edge."""
    if fit.edge_limited is None:
        return "not recorded in the table"
    cycles = ", ".join(map(str, fit.edge_limited))
    return f"cycle {cycles}; such intervals may be wider than they look" if cycles else "none"


def trainings(fit: Fit) -> tuple[str, dict[str, str]]:
    """What the counts of trainings assume, and the counts by what they are for."""
    counts, intervals = fit.trainings, fit.intervals
    candidates = f"{counts['candidates']:g} candidates{'' if intervals.num_candidates else ' assumed'}"
    seeds = f"{counts['seeds']:g} seed(s){'' if intervals.num_seeds else ' assumed'}"
    return f"{candidates}, {counts['chain']:g} cycles, {seeds}", {
        "greedy Oracle": f"{counts['greedy_oracle']:g}",
        "joint Oracle": f"{counts['joint_oracle']:.2g}" if "joint_oracle" in counts else "over 1e300",
        f"sparse Oracle of {counts['sparse_cycles']:g} cycles": f"{counts['sparse_oracle']:g}",
        "SILO by a grid of (eps, delta)": f"{counts['silo_grid']:g}",
        "SILO, eps and then delta": f"{counts['silo_one_by_one']:g}",
        "SILO, delta on the target sparsity alone": f"{counts['silo_one_network']:g}",
    }
