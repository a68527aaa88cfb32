"""What an Oracle cycle costs beside the usual way: `python -m benchmarks.overhead`.

Cycle 0 of digits-mlp (24 rates x 5 seeds = 120 trainings) three ways in one run: Ray Tune as its tutorials say
(benchmarks/tutorial.py), `--executor local`, `--executor ray`. Whole commands, from the interpreter's start to the end of
the last daemon's life.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.tree import Cost, machine, measure
from oracle.experiment import load_experiment

RUNS = 3  # of the two fast ways, in turn; the tutorial's takes minutes and runs once
CYCLES = 4  # of the longer runs, which tell the cost of one more cycle from that of starting
RESULTS = Path(__file__).parent / "results" / "overhead.md"


def main() -> None:
    """Measure, print and keep the table."""
    trainings = len(load_experiment("digits-mlp").grid.candidates()) * len(load_experiment("digits-mlp").seeds)
    costs: dict[tuple[str, int], list[Cost]] = {}
    for _ in range(RUNS):
        for executor in ("local", "ray"):
            for cycles in (1, CYCLES):
                costs.setdefault((executor, cycles), []).append(_search(executor, cycles))
    tutorial = measure([sys.executable, "-m", "benchmarks.tutorial"])
    local, ray = _median(costs["local", 1]), _median(costs["ray", 1])
    more = {
        executor: (_median(costs[executor, CYCLES]).wall - _median(costs[executor, 1]).wall) / (CYCLES - 1)
        for executor in ("local", "ray")
    }
    lines = [
        f"# One cycle of digits-mlp, {trainings} trainings, three ways",
        "",
        f"{machine()}. Whole process trees, daemons included; median of {RUNS} runs (the tutorial's way: one).",
        "",
        "| way | wall s | CPU s | CPU, times local |",
        "| --- | ---: | ---: | ---: |",
        f"| Ray Tune as its tutorials say | {tutorial.wall:.1f} | {tutorial.cpu:.1f} | {tutorial.cpu / local.cpu:.1f} |",
        f"| `--executor ray` | {ray.wall:.1f} | {ray.cpu:.1f} | {ray.cpu / local.cpu:.1f} |",
        f"| `--executor local` | {local.wall:.1f} | {local.cpu:.1f} | 1 |",
        "",
        f"The Ray executor takes {ray.wall - local.wall:.1f} s more than the local one for a search of one cycle, start "
        f"and end of the cluster included. A further cycle takes {more['ray']:.1f} s with Ray and {more['local']:.1f} s "
        f"without ({CYCLES} cycles against one).",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)


def _search(executor: str, cycles: int) -> Cost:
    with tempfile.TemporaryDirectory() as out:
        search = [sys.executable, "-m", "oracle", "search", "digits-mlp", "--out", out, "--executor", executor]
        return measure([*search, "--set", f"pruning.cycles={cycles - 1}"])


def _median(costs: list[Cost]) -> Cost:
    return Cost(wall=statistics.median(cost.wall for cost in costs), cpu=statistics.median(cost.cpu for cost in costs))


if __name__ == "__main__":
    main()
