"""What lies in a folder of data: regular files alone, each once, however many symbolic links lead to it."""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from oracle.errors import DataError

FILE, FOLDER = "a file", "a folder"
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class Found:
    """A file that was come upon."""

    path: str
    real: str  # where it lies: the path without links


def check_file(path: str | os.PathLike[str], expected: str) -> None:
    """Raises DataError unless a regular file lies there: reading a pipe or a device may never end."""
    _check_kind(path, _kind_of(path), expected)


def folders_in(folder: str) -> list[str]:
    """Names of the folders in a folder, sorted. A link to a folder above it is passed over. Raises OSError."""
    return [entry.name for entry, kind in _entries(folder) if kind == FOLDER]


def files_below(folder: str, is_wanted: Callable[[str], bool], expected: str) -> list[Found]:
    """Files with a name that is wanted, in this folder and all below it, links followed, sorted by folder, then by name.

    A file to which several links lead is listed under the first of these names. A link to a folder above itself is
    passed over: all that it leads to is listed where it lies. DataError where what has such a name is neither a regular
    file nor a folder; OSError where a folder cannot be listed.
    """
    named: list[tuple[str, str, str]] = []  # folder, name, where it lies
    seen: set[str] = set()
    known: dict[str, str] = {}  # folders that links lead to, and where they lie
    waiting = deque([folder])
    while waiting:
        here = waiting.popleft()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        for entry, kind in _entries(here):
            if kind == FOLDER and entry.is_symlink():
                waiting.append(entry.path)  # last: what lies in this folder is listed as lying there
            elif kind == FOLDER:
                waiting.appendleft(entry.path)
            elif is_wanted(entry.name):
                _check_kind(entry.path, kind, expected)
                lies = _target(entry.path, known) if entry.is_symlink() else os.path.join(real, entry.name)
                named.append((here, entry.name, lies))
    once: dict[str, Found] = {}
    for here, name, lies in sorted(named):
        once.setdefault(lies, Found(os.path.join(here, name), lies))
    return list(once.values())


def _entries(folder: str) -> Iterator[tuple[os.DirEntry[str], str]]:
    """What lies in a folder, and of what kind, sorted by name; without links to this folder or to one above it."""
    real = os.path.realpath(folder)
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        # The listing itself says what is a file or a folder: asking for each of a million files would take minutes.
        kind = FILE if entry.is_file(follow_symlinks=False) else _kind_of(entry)
        if kind == FOLDER and entry.is_symlink():
            target = os.path.realpath(entry.path)
            if os.path.commonpath([target, real]) == target:
                continue
        yield entry, kind


def _target(link: str, known: dict[str, str]) -> str:
    """Where a link to a file leads: os.path.realpath, which alone would look at each folder on the way for each link."""
    folder, name = os.path.split(os.path.join(os.path.dirname(link), os.readlink(link)))
    if folder not in known:
        known[folder] = os.path.realpath(folder)
    target = os.path.join(known[folder], name)
    return os.path.realpath(link) if name in {"", ".", ".."} or os.path.islink(target) else target


def _kind_of(path: str | os.PathLike[str]) -> str:
    """What lies there, links followed, in words."""
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "something else")
    except OSError as error:
        return f"a link that leads nowhere ({error.strerror})" if os.path.islink(path) else str(error.strerror)


def _check_kind(path: str | os.PathLike[str], kind: str, expected: str) -> None:
    if kind != FILE:
        raise DataError(f"{os.fspath(path)}: expected {expected}, found {kind}")
