"""What a run's records cost beside its trainings: `python -m benchmarks.bookkeeping`.

A planted executor answers at once with made-up accuracies, so that all that is left are files: looking at a cycle of many
commits, a round of many packs, and going on with a finished run of many rows.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tree import machine
from oracle.data.images import Images
from oracle.events import CancelToken
from oracle.execution import executors
from oracle.execution.jobs import Job, Pack, Work
from oracle.execution.local import LocalExecutor
from oracle.experiment import load_experiment
from oracle.records import read_trials
from oracle.runs.networks import read_parent, write_finals
from oracle.search.run import run_oracle

COMMITS = 4000  # of one trial each, in a cycle
PACKS = 400  # of one trial each, in a round
CYCLES, SEEDS, CANDIDATES = 50, 5, 800  # of the long run: 200,000 rows
PACK = 100  # candidates, in the long run
VALIDATION = 500  # images
RESULTS = Path(__file__).parent / "results" / "bookkeeping.md"


class Planted(LocalExecutor):
    """Commits made-up rows in place of trainings."""

    def run(self, works: Sequence[Work], *, cancel: CancelToken) -> None:
        """See `Executor.run`."""
        for work in works:
            for pack in work.packs:
                commit(work.job, pack)


def commit(job: Job, pack: Pack) -> None:
    """Rows with accuracies that peak in the middle of the grid; final states where they would be kept."""
    generator = np.random.default_rng([pack.store.cycle, pack.seed, len(pack.candidates)])
    correct = generator.random((len(pack.candidates), VALIDATION)) < 0.9
    rows = [
        {
            "cycle": pack.store.cycle,
            "seed": pack.seed,
            "max_lr": max_lr,
            "outcome": "finished",
            "weights_remaining": 0.8**pack.store.cycle,
            "val_accuracy": float(own.mean()),
            "val_loss": 0.1,
            "test_accuracy": 0.9,
            "best_epoch": 1,
            "val_correct": np.packbits(own).tobytes(),
            "seconds": 0.1,
            "lineage": pack.store.lineage,
            "commit": pack.name,
        }
        for max_lr, own in zip(pack.candidates, correct, strict=True)
    ]
    if pack.again or job.keep_finals:
        parent = read_parent(pack.store, pack.seed)
        assert parent is not None
        states = {name: torch.stack([value] * len(rows)) for name, value in parent.state.items()}
        write_finals(pack.store, pack.name, pack.candidates, states=states, rewind={})
    pack.store.commit(rows)


def plant() -> None:
    """Let the name `local` mean the planted executor in this process."""

    def make(launch: Any, images: Images, raw: Any, backend: Any) -> Planted:
        return Planted(images, slots=1, backend=backend)

    executors.EXECUTORS["local"] = executors.Kind(make=make, joins_clusters=False, round_seconds=0.0)  # type: ignore[index]


def search(out: Path, *overrides: str, pack_size: int) -> None:
    """A search whose trainings are planted."""
    experiment = load_experiment("digits-mlp", overrides=overrides)
    run_oracle(experiment, out, executor="local", backend="pack", pack_size=pack_size, carry="retrain")


def main() -> None:
    """Measure, print and keep the table; with arguments, one measurement of this process."""
    plant()
    if len(sys.argv) > 1:
        print(_ONE[sys.argv[1]](Path(sys.argv[2])))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {name: _in_a_process(name, Path(folder)) for name in _ONE}
    lines = [
        "# What records cost",
        "",
        f"{machine()}. Trainings are planted and take no time; digits-mlp, files on a local disk.",
        "",
        "| what | measured |",
        "| --- | --- |",
        *(f"| {name} | {text} |" for name, text in found.items()),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.write_text(text)


def _in_a_process(name: str, folder: Path) -> str:
    command = [sys.executable, "-m", "benchmarks.bookkeeping", name, str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]


def _timed(function: Callable[[], object]) -> str:
    started, cpu = time.perf_counter(), time.process_time()
    function()
    return f"{time.perf_counter() - started:.2f} s, {time.process_time() - cpu:.2f} CPU s"


def _one_look(folder: Path) -> str:
    from oracle.runs.cycle import CycleStore
    from oracle.storage import Folder

    store = CycleStore(folder=Folder(folder / "commits"), cycle=0, lineage="x")
    job = Job(experiment=load_experiment("digits-mlp"), settings=None, keep_finals=False)  # type: ignore[arg-type]
    for index in range(COMMITS):
        commit(job, Pack(store=store, seed=index, candidates=(0.1,)))
    return _timed(store.trials)


def _one_round(folder: Path) -> str:
    seeds = list(range(PACKS // 4))
    grid = "grid={low: 0.01, high: 1, points: 4, spacing: log}"
    return _timed(
        lambda: search(
            folder / "round", "pruning.cycles=0", grid, f"seeds={seeds}", f"data.validation={VALIDATION}", pack_size=1
        )
    )


def _long_run(folder: Path) -> str:
    return _timed(lambda: search(folder / "long", *_LONG, pack_size=PACK))


def _going_on(folder: Path) -> str:
    before = _peak_gb()
    text = _timed(lambda: search(folder / "long", *_LONG, pack_size=PACK))
    return f"{text}; {_peak_gb():.2f} GB at the most, {before:.2f} GB before it began"


def _reading(folder: Path) -> str:
    return _timed(lambda: read_trials(folder / "long"))


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


_LONG = (
    f"pruning.cycles={CYCLES - 1}",
    f"grid.points={CANDIDATES}",
    f"seeds={list(range(SEEDS))}",
    f"data.validation={VALIDATION}",
)
_ONE: dict[str, Callable[[Path], str]] = {
    f"a look at {COMMITS:,} commits of one trial": _one_look,
    f"a round of {PACKS} packs of one trial": _one_round,
    f"a run of {CYCLES * SEEDS * CANDIDATES:,} rows over {CYCLES} cycles": _long_run,
    "going on with it, finished": _going_on,
    "reading its trials": _reading,
}

if __name__ == "__main__":
    main()
