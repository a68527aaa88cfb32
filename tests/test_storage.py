"""A run's folder: a file is whole or not there, names stay inside, and what cannot be done says why."""

import errno
import itertools
import os
import pickle
import resource
import socket
import threading
import time
from pathlib import Path

import pyarrow.fs
import pytest
from bucket import Bucket, bucket_at_s3

from oracle.errors import Error, FolderError
from oracle.storage import Folder, expanded, kind_of, parted, read_file, shown, write_file


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path, monkeypatch):
    if request.param == "local":
        return Folder(tmp_path / "run")
    folder = Folder("mock:///bucket/run")
    folder._remote = pyarrow.fs.PyFileSystem(Bucket())
    return folder


def test_what_is_written_is_read(folder):
    assert folder.read("a/b.bin") is None
    folder.write("a/b.bin", b"one\x00")
    assert folder.read("a/b.bin") == b"one\x00"
    folder.write("a/b.bin", b"two")
    assert folder.read("a/b.bin") == b"two"
    folder.write("empty", b"")
    assert folder.read("empty") == b""


def test_the_size_and_the_first_bytes_of_a_file_are_told(folder):
    folder.write("a/b", b"0123456789")
    assert (folder.size("a/b"), folder.read("a/b", 4)) == (10, b"0123")
    assert folder.read("a/b", 40) == b"0123456789"
    assert folder.size("a/c") is None


def test_names_are_sorted_and_relative_and_below_a_folder(folder):
    assert folder.names() == folder.names("a") == []
    for name in ("b.txt", "a/2.txt", "a/10.txt", "a/deep/er.txt", "ab/x.txt"):
        folder.write(name, b"")
    assert folder.names() == ["a/10.txt", "a/2.txt", "a/deep/er.txt", "ab/x.txt", "b.txt"]
    assert folder.names("a") == ["a/10.txt", "a/2.txt", "a/deep/er.txt"]  # not ab


def test_deleting_what_is_not_there_is_fine(folder):
    folder.delete("a/b.txt")
    folder.delete_below("a")
    for name in ("a/1", "a/b/2", "ab/3"):
        folder.write(name, b"")
    folder.delete("a/1")
    assert folder.names() == ["a/b/2", "ab/3"]
    folder.delete_below("a")
    assert folder.names() == ["ab/3"]


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "a/..", "/etc/passwd", "a/../b"])
@pytest.mark.parametrize("method", ["read", "write", "delete", "delete_below", "names"])
def test_a_name_that_leaves_the_folder_is_refused(folder, method, name):
    arguments = (name, b"x") if method == "write" else (name,)
    with pytest.raises(FolderError, match="would lie outside"):
        getattr(folder, method)(*arguments)
    assert folder.names() == []


def test_names_with_dots_that_stay_inside_are_fine(folder):
    folder.write("a/..b/c...d", b"x")
    assert folder.names() == ["a/..b/c...d"]


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, error):
    folder = Folder(tmp_path)
    folder.write("a/b.txt", b"old")
    happened = []

    def fail(*args, **kwargs):
        happened.append(args)
        if step == "write_bytes":
            with open(args[0], "wb") as file:
                file.write(b"ne")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "write_bytes") if step == "write_bytes" else (os, "replace")), fail)
        with pytest.raises(FolderError if isinstance(error, OSError) else KeyboardInterrupt):
            folder.write("a/b.txt", b"new")
    assert happened
    assert folder.read("a/b.txt") == b"old"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_a_half_written_file_of_a_killed_process_is_not_listed(tmp_path):
    folder = Folder(tmp_path)
    folder.write("a/b.txt", b"x")
    (tmp_path / "a" / ".c.txt.0123.partial").write_bytes(b"half")
    assert folder.names() == ["a/b.txt"]


