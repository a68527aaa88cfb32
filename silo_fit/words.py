"""What a fit says in words: the terminal and the report draw the same sentences and rows."""

from typing import NamedTuple

from silo_fit.result import CycleFit, Fit, Rival

# The numbers as people read them.
LABELS = {"eps": "eps", "delta": "delta", "top": "eps + delta", "q": "q", "beta": "beta"}


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
