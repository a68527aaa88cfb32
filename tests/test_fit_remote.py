"""Tables read from an object store, and reports written to one; what cannot be done there is a message, no traceback."""

import io
import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from oracle.errors import FolderError, TableError
from silo_fit.fit import fit
from silo_fit.report import find_trials, write_report
from silo_fit.tables import read_intervals

ROWS = {"cycle": [0, 3], "lo": [0.03, 0.05], "max_lr": [0.04, 0.06], "hi": [0.05, 0.07]}
CSV = b"cycle,lo,max_lr,hi\n0,0.03,0.04,0.05\n3,0.05,0.06,0.07\n"


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """An object store in memory, at s3://; the local folder is empty, and should stay so."""
    store = MemoryFileSystem(skip_instance_cache=True)
    store.store, store.pseudo_dirs = {}, [""]  # its own, not those that all of them share

    def from_uri(url):
        if not url.startswith("s3://"):
            raise pa.ArrowInvalid(f"Unrecognized filesystem type in URI: {url}")
        path = url.removeprefix("s3:/").partition("?")[0]  # in this store names begin with /
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(store)), path

    monkeypatch.setattr(pyarrow.fs, "FileSystem", SimpleNamespace(from_uri=from_uri))
    monkeypatch.chdir(tmp_path)
    return store


@pytest.fixture
def run(bucket):
    """A run's folder in the bucket, with nothing but its table."""
    content = io.BytesIO()
    pq.write_table(pa.table(ROWS).replace_schema_metadata({"pruning_rate": "0.2", "name": "mine"}), content)
    bucket.pipe_file("/bucket/run/oracle.parquet", content.getvalue())
    return "s3://bucket/run"


@pytest.mark.parametrize("place", ["", "/", "?region=eu", "/oracle.parquet", "/oracle.parquet?region=eu"])
def test_a_run_in_an_object_store_is_read(run, place):
    intervals = read_intervals(run + place)
    assert (intervals.cycles.tolist(), intervals.hi.tolist()) == (ROWS["cycle"], ROWS["hi"])
    assert dict(intervals.metadata)["name"] == "mine"


def test_a_csv_file_in_an_object_store_is_read(bucket):
    bucket.pipe_file("/bucket/mine.csv", CSV)
    assert read_intervals("s3://bucket/mine.csv", pruning_rate=0.2).lo.tolist() == ROWS["lo"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("s3://bucket/nowhere", "s3://bucket/nowhere: no such file or folder"),
        ("s3://bucket/nowhere.csv", "no such file or folder"),
        ("s3://bucket/run/trials", r"no oracle\.parquet in this folder"),
        ("s3://bucket/run/table.txt", r"not a \.csv or \.parquet file"),
        ("s3://bucket/run/false.parquet", "cannot be read"),
        ("nowhere://bucket/run", "is not a location that can be opened"),
        ("a\0b.csv", "holds a NUL character"),
        ("~nobody-of-this-name/a.csv", "no such home folder"),
    ],
)
def test_what_cannot_be_read_is_refused_as_a_table(run, bucket, source, said):
    for name in ("trials/a.parquet", "table.txt", "false.parquet"):
        bucket.pipe_file(f"/bucket/run/{name}", b"no parquet")
    with pytest.raises(TableError, match=said):
        read_intervals(source)


def test_a_table_that_may_not_be_read_is_refused(run, bucket, monkeypatch):
    denied = []

    def deny(path, **options):
        denied.append(path)
        raise PermissionError(13, "Access Denied", path)

    monkeypatch.setattr(bucket, "open", deny)
    with pytest.raises(TableError, match=r"oracle\.parquet: cannot be read: .*Access Denied"):
        read_intervals(run)
    assert denied