def test_half_written_files_are_tidied_away_once_their_writer_must_be_dead(tmp_path):
    folder = Folder(tmp_path)
    folder.write("a/b.txt", b"x")
    (tmp_path / "download.partial").write_bytes(b"of someone else")
    for name, age in ((".c.txt.0123.partial", 3600), (".d.txt.4567.partial", 0)):
        (tmp_path / "a" / name).write_bytes(b"half")
        os.utime(tmp_path / "a" / name, (time.time() - age, time.time() - age))
    folder.delete_partials()
    assert sorted(os.listdir(tmp_path / "a")) == [".d.txt.4567.partial", "b.txt"]
    assert (tmp_path / "download.partial").exists()


def test_a_reader_sees_the_old_file_or_the_new_one_and_nothing_between(tmp_path):
    folder, contents = Folder(tmp_path), [bytes([value]) * 300_000 for value in range(2)]
    folder.write("a", contents[0])
    stop = threading.Event()

    def write():
        for content in itertools.cycle(contents):
            folder.write("a", content)
            if stop.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [folder.read("a") for _ in range(300)]
    finally:
        stop.set()
        writer.join()
    assert set(seen) <= set(contents)


def test_a_full_disk_says_what_to_do(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FolderError, match="the disk is full") as caught:
        Folder(tmp_path).write("a/b.txt", b"x" * 2_500_000)
    message = str(caught.value)
    assert str(tmp_path / "a" / "b.txt") in message
    assert "2.5 MB" in message
    assert "run the same command again" in message
    assert isinstance(caught.value, Error)


def test_a_folder_that_is_a_file_says_so(tmp_path):
    (tmp_path / "run").write_text("I am a file")
    folder = Folder(tmp_path / "run")
    assert folder.read("a/b.txt") is None
    with pytest.raises(FolderError, match="cannot be written"):
        folder.write("a/b.txt", b"x")
    assert (tmp_path / "run").read_text() == "I am a file"


def test_reading_a_folder_as_a_file_is_refused(tmp_path):
    Folder(tmp_path).write("a/b.txt", b"x")
    with pytest.raises(FolderError, match="cannot be read"):
        Folder(tmp_path).read("a")


@pytest.mark.parametrize("url", ["ftp://host/x", "nowhere://x", "http://host/x"])
def test_a_location_of_an_unknown_kind_is_refused(url):
    with pytest.raises(FolderError, match=f"{url}: is not a location"):
        Folder(url)


def test_a_file_url_is_a_path(tmp_path):
    folder = Folder(f"file://{tmp_path}/run")
    folder.write("a/b.txt", b"x")
    assert (tmp_path / "run" / "a" / "b.txt").read_bytes() == b"x"
    assert folder.url == str(tmp_path / "run")


def test_a_relative_folder_stays_where_it_was_when_the_process_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Folder("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder.write("a", b"x")
    assert (tmp_path / "run" / "a").read_bytes() == b"x"


def test_a_folder_travels_to_a_worker(tmp_path):
    folder = Folder(tmp_path)
    folder.write("a", b"x")
    assert pickle.loads(pickle.dumps(folder)).read("a") == b"x"


def test_a_path_is_shown_once_slashed(tmp_path):
    assert Folder(tmp_path) / "a/b" == f"{tmp_path}/a/b"
    assert Folder("mock:///bucket/run/") / "a/b" == "mock:///bucket/run/a/b"


@pytest.fixture(params=[PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "Input/output error")])
def broken(request, folder, monkeypatch):
    """A folder with a file below `a`, which can be neither listed nor removed."""
    folder.write("a/b.txt", b"x")

    def fail(*args, **kwargs):
        raise request.param

    for name in ("scandir", "unlink"):
        monkeypatch.setattr(os, name, fail)
    for name in ("get_file_info_selector", "delete_file", "delete_dir_contents"):
        monkeypatch.setattr(Bucket, name, fail)
    return folder


@pytest.mark.parametrize("below", ["", "a"])
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(broken, below):
    with pytest.raises(FolderError, match=r"cannot be listed: .*(denied|error)"):
        broken.names(below)


