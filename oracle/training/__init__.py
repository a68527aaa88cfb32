"""Training candidates from their parents: the loop, its plain and its packed trainer, schedules, optimisers."""

from oracle.training.run import train

__all__ = ["train"]
