"""A run's diagnostics, where others import them from."""

from oracle.analysis.diagnostics import read_diagnostics

__all__ = ["read_diagnostics"]
