"""Bad input on the command line: whatever a user gives, exit status 2 and one short message that names it."""

import os
import sys

import pytest

import oracle.cli
import silo_fit.cli

LAUGHS = "a0: &a0 [lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
CONVERT = ("--network", "mobilenetv2", "--side", "32", "--out", "out.safetensors")


def words(value):
    """The start of a command, as a test's name."""
    return " ".join(value)[:60] if isinstance(value, tuple) else ""


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder of things that are no files: what it said on standard error, after exit status 2."""
    monkeypatch.chdir(tmp_path)
    for name in ("pipe.yaml", "pipe.csv", "pipe.pth", "run/oracle.parquet", "run/experiment.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(name)
    for name in ("device.yaml", "device.csv", "device.parquet"):
        (tmp_path / name).symlink_to("/dev/null")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "laughs.yaml").write_text(LAUGHS)
    (tmp_path / "keys.yaml").write_text("".join(f"k{number}: 1\n" for number in range(70_000)))
    (tmp_path / "holes.yaml").touch()
    os.truncate("holes.yaml", 10**12)
    before = sorted(tmp_path.rglob("*"))

    def run(command, *arguments):
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        with pytest.raises(SystemExit) as done:
            {"oracle": oracle.cli.main, "silo-fit": silo_fit.cli.main}[command]()
        assert done.value.code == 2
        assert sorted(tmp_path.rglob("*")) == before
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("command", ["search", "plan"])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("pipe.yaml",), "pipe.yaml: cannot be read: it is a pipe, expected a file"),
        (("device.yaml",), "device.yaml: cannot be read: it is a device, expected a file"),
        (("folder.yaml",), "folder.yaml: cannot be read: it is a folder, expected a file"),
        (("laughs.yaml",), "laughs.yaml: line 6: it holds 29,634 values or more"),
        (("keys.yaml",), "keys.yaml: line 1001: a mapping has more than 1,000 keys"),
        (("holes.yaml",), "holes.yaml: holds more than 1,000,000 bytes"),
        (("a\ud800b.yaml",), "holds half of a surrogate pair"),
        (("a\0b.yaml",), "holds a NUL character"),
        (("a" * 300 + ".yaml",), "File name too long"),
        (("digits-mlp", "--set", "name=!!timestamp abc"), "line 1: found the tag !!timestamp"),
        (("digits-mlp", "--set", 'training.epochs=!!int ""'), "line 1: found the tag !!int"),
        (("digits-mlp", "--set", "optimizer.weight_decay=1e308"), "optimizer.weight_decay: found 1e+308"),
        (("digits-mlp", "--set", f"training.batch_size={10**400}"), "training.batch_size: found 1000"),
        (("digits-mlp", "--set", 'data.path="a\\0b"'), r"data.path: 'a\x00b' holds a NUL character"),
        (("digits-mlp", "--data", "gr\udcfcn"), "is not UTF-8 text: it holds half of a surrogate pair"),
        (("digits-mlp", "--data", "a" * 100_000), "data.path: found 'aaaa"),
        (("digits-mlp", "--set", "network.weights=pipe.pth"), "pipe.pth: cannot be read: it is a pipe"),
        (("digits-mlp", "--set", "network.weights=device.csv"), "device.csv: cannot be read: it is a device"),
        (("digits-mlp", "--set", 'network.weights="a\\0b"'), r"network.weights: 'a\x00b' holds a NUL character"),
        (("digits-mlp", "--set", "network.weights=" + "a" * 300), "File name too long"),
        (("digits-mlp", "--out", "a" * 300), "File name too long"),
        (("digits-mlp", "--out", "a\0b"), "holds a NUL character"),
        (("digits-mlp", "--out", "run"), "cannot be read: it is a pipe"),
    ],
    ids=words,
)
def test_a_search_and_a_plan_refuse_in_short(refused, command, arguments, named):
    said = refused("oracle", command, *arguments, "--executor", "local")
    assert said.startswith("error: ")
    assert named in said
    assert len(said) < 2000


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("oracle", "show", "run"), "run/experiment.yaml: cannot be read: it is a pipe"),
        (("oracle", "show", "a" * 5000), "File name too long"),
        (("oracle", "convert", "pipe.pth", "--classes", "3", *CONVERT), "pipe.pth: cannot be read: it is a pipe"),
        (("oracle", "convert", "a\0b", "--classes", "3", *CONVERT), "holds a NUL character"),
        (("oracle", "convert", "a" * 300, "--classes", "3", *CONVERT), "File name too long"),
        (("oracle", "convert", "pipe.pth", "--classes", str(10**30), *CONVERT), "expected at most 100,000 classes"),
        (("silo-fit", "fit", "pipe.csv"), "pipe.csv: cannot be read: it is a pipe"),
        (("silo-fit", "fit", "device.csv"), "device.csv: cannot be read: it is a device"),
        (("silo-fit", "fit", "device.parquet"), "device.parquet: cannot be read: it is a device"),
        (("silo-fit", "fit", "run"), "run/oracle.parquet: cannot be read: it is a pipe"),
        (("silo-fit", "fit", "a\0b.csv"), "holds a NUL character"),
        (("silo-fit", "fit", "a\ud800b.csv"), "holds half of a surrogate pair"),
        (("silo-fit", "fit", "a" * 5000 + ".csv"), "a.csv"),
        (("silo-fit", "fit", "paper:" + "a" * 5000), "the paper has no table"),
        (("silo-fit", "check", "pipe.csv", "--eps", "1", "--delta", "1"), "pipe.csv: cannot be read: it is a pipe"),
        (("silo-fit", "report", "pipe.csv"), "pipe.csv: cannot be read: it is a pipe"),
        (("silo-fit", "report", "paper:resnet20", "--out", "a\0b"), "holds a NUL character"),
        (
            ("silo-fit", "report", "paper:resnet20", "--out", "device.csv"),
            "device.csv: cannot be written: it is a device",
        ),
        (("silo-fit", "report", "paper:resnet20", "--out", "a" * 300), "File name too long"),
    ],
    ids=words,
)
def test_the_other_commands_refuse_in_short(refused, arguments, named):
    said = refused(*arguments)
    assert said.startswith("error: ")
    assert named in said
    assert len(said) < 2000