@pytest.mark.parametrize("end", ["", "/", "?region=eu"])
def test_the_report_of_a_run_in_an_object_store_lies_in_the_runs_folder(silo_fit, run, bucket, tmp_path, end):
    code, out, err = silo_fit("report", run + end, "--trials", "2", "--json")
    assert (code, err) == (0, "")
    page = bucket.cat_file("/bucket/run/report.html")
    assert b"2 of 2 intervals hit" in page
    assert json.loads(out)["bytes"] == len(page)
    assert json.loads(out)["report"] == f"s3://bucket/run/report.html{end.strip('/')}"
    assert list(tmp_path.iterdir()) == []


def test_a_report_may_be_written_anywhere_in_an_object_store(silo_fit, run, bucket, tmp_path):
    for source in (run, "paper:vgg19"):
        code, out, _ = silo_fit("report", source, "--trials", "2", "--out", "s3://bucket/new/folder/mine.html")
        assert code == 0
        assert out.startswith("s3://bucket/new/folder/mine.html: ")
        assert bucket.cat_file("/bucket/new/folder/mine.html").startswith(b"<!doctype html>")
        bucket.rm_file("/bucket/new/folder/mine.html")
    assert list(tmp_path.iterdir()) == []


def test_the_report_of_a_table_in_an_object_store_lies_here(silo_fit, run, tmp_path):
    code, out, _ = silo_fit("report", f"{run}/oracle.parquet", "--trials", "2")
    assert code == 0
    assert out.startswith("report.html: ")
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("out", ["s3://bucket", "s3://other", "s3://bucket/run", "s3://bucket/new/", "{here}"])
def test_a_report_that_is_to_be_a_folder_is_refused(silo_fit, run, bucket, tmp_path, out):
    before = sorted(bucket.store)
    out = out.format(here=tmp_path)
    code, _, err = silo_fit("report", run, "--trials", "2", "--out", out)
    assert code == 2
    assert err == f"error: {out}: is a folder; name a file in it, as in {out.rstrip('/')}/report.html\n"
    assert sorted(bucket.store) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["nowhere://bucket/report.html", "a\0b.html", "~nobody-of-this-name/report.html"])
def test_a_location_that_is_none_is_refused_without_a_traceback(silo_fit, run, out):
    code, _, err = silo_fit("report", run, "--trials", "2", "--out", out)
    assert code == 2
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_a_report_that_may_not_be_written_is_refused_without_a_traceback(silo_fit, run, bucket, monkeypatch):
    opened, denied = bucket.open, []

    def deny(path, mode="rb", **options):
        if "w" in mode:
            denied.append(path)
            raise PermissionError(13, "Access Denied", path)
        return opened(path, mode, **options)

    monkeypatch.setattr(bucket, "open", deny)
    code, _, err = silo_fit("report", run, "--trials", "2")
    assert code == 2
    assert denied
    assert err == "error: s3://bucket/run/report.html: cannot be written: Access Denied\n"


def test_a_report_in_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("I am a file")
    with pytest.raises(FolderError, match="cannot be written"):
        write_report(fit(read_intervals("paper:vgg19"), trials=2), tmp_path / "file" / "report.html")
    assert (tmp_path / "file").read_text() == "I am a file"


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("runs/mine", "runs/mine"),
        ("runs/mine/oracle.parquet", "runs/mine"),
        ("oracle.parquet", "."),
        ("/oracle.parquet", "/"),
        ("s3://bucket/run?region=eu", "s3://bucket/run?region=eu"),
        ("s3://bucket/run/oracle.parquet?region=eu", "s3://bucket/run?region=eu"),
        ("runs/mine.csv", None),
        ("s3://bucket/mine.parquet?region=eu", None),
        ("paper:vgg19", None),
    ],
)
def test_trials_are_looked_for_in_the_folder_of_the_run(monkeypatch, source, folder):
    asked = []
    monkeypatch.setattr("oracle.records.read_trials", lambda out: asked.append(out) or pa.table({"cycle": [0]}))
    assert (find_trials(source) is None) == (folder is None)
    assert asked == ([] if folder is None else [folder])
