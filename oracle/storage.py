"""The one place that opens files: a run's folder or a single file, on a local disk or in an object store (s3://, gs://).

A file appears whole or not at all: locally it is written beside its name and renamed, in an object store it is one put.
"""

import contextlib
import errno
import fnmatch
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, Self

import pyarrow as pa
import pyarrow.fs

from oracle.errors import FolderError

_FAULTS = (OSError, pa.ArrowException)  # what a local disk and pyarrow.fs raise
_ABSENT = (FileNotFoundError, NotADirectoryError)
_KINDS: Mapping[Callable[[int], bool], str] = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
_SHOWN = 150  # characters of a long path that a message shows, from its start and from its end
_LONGEST_REASON = 400  # characters
PARTIAL_SECONDS = 600.0  # since its last change: a file half written for as long has no writer any more, and is removed


def shown(path: object) -> str:
    """A path for a message: control characters written out, and of a long one the start and the end.

    >>> shown("runs/mine"), shown("runs/\\0"), len(shown("x" * 5000))
    ('runs/mine', "'runs/\\\\x00'", 305)
    """
    text = str(path)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]} ... {text[-_SHOWN:]}"


def expanded(path: str | Path) -> Path:
    """A path with `~` and `~user` replaced by home folders. FolderError where there is no such user, or no such path."""
    try:
        return Path(_possible(path)).expanduser()
    except RuntimeError:
        raise FolderError(f"{shown(path)}: there is no such home folder; give the path without ~") from None


def read_file(url: str | Path, most: int | None = None) -> bytes | None:
    """The bytes of one file, or its first `most`, here or in an object store; None where there is no such file.

    FolderError as `Folder.read`.
    """
    folder, name = _parted(url)
    return folder.read(name, most)


def write_file(url: str | Path, content: bytes) -> None:
    """Put one whole file in place of what was there, making its folder. FolderError as `Folder.write`."""
    folder, name = _parted(url)
    folder.write(name, content)


def kind_of(url: str | Path) -> Literal["file", "folder"] | None:
    """What lies there; None for nothing. FolderError where that cannot be seen."""
    return Folder(url).kind()


def parted(url: str | Path) -> tuple[str, str]:
    """Where the folder of a file lies, and the file's name in it.

    >>> parted("runs/a.csv"), parted("s3://bucket/runs/a.csv?region=eu")
    (('runs', 'a.csv'), ('s3://bucket/runs?region=eu', 'a.csv'))
    """
    scheme, mark, rest = _possible(url).rpartition("://")
    path, question, query = rest.partition("?") if mark else (str(expanded(rest)), "", "")
    folder, slash, name = path.rpartition("/")
    return f"{scheme}{mark}{folder or ('' if mark else slash or '.')}{question}{query}", name


def file_within(folder: str | Path, name: str) -> str:
    """Where a file of a folder lies.

    >>> file_within("runs/mine", "oracle.parquet"), file_within("s3://bucket/mine/?region=eu", "oracle.parquet")
    ('runs/mine/oracle.parquet', 's3://bucket/mine/oracle.parquet?region=eu')
    """
    if "://" not in str(folder):
        return str(expanded(folder) / name)
    path, question, query = str(folder).partition("?")
    return f"{path.rstrip('/')}/{name}{question}{query}"


def file_beside(folder: str | Path, suffix: str) -> str:
    """Where a folder lies whose name is that of another with something behind it.

    >>> file_beside("runs/mine/", "-replay"), file_beside("s3://bucket/mine?region=eu", "-replay")
    ('runs/mine-replay', 's3://bucket/mine-replay?region=eu')
    """
    if "://" not in str(folder):
        local = expanded(folder)
        local = local if local.name not in ("", "..") else local.resolve()
        return str(local.with_name(f"{local.name}{suffix}"))
    path, question, query = str(folder).partition("?")
    return f"{path.rstrip('/')}{suffix}{question}{query}"


def _parted(url: str | Path) -> tuple["Folder", str]:
    folder, name = parted(url)
    if name in {"", ".", ".."} or folder.partition("?")[0].endswith("://"):
        raise FolderError(f"{shown(url)}: names no file")
    return Folder(folder), name


