"""Ends what a Ray cluster of our own leaves behind when its driver is killed. Run by path, in a process of its own.

Ray's node processes end with their driver, but two of its agents were seen to hang for minutes (Ray 2.60), and nobody
removes the session's files. This process waits for its standard input to close, as it does however the driver ends; gives
Ray ten seconds; then kills the processes that carry the cluster's mark in their environment, and removes its files.
Standard library only, so that it starts in milliseconds.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "SILO_ORACLE_CLUSTER"  # environment variable that all processes of one cluster inherit
GRACE_SECONDS = 10.0


def main() -> None:
    """`guard.py MARK_VALUE FOLDER`: wait, then clean up."""
    value, folder = sys.argv[1:]
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)  # sent to the whole terminal: outlive the driver
    sys.stdin.buffer.read()
    deadline = time.monotonic() + GRACE_SECONDS
    while marked(value) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in marked(value):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def marked(value: str) -> list[int]:
    """Processes of this machine that carry the mark. None where there is no /proc, as on macOS."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # another user's, or gone since it was listed
            if f"{MARK}={value}".encode() in entry.read_bytes().split(b"\0"):
                pids.append(int(entry.parent.name))
    return pids


if __name__ == "__main__":
    main()
