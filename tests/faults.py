"""Faults for tests: start the real command, hurt it, and see what it left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from oracle.runs.records import attempts, read_trials
from oracle.storage import Folder

# Long enough to be hit in mid-pack: about 3 s a pack on one core, a checkpoint after every epoch.
SLOW = (
    "pruning.cycles=1",
    "training.epochs=150",
    "grid={spacing: explicit, values: [0.02, 0.1, 0.4]}",
    "seeds=[0, 1]",
)


def command(out: Path, *options: str, overrides: Sequence[str] = SLOW) -> list[str]:
    """`oracle search digits-mlp` into `out`, checkpointing after every epoch."""
    sets = [part for override in overrides for part in ("--set", override)]
    start = [sys.executable, "-m", "oracle", "search", "digits-mlp", "--out", str(out)]
    return [*start, "--checkpoint-seconds", "0", *sets, *options]


def start(*args: Any, env: dict[str, str] | None = None, **kwargs: Any) -> subprocess.Popen[str]:
    """The command in a process group of its own."""
    return subprocess.Popen(
        command(*args, **kwargs),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | (env or {}),
    )


def finish(process: subprocess.Popen[str], seconds: float = 240) -> str:
    """Wait for the end, which must be a good one. Returns what it printed."""
    printed, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, printed
    return printed


def until(condition: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    """What `condition` gives once it is true; an AssertionError naming `what` if that never happens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"never happened: {what}")


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the driver alone; the test fails if it had ended by itself."""
    assert process.poll() is None, f"ended before it was killed: {process.communicate()[0]}"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def checkpointed(out: Path, beyond: Sequence[str] = ()) -> list[str]:
    """Checkpoints of packs under way, other than `beyond`."""
    return [str(path) for path in out.glob("checkpoints/**/*.safetensors") if str(path) not in beyond]


def rows_there(out: Path) -> set[tuple[int, int, float]]:
    """Trials whose rows can be read now."""
    rows = read_trials(out).select(["cycle", "seed", "max_lr"]).to_pylist()
    return {(row["cycle"], row["seed"], row["max_lr"]) for row in rows}


def started_since(out: Path, moment: float) -> set[tuple[int, int, float]]:
    """Trials whose training was started, or gone on with, after `moment` (time.time)."""
    later = [attempt for attempt in attempts(Folder(out)) if attempt["time"] > moment]
    return {(it["cycle"], it["seed"], max_lr) for it in later for max_lr in it["candidates"]}


def timeless(table: pa.Table) -> list[dict[str, Any]]:
    """Rows without the times, which are never the same twice."""
    return [row | {"seconds": None} for row in table.to_pylist()]


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie waits only for its parent to notice."""
    return [it for it in processes if it.is_running() and _status(it) not in {None, psutil.STATUS_ZOMBIE}]


def _status(process: psutil.Process) -> str | None:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return None


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below one."""
    return psutil.Process(pid).children(recursive=True)