def test_a_file_that_cannot_be_removed_is_refused(broken):
    with pytest.raises(FolderError, match=r"a/b\.txt: cannot be removed"):
        broken.delete("a/b.txt")


def test_what_is_only_tidying_is_left_in_peace(broken):
    broken.delete_below("a")
    broken.delete_partials()
    assert broken.read("a/b.txt") == b"x"


def test_a_folder_that_vanishes_while_it_is_listed_is_empty(tmp_path, monkeypatch):
    folder, scandir, gone = Folder(tmp_path), os.scandir, []
    for name in ("a/1", "b/2"):
        folder.write(name, b"x")

    def vanish(path):
        if str(path).endswith("/a"):
            gone.append(path)
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    assert folder.names() == ["b/2"]
    assert gone


@pytest.mark.parametrize("url", ["s3://", "gs://"])
def test_a_location_without_a_bucket_is_refused(url):
    with pytest.raises(FolderError, match=f"{url}: names no bucket"):
        Folder(url)


@pytest.mark.parametrize("method", ["read", "write", "delete", "names"])
def test_what_arrow_refuses_is_a_refusal_of_the_folder(method):
    folder = Folder("mock:///bucket/run")
    folder._remote = pyarrow.fs.S3FileSystem(anonymous=True, region="us-east-1")
    folder._base = "/x"  # it begins with a separator, which is refused before anything is asked of the network
    arguments = ("a", b"x") if method == "write" else ("a",)
    with pytest.raises(FolderError, match=r"cannot be (read|written|removed|listed): .*separator"):
        getattr(folder, method)(*arguments)


# Paths that no file system has, and what lies at a path but is no file


@pytest.mark.parametrize("use", [read_file, kind_of, Folder, parted, expanded, lambda url: write_file(url, b"x")])
@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("a\0b", r"'a\\x00b': holds a NUL character"),
        ("~\0/b", "holds a NUL character"),
        ("s3://bucket/a\0b", r"'s3://bucket/a\\x00b': holds a NUL character"),
        ("s3://bucket\0/a", "holds a NUL character"),
        ("file:///a\0b", "holds a NUL character"),
        ("a\ud800b", r"'a\\ud800b': holds half of a surrogate pair"),
        ("~\ud800/b", "holds half of a surrogate pair"),
        ("s3://bucket/\ud800", "holds half of a surrogate pair"),
    ],
)
def test_a_path_that_no_file_can_have_is_refused(use, url, named):
    with pytest.raises(FolderError, match=named):
        use(url)


@pytest.mark.parametrize("name", ["a\0b", "a/\ud800"])
@pytest.mark.parametrize("method", ["read", "write", "delete", "delete_below", "names", "size", "append_line"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, method, name):
    arguments = (name, b"x") if method in {"write", "append_line"} else (name,)
    with pytest.raises(FolderError, match="which no path can"):
        getattr(Folder(tmp_path), method)(*arguments)


def test_bytes_of_a_path_that_are_no_utf_8_are_fine_where_the_file_system_takes_them(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfcn")
    try:
        os.mkdir(path)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    Folder(path).write("a", b"x")
    assert read_file(f"{path}/a") == b"x"


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000 + "a"])
def test_a_path_that_is_too_long_is_refused_in_short(tmp_path, name):
    for use in (read_file, lambda url: write_file(url, b"x"), lambda url: Folder(f"{url}/b").names()):
        with pytest.raises(FolderError, match="File name too long") as caught:
            use(f"{tmp_path}/{name}")
        assert len(str(caught.value)) < 500
        assert str(caught.value).startswith(str(tmp_path))


def test_a_path_is_shown_as_one_line_of_printable_characters():
    assert shown("runs/grün/a b.csv") == "runs/grün/a b.csv"
    assert shown("a\nb\x1b[31m") == r"'a\nb\x1b[31m'"
    assert shown("a" * 1000 + "b") == "a" * 150 + " ... " + "a" * 149 + "b"


