"""An object store for tests, in memory."""

import errno
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pytest


class Bucket(pyarrow.fs.FileSystemHandler):
    """An object store in memory: flat keys, no folders, an object appears when its stream is closed."""

    def __init__(self):
        self.objects = {}

    def get_type_name(self):
        return "bucket"

    def open_input_file(self, path):
        if path not in self.objects:
            raise FileNotFoundError(errno.ENOENT, "no such key", path)
        return pyarrow.PythonFile(pyarrow.BufferReader(self.objects[path]), mode="r")

    def open_output_stream(self, path, metadata):
        bucket = self

        class Put:
            closed = False
            content = b""

            def write(self, part):
                self.content += bytes(part)

            def close(self):
                if not self.closed:
                    self.closed = True
                    bucket.objects[path] = self.content

            def flush(self):
                pass

        return pyarrow.PythonFile(Put(), mode="w")

    def get_file_info(self, paths):
        file, none = pyarrow.fs.FileType.File, pyarrow.fs.FileType.NotFound
        found = {path: self.objects.get(path) for path in paths}
        return [
            pyarrow.fs.FileInfo(path, none if content is None else file, size=content and len(content))
            for path, content in found.items()
        ]

    def get_file_info_selector(self, selector):
        assert selector.recursive
        assert selector.allow_not_found
        below = f"{selector.base_dir}/"
        return [pyarrow.fs.FileInfo(p, pyarrow.fs.FileType.File) for p in self.objects if p.startswith(below)]

    def delete_file(self, path):
        if self.objects.pop(path, None) is None:
            raise FileNotFoundError(errno.ENOENT, "no such key", path)

    def delete_dir_contents(self, path, missing_dir_ok):
        assert missing_dir_ok
        self.objects = {key: value for key, value in self.objects.items() if not key.startswith(f"{path}/")}

    def _unused(self, *args):
        raise NotImplementedError

    copy_file = create_dir = delete_dir = delete_root_dir_contents = move = normalize_path = _unused
    open_append_stream = open_input_stream = _unused


def bucket_at_s3(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty object store that every s3:// address leads to, for this process."""
    bucket = Bucket()

    def from_uri(url: str) -> Any:
        if not url.startswith("s3://"):
            raise pa.ArrowInvalid(f"Unrecognized filesystem type in URI: {url}")
        return pyarrow.fs.PyFileSystem(bucket), url.removeprefix("s3://").partition("?")[0]

    monkeypatch.setattr(pyarrow.fs, "FileSystem", SimpleNamespace(from_uri=from_uri))
    return bucket
