"""Wall and CPU seconds of a command's whole process tree, daemons included."""

import ctypes
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

import psutil

SAMPLE_SECONDS = 0.1
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h: orphans below this process become its children


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a command cost."""

    wall: float  # seconds
    cpu: float  # seconds, user and system, of all processes


def measure(command: Sequence[str], env: dict[str, str] | None = None) -> Cost:
    """Run a command to its end, and to the end of all it started.

    CPU time is sampled, so a process's last 0.1 s may be missed: little for few processes, and in favour of the way that
    starts many. Linux only. Raises RuntimeError with the command's output where it fails.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    seen: dict[tuple[int, float], float] = {}
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:  # not a pipe: nobody would read it, and a full one stops the command
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | (env or {}))
        wall = 0.0
        while True:
            for child in psutil.Process().children(recursive=True):
                try:
                    times = child.cpu_times()
                    seen[child.pid, child.create_time()] = times.user + times.system
                except psutil.NoSuchProcess:
                    continue
            if process.poll() is None:
                wall = time.perf_counter() - started
            elif not _reap():
                break
            time.sleep(SAMPLE_SECONDS)
        if process.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{output.read()}")
    return Cost(wall=wall, cpu=sum(seen.values()))


def _reap() -> bool:
    """Collect orphans that ended; whether any are left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def machine() -> str:
    """Device and versions, for every figure."""
    packages = ("torch", "ray", "optuna", "numpy", "pyarrow")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return f"{_cpu()}, {os.cpu_count()} cores, {platform.system()}; Python {platform.python_version()}, {versions}"


def _cpu() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()
