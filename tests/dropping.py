"""A strategy of one's own: every candidate with the first seed, and with the others those that did not diverge there.

`python tests/dropping.py OUT EXECUTOR` searches with it, for tests that kill the search.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from oracle.chain import run_oracle
from oracle.experiment import Experiment, load_experiment
from oracle.intervals import find_interval
from oracle.search.rounds import every, of_cycle


@dataclass(frozen=True, kw_only=True)
class DropDiverged:
    """Two rounds: the first seed alone, then the rest."""

    candidates: tuple[float, ...]
    seeds: tuple[int, ...]
    tolerance: float
    name: str = "drop-diverged"
    parameters: dict[str, Any] = field(default_factory=dict)

    def next_trials(self, cycle: int, rows: pa.Table) -> Sequence[tuple[float, int]]:
        own = of_cycle(rows, cycle).to_pylist()
        if not own:
            return every(self.candidates, self.seeds[:1])
        if {row["seed"] for row in own} == set(self.seeds):
            return ()
        return every([row["max_lr"] for row in own if row["outcome"] == "finished"], self.seeds[1:])

    def choose(self, cycle: int, rows: pa.Table) -> dict[str, Any]:
        return find_interval(of_cycle(rows, cycle), tolerance=self.tolerance)


def dropping(experiment: Experiment, **more: Any) -> DropDiverged:
    """The strategy over an experiment's own candidates and seeds."""
    return DropDiverged(
        candidates=experiment.candidates(0), seeds=experiment.seeds, tolerance=experiment.tolerance, **more
    )


SLOW = ("pruning.cycles=1", "training.epochs=80", "seeds=[0, 1]", "grid={spacing: explicit, values: [0.02, 0.1, 50]}")

if __name__ == "__main__":
    slow = load_experiment("digits-mlp", overrides=SLOW)
    run_oracle(slow, sys.argv[1], executor=sys.argv[2], slots=1, checkpoint_seconds=0, strategy=dropping(slow))
