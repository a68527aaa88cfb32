"""What a run left, where others import it from."""

from oracle.runs.records import read_oracle, read_trials

__all__ = ["read_oracle", "read_trials"]
