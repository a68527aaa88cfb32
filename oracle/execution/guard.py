"""Ends what a Ray cluster of our own leaves behind when its driver is killed. Run by path, in a process of its own.

Ray's node processes end with their driver, but two of its agents, and workers that are just starting, were seen to hang for
a minute and more (Ray 2.60), and nobody removes the session's files. This process waits for its standard input to close,
as it does however the driver ends; gives Ray four seconds; then kills the processes that hold files of the session open,
and removes them. Standard library only, so that it starts in milliseconds.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

GRACE_SECONDS = 4.0
REMOVALS = 20  # at most, a tenth of a second apart


def main() -> None:
    """`guard.py FOLDER`: wait, then clean up."""
    folder, driver = sys.argv[1], os.getppid()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)  # sent to the whole terminal: outlive the driver
    sys.stdin.buffer.read()
    deadline = time.monotonic() + GRACE_SECONDS
    while holders(folder) - {driver} and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in holders(folder) - {driver}:  # a driver that goes on keeps logs of an ended session open
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    remove(folder)


def remove(folder: str) -> None:
    """A process that is about to end may write while its folder is removed, and keep it so: try again."""
    for _ in range(REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.1)


def holders(folder: str) -> set[int]:
    """Processes of this machine with a file below `folder` open. None where there is no /proc, as on macOS."""
    pids = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # closed since it was listed
            if os.readlink(descriptor).startswith(f"{folder}/"):
                pids.add(int(descriptor.parts[2]))
    return pids - {os.getpid()}


if __name__ == "__main__":
    main()