class Folder:
    """Files below one location, by their name relative to it ("trials/cycle=000/a.parquet")."""

    def __init__(self, url: str | Path) -> None:
        """`url`: a path, or s3://bucket/key and the like as `pyarrow.fs` reads them."""
        self.url = _possible(url)
        self._remote: pa.fs.FileSystem | None = None
        if "://" in self.url:
            try:
                self._remote, self._base = pa.fs.FileSystem.from_uri(self.url)
            except (*_FAULTS, ValueError) as error:  # ValueError: text that is not UTF-8
                raise FolderError(
                    f"{shown(self.url)}: is not a location that can be opened: {_reason(error)}"
                ) from None
            if not self._base:
                raise FolderError(f"{shown(self.url)}: names no bucket; expected one, as in s3://bucket/runs/name")
        if isinstance(self._remote, pa.fs.LocalFileSystem):  # file:// is a path
            self._remote, self.url = None, _possible(self._base)  # %00 is a NUL
        elif self._remote is None:
            self.url = _absolute(expanded(url))
            self._base = self.url

    @property
    def is_remote(self) -> bool:
        """Whether it lies in an object store, where files can be put whole but not appended to."""
        return self._remote is not None

    def __truediv__(self, name: str) -> str:
        """Where a file lies, for people."""
        return f"{self.url.rstrip('/')}/{name}"

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.url,)

    def read(self, name: str, most: int | None = None) -> bytes | None:
        """The file's bytes, or its first `most`; None where there is no such file."""
        path = self._path(name)
        try:
            if self._remote is None:
                _check_kind(path, "read")  # before it is opened: a pipe would wait for a writer, a device may never end
                with open(path, "rb") as file:
                    return file.read(most)
            with self._remote.open_input_file(path) as stream:
                return bytes(stream.read(most))
        except _ABSENT:
            return None
        except (MemoryError, OverflowError):
            raise FolderError(
                f"{self._shown(name)}: cannot be read: its {self.size(name) or 0:,} bytes do not fit into memory"
            ) from None
        except _FAULTS as error:
            raise FolderError(f"{self._shown(name)}: cannot be read: {_reason(error)}") from error

    def write(self, name: str, content: bytes) -> None:
        """Put a whole file in place of what was there."""
        path = self._path(name)
        try:
            if self._remote is None:
                _write_and_rename(Path(path), content)
            else:
                with self._remote.open_output_stream(path) as file:
                    file.write(content)
        except _FAULTS as error:
            raise FolderError(_explain(error, self._shown(name), len(content))) from error

    def append_line(self, name: str, line: bytes) -> None:
        """Add a line to a file, which is made if it is not there. Local folders alone: object stores cannot.

        A full disk or a killed process may leave a part of the line; the next one begins anew all the same.
        """
        if self._remote is not None:
            raise FolderError(f"{self._shown(name)}: nothing can be appended to a file in an object store")
        path = Path(self._path(name))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab+") as file:
                if file.tell():  # not empty
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line + b"\n")
        except OSError as error:
            raise FolderError(_explain(error, self._shown(name), len(line))) from error

    def write_if_changed(self, name: str, content: bytes) -> None:
        """As `write`, but a file that holds these bytes already is left alone."""
        if self.read(name) != content:
            self.write(name, content)

    def names(self, below: str = "") -> list[str]:
        """Names of all files below a folder, sorted; none where the folder is missing, or vanishes meanwhile."""
        try:
            if self._remote is None:
                walk = os.walk(self._path(below), onerror=_unless_absent)
                found = (Path(folder) / file for folder, _, files in walk for file in files)
                return sorted(path.relative_to(self._base).as_posix() for path in found if path.suffix != ".partial")
            selector = pa.fs.FileSelector(self._path(below), recursive=True, allow_not_found=True)
            files = [info for info in self._remote.get_file_info(selector) if info.type == pa.fs.FileType.File]
            return sorted(str(PurePosixPath(info.path).relative_to(self._base)) for info in files)
        except _FAULTS as error:
            raise FolderError(f"{self._shown(below)}: cannot be listed: {_reason(error)}") from error

    def delete(self, name: str) -> None:
        """Remove a file; none there is fine."""
        try:
            if self._remote is None:
                Path(self._path(name)).unlink(missing_ok=True)
            else:
                self._remote.delete_file(self._path(name))
        except FileNotFoundError:
            return
        except _FAULTS as error:
            raise FolderError(f"{self._shown(name)}: cannot be removed: {_reason(error)}") from error

    def set_aside(self, name: str) -> None:
        """Rename a file that is not whole to end in .unreadable, so that it is seen and never read again."""
        if self._remote is None:
            try:
                os.replace(self._path(name), self._path(f"{name}.unreadable"))
            except _ABSENT:  # another process was quicker
                return
            except OSError as error:
                raise FolderError(_explain(error, self._shown(name), 0)) from error
        elif (content := self.read(name)) is not None:
            self.write(f"{name}.unreadable", content)
            self.delete(name)

    def delete_below(self, name: str) -> None:
        """Remove a folder and all in it, as far as that can be done: only for what nobody will read again."""
        if self._remote is None:
            shutil.rmtree(self._path(name), ignore_errors=True)
        else:
            with contextlib.suppress(*_FAULTS):
                self._remote.delete_dir_contents(self._path(name), missing_dir_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from locking this folder meanwhile. FolderError where one has.

        The lock is the system's, on the folder itself, and ends with the process. Object stores have none, and some
        network disks none either: there two searches do work twice, but lose nothing.
        """
        if self._remote is not None or os.name == "nt":
            yield
            return
        import fcntl  # not on Windows

        try:
            os.makedirs(self._base, exist_ok=True)
            folder = os.open(self._base, os.O_RDONLY)
        except OSError as error:
            raise FolderError(_explain(error, shown(self.url), 0)) from error
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderError(
                    f"{shown(self.url)}: another search is at work in this folder; wait for its end, or give another --out"
                ) from None
            except OSError:
                pass  # no locks on this disk
            yield
        finally:
            os.close(folder)

    def kind(self) -> Literal["file", "folder"] | None:
        """What lies at this location; None for nothing."""
        try:
            if self._remote is None:
                path = Path(self._base)
                return "folder" if path.is_dir() else "file" if path.exists() else None
            found = self._remote.get_file_info(self._base).type
        except _FAULTS as error:
            raise FolderError(f"{shown(self.url)}: cannot be read: {_reason(error)}") from error
        if found == pa.fs.FileType.Directory:
            return "folder"
        return "file" if found == pa.fs.FileType.File else None

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        try:
            if self._remote is None:
                return os.stat(self._path(name)).st_size
            info = self._remote.get_file_info(self._path(name))
        except _ABSENT:
            return None
        except _FAULTS as error:
            raise FolderError(f"{self._shown(name)}: cannot be read: {_reason(error)}") from error
        return int(info.size) if info.type == pa.fs.FileType.File else None

    def delete_partials(self) -> None:
        """Remove what writers that were killed left half written."""
        if self._remote is not None:
            return  # an object store shows nothing that is not whole
        for folder, _, files in os.walk(self._base):  # passes over what cannot be listed
            for path in (Path(folder) / file for file in files if fnmatch.fnmatch(file, ".*.partial")):
                with contextlib.suppress(OSError):  # its writer lives, and was quicker
                    if time.time() - path.stat().st_mtime > PARTIAL_SECONDS:
                        path.unlink()

    def _shown(self, name: str) -> str:
        return shown(self / name)

    def _path(self, name: str) -> str:
        parts = PurePosixPath(_possible(name)).parts
        if ".." in parts or name.startswith("/"):
            raise FolderError(
                f"{shown(repr(name))} would lie outside {shown(self.url)}; names are relative, without '..'"
            )
        return "/".join([self._base.rstrip("/"), *parts])


def _write_and_rename(path: Path, content: bytes) -> None:
    with contextlib.suppress(*_ABSENT):
        _check_kind(path, "written")  # /dev/null would become a file
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _possible(path: str | Path) -> str:
    """The path as text. FolderError where no file system can have it."""
    text = str(path)
    if "\0" in text:
        raise FolderError(f"{shown(text)}: holds a NUL character, which no path can; is it damaged?")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise FolderError(f"{shown(text)}: holds half of a surrogate pair, which no path can; is it damaged?") from None
    return text


def _absolute(path: Path) -> str:
    try:
        return str(path.absolute())
    except OSError as error:  # the current folder was removed
        raise FolderError(f"{shown(path)}: there is no current folder to begin at: {_reason(error)}") from None


def _check_kind(path: str | Path, what: str) -> None:
    """FolderError unless a file lies there. OSError where that cannot be seen."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        found = next((name for is_one, name in _KINDS.items() if is_one(mode)), "something else")
        raise FolderError(f"{shown(path)}: cannot be {what}: it is {found}, expected a file")


def _unless_absent(error: OSError) -> None:
    if not isinstance(error, _ABSENT):
        raise error


def _explain(error: Exception, where: str, size: int) -> str:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return (
            f"{where}: the disk is full ({size / 1e6:.1f} MB were to be written). "
            "Nothing that was finished is lost: free some space and run the same command again"
        )
    return f"{where}: cannot be written: {_reason(error)}"


def _reason(error: Exception) -> str:
    """What went wrong; the file is named beside it."""
    text = getattr(error, "strerror", None) or str(error)
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} ..."
