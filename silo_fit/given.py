"""Curves as people give them: four numbers, or whatever a fit reads."""

from collections.abc import Callable
from dataclasses import dataclass

from oracle.errors import CurveError, FolderError
from silo_fit.curve import SiloCurve

DEFAULTS = {"q": 1.0, "beta": 5.0}  # the paper's
NAMES = ("eps", "delta", "q", "beta")


@dataclass(frozen=True, slots=True)
class GivenCurve:
    """A curve that still lacks the pruning rate."""

    make: Callable[[float], SiloCurve]  # from the fraction of the remaining weights removed per cycle
    seeds: Callable[[], list[int]] = list  # that it was found with, where a search's folder tells


def given_curve(text: str) -> GivenCurve:
    """Read `eps=0.03,delta=0.04,q=1,beta=5` (q and beta may be left out), or fit the table that `text` names.

    CurveError for numbers that are no curve's; TableError, once it is made, for what cannot be fitted.

    >>> given_curve("eps=0.03, delta=0.04").make(0.2).in_words()
    'eps 0.03, delta 0.04, q 1, beta 5'
    """
    if "=" not in text or "/" in text:
        return GivenCurve(lambda pruning_rate: _fitted(text, pruning_rate), lambda: _seeds_of(text))
    given: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        try:
            if name not in NAMES or name in given:
                raise ValueError
            given[name] = float(value)
        except ValueError:
            raise CurveError(
                f"curve {text!r}: found {part.strip()!r}; expected eps=NUMBER,delta=NUMBER and, if you like, "
                "q=NUMBER,beta=NUMBER, each once, or a search's folder to fit"
            ) from None
    numbers = DEFAULTS | given
    missing = [name for name in NAMES if name not in numbers]
    if missing:
        raise CurveError(f"curve {text!r}: {' and '.join(missing)} missing; expected eps=NUMBER,delta=NUMBER")
    SiloCurve(**numbers, pruning_rate=0.5)  # refuses them at once
    return GivenCurve(lambda pruning_rate: SiloCurve(**numbers, pruning_rate=pruning_rate))


def _fitted(source: str, pruning_rate: float) -> SiloCurve:
    from silo_fit.fit import fit
    from silo_fit.tables import read_intervals

    found = fit(read_intervals(source))
    if found.curve.pruning_rate != pruning_rate:
        raise CurveError(
            f"{source}: its pruning rate is {found.curve.pruning_rate:g}, the experiment's {pruning_rate:g}; a curve of "
            "cycles fits one pruning rate alone"
        )
    return found.curve


def _seeds_of(source: str) -> list[int]:
    from oracle.runs.records import read_trials

    try:
        return sorted(set(read_trials(source)["seed"].to_pylist()))
    except FolderError:  # a table
        return []
