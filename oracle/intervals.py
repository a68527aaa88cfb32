"""From trials to intervals, where others import it from."""

from oracle.search.intervals import find_interval

__all__ = ["find_interval"]