@pytest.fixture(params=["pipe", "device", "socket", "folder"])
def no_file(request, tmp_path, monkeypatch):
    """Its kind and its path. A pipe that nobody writes to waits for ever, when it is opened."""
    path = tmp_path / "run" / "a"
    path.parent.mkdir()
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/null")
    elif request.param == "folder":
        path.mkdir()
    else:
        monkeypatch.chdir(path.parent)  # a socket's address has room for 100 characters
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    return request.param, path


def test_what_is_no_file_is_not_read(no_file):
    kind, path = no_file
    for read in (
        lambda: read_file(path),
        lambda: Folder(path.parent).read("a"),
        lambda: Folder(path.parent).read("a", 4),
    ):
        with pytest.raises(FolderError, match=f"run/a: cannot be read: it is a {kind}, expected a file"):
            read()


def test_what_is_no_file_is_not_replaced_by_one(no_file):
    kind, path = no_file
    before = path.stat().st_mode
    with pytest.raises(FolderError, match=f"run/a: cannot be written: it is a {kind}, expected a file"):
        write_file(path, b"x")
    assert path.stat().st_mode == before
    assert os.listdir(path.parent) == ["a"]


def test_a_link_to_a_file_is_read(tmp_path):
    write_file(tmp_path / "a", b"x")
    (tmp_path / "b").symlink_to("a")
    assert read_file(tmp_path / "b") == b"x"


@pytest.fixture
def little_memory():
    """At most 1 GiB more than this process has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_file_that_does_not_fit_into_memory_is_refused_by_its_size(tmp_path, little_memory):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(10**12)  # takes no disk: it is all holes
    with pytest.raises(FolderError, match="a: cannot be read: its 1,000,000,000,000 bytes do not fit into memory"):
        read_file(tmp_path / "a")
    assert read_file(tmp_path / "a", 4) == b"\0\0\0\0"


def test_a_device_that_never_ends_is_refused(little_memory):
    with pytest.raises(FolderError, match="/dev/zero: cannot be read: it is a device"):
        read_file("/dev/zero")


def test_a_relative_path_without_a_current_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FolderError, match="run: there is no current folder to begin at: No such file or directory"):
        Folder("run")


def test_a_line_comes_after_those_that_were_there_and_never_beside_a_torn_one(tmp_path):
    folder = Folder(tmp_path / "run")
    folder.append_line("log", b"one")
    folder.append_line("log", b"two")
    assert folder.read("log") == b"one\ntwo\n"
    folder.write("log", b"one\ntw")
    folder.append_line("log", b"three")
    assert folder.read("log") == b"one\ntw\nthree\n"
    remote = Folder("mock:///bucket/run")
    with pytest.raises(FolderError, match="nothing can be appended"):
        remote.append_line("log", b"one")


def test_nothing_can_be_appended_where_a_folder_lies(tmp_path):
    (tmp_path / "log").mkdir()
    with pytest.raises(FolderError, match="log: cannot be written"):
        Folder(tmp_path).append_line("log", b"one")


def test_single_files_are_read_and_written_by_their_address(tmp_path, monkeypatch):
    bucket = bucket_at_s3(monkeypatch)
    for url in (tmp_path / "a" / "b.bin", f"{tmp_path}/c.bin", "s3://bucket/runs/b.bin", "s3://bucket/b.bin?region=x"):
        assert read_file(url) is None
        assert kind_of(url) is None
        write_file(url, b"one")
        assert read_file(url) == b"one"
        assert kind_of(url) == "file"
    assert sorted(bucket.objects) == ["bucket/b.bin", "bucket/runs/b.bin"]
    assert kind_of(tmp_path) == "folder"


@pytest.mark.parametrize("url", ["s3://bucket", "s3://", "s3:///", "/", "."])
def test_what_names_no_file_is_refused(url, tmp_path, monkeypatch):
    bucket_at_s3(monkeypatch)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FolderError):
        write_file(url, b"one")
    assert list(tmp_path.iterdir()) == []
