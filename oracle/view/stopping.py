"""What a command does at Ctrl-C or SIGTERM: it says in one sentence that it stopped, and exits with 130.

While modules are imported nothing is under way, and an exception from within an import may end anywhere: the process ends
where it stands. While a command works, the first signal is a KeyboardInterrupt, so that what is held is given back; at a
second one the process ends where it stands, which loses no more than being killed does. The standard library alone is
imported here, and little of it: nothing hears Ctrl-C before this file.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STATUS = 130  # as shells give to what Ctrl-C ended
LONG = {"search", "replay", "compare", "tune", "sparse"}  # commands that go on where they were stopped
SIGNALS = (signal.SIGINT, signal.SIGTERM)
END_SECONDS = 10.0  # from the end of a command to that of its process, at most
FORKS = {"_execute_child", "_launch"}  # where subprocess and multiprocessing fork
FORK_SECONDS = 0.05  # until a signal that came meanwhile is tried again
SHOW_CURSOR = b"\x1b[?25h\n"  # the live view hides it


class _State:
    """Of the command that this process runs."""

    raises = False  # whether the next signal is a KeyboardInterrupt
    asked = False  # whether a signal has come
    said = False  # whether people were told
    tell: Callable[[], None] | None = None  # of the first signal


def listen() -> dict[signal.Signals, Any]:
    """Hear signals from now on. Returns who heard them before; what was ignored, as by nohup, stays ignored."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, _hear)
    return {number: handler for number, handler in before.items() if handler is not None}  # None: not of Python's


def to_the_end(command: Callable[[], None]) -> None:
    """Run a command. Once it has ended, no signal changes its status, and no library holds the process up for long."""
    try:
        command()
    except SystemExit as end:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it
            sys.stdout.flush()  # which may wait for a reader
        for number in SIGNALS:
            if signal.getsignal(number) == _hear:
                signal.signal(number, signal.SIG_IGN)
        late = threading.Timer(END_SECONDS, os._exit, [end.code if isinstance(end.code, int) else int(bool(end.code))])
        late.daemon = True
        late.start()
        raise


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """Let the first signal be a KeyboardInterrupt. Whatever it is turned into on its way, it ends in `SystemExit(130)`."""
    _State.asked = _State.said = False
    before = listen()
    try:
        with _raising(True):
            yield
    except BaseException as error:
        if not _State.asked or (isinstance(error, SystemExit) and not error.code):  # finished all the same
            raise
        _say()
        sys.exit(STATUS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def telling(tell: Callable[[], None]) -> Iterator[None]:
    """Have `tell` called at the first signal: where a library loses the exception, work ends a little later."""
    _State.tell = tell
    try:
        yield
    finally:
        _State.tell = None


def at_once() -> contextlib.AbstractContextManager[None]:
    """Let signals end the process where it stands: for imports."""
    return _raising(False)


@contextlib.contextmanager
def _raising(raises: bool) -> Iterator[None]:
    before, _State.raises = _State.raises, raises
    try:
        yield
    finally:
        _State.raises = before


def _hear(number: int, frame: FrameType | None) -> None:
    if _State.raises and not _State.asked and _is_forking(frame):
        main = threading.main_thread().ident
        later = threading.Timer(FORK_SECONDS, signal.pthread_kill, [main, number])
        later.daemon = True
        later.start()
        return
    again, _State.asked = _State.asked, True
    if _State.raises and not again:
        if _State.tell is not None:
            _State.tell()
        raise KeyboardInterrupt
    _say(SHOW_CURSOR if again and os.isatty(2) else b"")
    os._exit(STATUS)


def _let_go() -> None:
    """In a process that was forked: signals are for the one that forked it."""
    for number in SIGNALS:
        if signal.getsignal(number) == _hear:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_let_go)


def _is_forking(frame: FrameType | None) -> bool:
    """Whether a process is being started: what is raised by Python code that runs at a fork is lost, locks stay held."""
    while frame is not None:
        if frame.f_code.co_name in FORKS:
            return True
        frame = frame.f_back
    return False


def _say(before: bytes = b"") -> None:
    """Past sys.stderr, which a signal may have found in mid-write, and which leads nowhere while Ray trains."""
    if not _State.said:
        goes_on = sys.argv[1:2] and sys.argv[1] in LONG
        text = "stopped; what was finished is kept, and the same command goes on from there" if goes_on else "stopped"
        with contextlib.suppress(OSError):  # nobody reads it
            os.write(2, before + text.encode() + b"\n")
        _State.said = True  # only now: a signal in between says it twice rather than never
