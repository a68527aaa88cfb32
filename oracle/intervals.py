"""From trials to intervals, and to how sure they are, where others import it from."""

from oracle.search.certainty import estimate_interval
from oracle.search.intervals import find_interval

__all__ = ["estimate_interval", "find_interval"]
