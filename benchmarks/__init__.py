"""Measurements, each a command of its own: `python -m benchmarks.NAME`. Results lie in benchmarks/results."""
