"""How sure a row of oracle.parquet is, in words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

SEEDS = "more seeds would narrow this"
IMAGES = "only more validation images would narrow this"
GRID = "only a finer grid would narrow this"
ASSUMED = "one seed says nothing of noise, which is assumed: more seeds would tell"


def how_sure(row: Mapping[str, Any], *, tolerance: float) -> str | None:
    """A sentence, and what would narrow it; None where nothing was estimated. `tolerance`: fraction of accuracy.

    >>> row = dict(cycle=4, curve_max_lr=0.05, lo_sure=0.02, hi_sure=0.12, lo_possible=0.009, hi_possible=0.22)
    >>> row |= dict(lo_open=False, hi_open=True, evidence="measured", seed_se_lo=0.004, image_se_lo=0.001)
    >>> row |= dict(seed_se_hi=0.002, image_se_hi=None)
    >>> how_sure(row, tolerance=0.005).split("; ")[1:]
    ['0.009 to 0.22 and beyond may be', 'more seeds would narrow this']
    """
    if row.get("curve_max_lr") is None:
        return None
    within = f"within {points(tolerance)}"
    ends = f"{row['lo_possible']:.4g} to {row['hi_possible']:.4g}"
    beyond = {(True, False): " and below", (False, True): " and beyond", (True, True): " and on both sides of it"}
    ends += beyond.get((row["lo_open"], row["hi_open"]), "")
    if row["lo_sure"] is None:
        said = f"no max_lr is surely {within}; {ends} may be"
    elif row["lo_sure"] == row["hi_sure"]:
        said = f"max_lr {row['lo_sure']:.4g} is surely {within}; {ends} may be"
    else:
        said = f"any max_lr from {row['lo_sure']:.4g} to {row['hi_sure']:.4g} is surely {within}; {ends} may be"
    return f"cycle {row['cycle']}: {said}; {advice(row)}"


def advice(row: Mapping[str, Any]) -> str:
    """What would narrow a row's ranges: seeds while their error exceeds the images', then images, then the grid.

    Two seeds do not tell their error from the images'.
    """
    if row["evidence"] == "assumed":
        return ASSUMED
    if (row["lo_possible"], row["hi_possible"]) == (row["lo_sure"], row["hi_sure"]):
        return GRID
    pairs = [(row[f"seed_se_{end}"], row[f"image_se_{end}"]) for end in ("lo", "hi")]
    known = [(seeds, images) for seeds, images in pairs if seeds is not None and images is not None]
    if row["evidence"] == "measured" and known and all(seeds < images for seeds, images in known):
        return IMAGES
    return SEEDS


def overall(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """What would narrow the ranges of a whole run, the cheapest first; None where nothing was estimated."""
    given = Counter(advice(row) for row in rows if row.get("curve_max_lr") is not None)
    told = {
        SEEDS: "more seeds",
        ASSUMED: "more seeds",
        IMAGES: "only more validation images",
        GRID: "only a finer grid",
    }
    counts = Counter[str]()
    for said, number in given.items():
        counts[told[said]] += number
    if not counts:
        return None
    parts = [
        f"{what} at {counts[what]} of {given.total()} cycles" for what in dict.fromkeys(told.values()) if counts[what]
    ]
    return f"narrower ranges: {', '.join(parts)}"


def counted(number: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "seed"), counted(1560, "training")
    ('1 seed', '1,560 trainings')
    """
    return f"{number:,} {what}{'s' * (number != 1)}"


def points(fraction: float) -> str:
    """A fraction of accuracy as people say it.

    >>> points(0.005), points(0.01), points(0.002)
    ('half a point', '1 point', '0.2 points')
    """
    if fraction == 0.005:
        return "half a point"
    return f"{100 * fraction:g} point" + "s" * (fraction != 0.01)
