"""The record of a run's events in its folder: JSON lines, for whoever looks on later or from elsewhere.

Locally events.jsonl, appended to; in an object store, which cannot append, one object each 30 s below events/. It is a
record for people and tools: a search never reads it, and goes on where it cannot be written.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator

from oracle.events import Event, PackProgress, RunEnded, from_plain, to_plain
from oracle.storage import Folder

FILE = "events.jsonl"
OBJECT_SECONDS = 30.0  # between two objects in an object store: each is a request
PROGRESS_SECONDS = 5.0  # between two lines of the progress of one pack; its end is always recorded


class EventLog:
    """A listener that records events in a run's folder, with the time of each in seconds since 1970."""

    def __init__(self, folder: Folder, *, clock: Callable[[], float] = time.time) -> None:
        """`clock`: the time now, in seconds."""
        self._folder, self._clock = folder, clock
        self._waiting: list[bytes] = []  # for the next object
        self._written = clock()
        self._progress: dict[str, float] = {}  # when each pack's was last recorded

    def __call__(self, event: Event) -> None:
        """Record `event`. Raises FolderError where the folder cannot be written."""
        now = self._clock()
        if isinstance(event, PackProgress) and event.done < 1:
            if now - self._progress.get(event.pack, 0.0) < PROGRESS_SECONDS:
                return
            self._progress[event.pack] = now
        line = json.dumps({"time": round(now, 3), **to_plain(event)}).encode()
        if self._folder.is_remote:
            self._put(line, now, at_once=isinstance(event, RunEnded))
        else:
            self._folder.append_line(FILE, line)

    def _put(self, line: bytes, now: float, *, at_once: bool) -> None:
        self._waiting.append(line + b"\n")
        if at_once or now - self._written >= OBJECT_SECONDS:
            self._written = now
            self._folder.write(f"events/{now:015.3f}-{secrets.token_hex(4)}.jsonl", b"".join(self._waiting))
            self._waiting = []  # only now: what could not be written is tried again with the next


def read_events(folder: Folder) -> Iterator[tuple[float, Event]]:
    """Every event on record with its time, in the order of writing. Lines that are torn, or not known here, are skipped."""
    for name in [FILE, *folder.names("events")]:
        for line in (folder.read(name) or b"").splitlines():
            try:
                fields = json.loads(line)
                event = from_plain(fields)
                if event is not None:
                    yield float(fields["time"]), event
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue
