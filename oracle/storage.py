"""The one place that opens files: a run's folder, on a local disk or in an object store (s3://, gs://).

A file appears whole or not at all: locally it is written beside its name and renamed, in an object store it is one put.
"""

import contextlib
import errno
import os
import secrets
import shutil
import time
from pathlib import Path, PurePosixPath
from typing import Self

import pyarrow as pa
import pyarrow.fs

from oracle.errors import FolderError

PARTIAL_SECONDS = 600.0  # no write takes as long: a file that is half written for longer has no writer any more


def expanded(path: str | Path) -> Path:
    """A path with `~` and `~user` replaced by home folders. FolderError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise FolderError(f"{path}: there is no such home folder; give the path without ~") from None


class Folder:
    """Files below one location, by their name relative to it ("trials/cycle=000/a.parquet")."""

    def __init__(self, url: str | Path) -> None:
        """`url`: a path, or s3://bucket/key and the like as `pyarrow.fs` reads them."""
        self.url = str(url)
        self._remote: pa.fs.FileSystem | None = None
        if "://" in self.url:
            try:
                self._remote, self._base = pa.fs.FileSystem.from_uri(self.url)
            except (pa.ArrowException, OSError) as error:
                raise FolderError(f"{self.url}: is not a location that can be opened: {error}") from None
        if isinstance(self._remote, pa.fs.LocalFileSystem):  # file:// is a path
            self._remote, self.url = None, self._base
        elif self._remote is None:
            self.url = str(expanded(url).absolute())
            self._base = self.url

    def __truediv__(self, name: str) -> str:
        """Where a file lies, for people."""
        return f"{self.url.rstrip('/')}/{name}"

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.url,)

    def read(self, name: str) -> bytes | None:
        """The file's bytes, None where there is no such file."""
        try:
            if self._remote is None:
                return Path(self._path(name)).read_bytes()
            with self._remote.open_input_file(self._path(name)) as file:
                return bytes(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise FolderError(f"{self / name}: cannot be read: {error}") from error

    def write(self, name: str, content: bytes) -> None:
        """Put a whole file in place of what was there."""
        path = self._path(name)
        try:
            if self._remote is None:
                _write_and_rename(Path(path), content)
            else:
                with self._remote.open_output_stream(path) as file:
                    file.write(content)
        except OSError as error:
            raise FolderError(_explain(error, self / name, len(content))) from error

    def put(self, name: str, content: bytes) -> None:
        """As `write`, but a file that holds these bytes already is left alone."""
        if self.read(name) != content:
            self.write(name, content)

    def names(self, below: str = "") -> list[str]:
        """Names of all files below a folder, sorted; none where the folder is missing."""
        if self._remote is None:
            root = Path(self._path(below))
            found = (Path(folder) / file for folder, _, files in os.walk(root) for file in files)
            return sorted(path.relative_to(self._base).as_posix() for path in found if path.suffix != ".partial")
        selector = pa.fs.FileSelector(self._path(below), recursive=True, allow_not_found=True)
        files = [info for info in self._remote.get_file_info(selector) if info.type == pa.fs.FileType.File]
        return sorted(str(PurePosixPath(info.path).relative_to(self._base)) for info in files)

    def delete(self, name: str) -> None:
        """Remove a file; none there is fine."""
        try:
            if self._remote is None:
                Path(self._path(name)).unlink(missing_ok=True)
            else:
                self._remote.delete_file(self._path(name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise FolderError(f"{self / name}: cannot be removed: {error}") from error

    def delete_below(self, name: str) -> None:
        """Remove a folder and all in it; none there is fine."""
        if self._remote is None:
            shutil.rmtree(self._path(name), ignore_errors=True)
        else:
            self._remote.delete_dir_contents(self._path(name), missing_dir_ok=True)

    def tidy(self) -> None:
        """Remove what writers that were killed left half written."""
        if self._remote is not None:
            return  # an object store shows nothing that is not whole
        for path in Path(self._base).rglob(".*.partial"):
            with contextlib.suppress(OSError):  # its writer lives, and was quicker
                if time.time() - path.stat().st_mtime > PARTIAL_SECONDS:
                    path.unlink()

    def _path(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        if ".." in parts or name.startswith("/"):
            raise FolderError(f"{name!r} would lie outside {self.url}; names are relative, without '..'")
        return "/".join([self._base.rstrip("/"), *parts])


def _write_and_rename(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _explain(error: OSError, where: str, size: int) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return (
            f"{where}: the disk is full ({size / 1e6:.1f} MB were to be written). "
            "Nothing that was finished is lost: free some space and run the same command again"
        )
    return f"{where}: cannot be written: {error.strerror or error}"
