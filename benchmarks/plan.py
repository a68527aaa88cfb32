"""What `oracle plan` says a search takes, beside what it takes: `python -m benchmarks.plan`.

Plans and searches of digits-mlp in turn, each a command of its own, so that a machine that is busy for a while is so for
both. A search is timed from its first event to its last: a plan leaves out the start of Python and of Ray.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.tree import machine

PLANS = 8  # with a search before, in the middle and after
CASES = {
    "as it is": (),
    "one step an epoch": ("--set", "training.batch_size=900"),
    "one step an epoch, a small one": ("--set", "data.train=64"),
    "one candidate at a time": ("--backend", "plain", "--slots", "1"),
    "two at a time, threads": ("--backend", "plain", "--slots", "2"),
    "two packs at a time, processes": ("--executor", "ray", "--slots", "2"),
}
COMMON = ("digits-mlp", "--executor", "local", "--set", "pruning.cycles=2", "--json")
RESULTS = Path(__file__).parent / "results" / "plan.md"


def main() -> None:
    """Measure, print and keep the table; with arguments, the cases that they name."""
    chosen = sys.argv[1:] or list(CASES)
    lines = [
        "# Plans beside searches",
        "",
        f"{machine()}. digits-mlp, 3 cycles; {PLANS} plans of each, a search before, in the middle and after.",
        "",
        "| digits-mlp | searches, s | plans, s: median (all) | median plan / median search | a plan takes, s |",
        "| --- | --- | --- | ---: | ---: |",
        *(_row(case, CASES[case]) for case in chosen),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if chosen == list(CASES):
        RESULTS.write_text(text)


def _row(case: str, flags: Sequence[str]) -> str:
    searches, plans, took = [_search(flags)], [], []
    for _ in range(2):
        for _ in range(PLANS // 2):
            started = time.perf_counter()
            plans.append(3600 * json.loads(_oracle("plan", flags))["hours"])
            took.append(time.perf_counter() - started)
        searches.append(_search(flags))
    median, listed = np.median(plans), ", ".join(f"{seconds:.1f}" for seconds in sorted(plans))
    row = " | ".join(
        [
            f"| {case}",
            ", ".join(f"{seconds:.1f}" for seconds in searches),
            f"{median:.1f} ({listed})",
            f"{median / np.median(searches):.2f}",
            f"{np.median(took):.1f} |",
        ]
    )
    print(row, file=sys.stderr, flush=True)
    return row


def _search(flags: Sequence[str]) -> float:
    with tempfile.TemporaryDirectory() as out:
        _oracle("search", (*flags, "--out", out))
        times = [json.loads(line)["time"] for line in (Path(out) / "events.jsonl").read_text().splitlines()]
    return float(times[-1] - times[0])


def _oracle(command: str, flags: Sequence[str]) -> str:
    arguments = [sys.executable, "-m", "oracle", command, *COMMON, *flags]
    return subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
