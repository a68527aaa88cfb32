"""The paper's theorems, where others import them from."""

from oracle.analysis.theory import activation_bound, energy_kept, learning_rate_bound

__all__ = ["activation_bound", "energy_kept", "learning_rate_bound"]
