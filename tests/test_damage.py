"""Files of a run that are there and not what was written: nothing of them is believed, and what can be is made again."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from faults import timeless
from folders import trained
from listeners import noting
from test_old_runs import EXPERIMENT as EXPERIMENT_OF_0_1_0
from typer.testing import CliRunner

from oracle.cli import app
from oracle.errors import CancelledError, FolderError
from oracle.events import CancelToken, Event, PackProgress, TrialFinished
from oracle.experiment import Experiment, load_experiment
from oracle.records import read_oracle, read_trials
from oracle.runs.cycle import CycleStore
from oracle.runs.lineage import AS_IN_0_1_0, Lineages
from oracle.runs.records import attempts
from oracle.runs.tables import TRIALS, from_parquet, oracle_hash, oracle_rows, to_parquet
from oracle.search.run import run_oracle
from oracle.storage import Folder

Tiny = Callable[..., Experiment]


def stopped(experiment: Experiment, out: Path, when: Callable[[Event], bool]) -> None:
    """Search, and cancel at the first event that `when` picks."""
    token = CancelToken()

    def stop(event: Event) -> None:
        if when(event):
            token.cancel()

    with pytest.raises(CancelledError):
        run_oracle(experiment, out, executor="local", slots=1, checkpoint_seconds=0, listeners=[stop], cancel=token)


def in_the_middle_of_a_pack(event: Event) -> bool:
    return isinstance(event, PackProgress) and event.pack.startswith("c001-s1-") and 0 < event.done < 0.5


# Networks

Damage = Callable[[bytes], bytes]


def flipped(content: bytes) -> bytes:
    """One bit of the last number."""
    return content[:-1] + bytes([content[-1] ^ 1])


def _header(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    header: dict[str, str] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["header"])
    return header


def as_by_0_1_0(content: bytes, *, but: str | None = None) -> bytes:
    """The same file without a checksum; `but`: without the first tensor of this group."""
    tensors, header = safetensors.torch.load(content), _header(content)
    header.pop("sha256")
    if but is not None:
        del tensors[next(name for name in tensors if name.startswith(but))]
    return safetensors.torch.save(tensors, {"header": json.dumps(header)})


def foreign(content: bytes) -> bytes:
    return safetensors.torch.save(safetensors.torch.load(content), {"format": "pt"})


def of_another(content: bytes) -> bytes:
    return safetensors.torch.save(safetensors.torch.load(content), {"header": json.dumps({"made": "elsewhere"})})


def misshapen(content: bytes) -> bytes:
    """Without a checksum, every tensor one number."""
    header = _header(content)
    header.pop("sha256")
    tensors = {name: torch.zeros(1) for name in safetensors.torch.load(content)}
    return safetensors.torch.save(tensors, {"header": json.dumps(header)})


DAMAGES: dict[str, Damage] = {
    "one bit": flipped,
    "foreign header": foreign,
    "header of another file": of_another,
    "shapes of another network": misshapen,
}
# What is trained from its first epoch again, as (cycle, seed): all three candidates of a pack.
FILES = {
    "parents/cycle=001/seed=0-*.safetensors": [],
    "winners/cycle=000/seed=0.safetensors": [(0, 0)],
    "weights/cycle=001/c001-s0-*.safetensors": [(1, 0)],
    "checkpoints/cycle=001/c001-s1-*.safetensors": [(1, 1)],
}
GROUPS = {"parents": "weights", "winners": "weights", "weights": "weights", "checkpoints": "trainer/optimizer"}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Path, Path]:
    """An experiment, its run stopped in the middle of a pack, and its whole run."""
    from conftest import TINY

    experiment = load_experiment("digits-mlp", overrides=[*TINY, "pruning.cycles=1"])
    part, whole = tmp_path_factory.mktemp("part"), tmp_path_factory.mktemp("whole")
    stopped(experiment, part, in_the_middle_of_a_pack)
    run_oracle(experiment, whole, executor="local", slots=1)
    return experiment, part, whole


def _gone_on(begun: tuple[Experiment, Path, Path], out: Path, pattern: str, damage: Damage) -> tuple[Path, list[str]]:
    """Damage one file of a copy of the run, and go on with it. Returns the file, and what was said."""
    experiment, part, whole = begun
    shutil.copytree(part, out, dirs_exist_ok=True)
    [victim] = out.glob(pattern)
    victim.write_bytes(damage(victim.read_bytes()))
    said: list[str] = []
    run_oracle(experiment, out, executor="local", slots=1, listeners=[noting(said)])
    assert timeless(read_oracle(out)) == timeless(read_oracle(whole))
    assert timeless(read_trials(out)) == timeless(read_trials(whole))
    return victim, said


@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.parametrize("kind", [*DAMAGES, "a tensor missing", "a tensor missing, no checksum"])
def test_a_damaged_network_is_set_aside_and_made_again(
    begun: tuple[Experiment, Path, Path], tmp_path: Path, pattern: str, kind: str
) -> None:
    group = GROUPS[pattern.partition("/")[0]]

    def less(content: bytes) -> bytes:
        tensors, header = safetensors.torch.load(content), _header(content)
        del tensors[next(name for name in tensors if name.startswith(group))]
        return safetensors.torch.save(tensors, {"header": json.dumps(header)})

    more = {"a tensor missing": less, "a tensor missing, no checksum": lambda it: as_by_0_1_0(it, but=group)}
    before = trained(begun[1])
    victim, said = _gone_on(begun, tmp_path, pattern, (DAMAGES | more)[kind])
    again = trained(tmp_path)
    for start in before:
        again.remove(start)
    assert sorted({(cycle, seed) for cycle, seed, _ in again}) == FILES[pattern]
    told = [text for text in said if victim.name in text and "renamed to end in .unreadable" in text]
    assert len(told) == (0 if pattern.startswith("checkpoints") else 1), said  # a worker's own matter


@pytest.mark.parametrize("pattern", FILES)
def test_a_network_without_a_checksum_is_read_as_before(
    begun: tuple[Experiment, Path, Path], tmp_path: Path, pattern: str
) -> None:
    before = trained(begun[1])
    _, said = _gone_on(begun, tmp_path, pattern, as_by_0_1_0)
    assert trained(tmp_path) == before, "what was finished was trained again"
    assert not any("unreadable" in text for text in said)
    assert any(it["from_epoch"] > 0 for it in attempts(Folder(tmp_path))), "the pack began anew"


def test_a_damaged_network_of_a_finished_cycle_is_made_again_by_whoever_needs_it(tiny: Tiny, tmp_path: Path) -> None:
    run_oracle(tiny("pruning.cycles=0"), tmp_path, executor="local")
    victim = tmp_path / "winners/cycle=000/seed=1.safetensors"
    whole = victim.read_bytes()
    victim.write_bytes(flipped(whole))
    run_oracle(tiny("pruning.cycles=1"), tmp_path, executor="local")
    assert victim.read_bytes() == whole


def _exchanged(out: Path, pattern: str, other: Callable[[str], str]) -> None:
    """Put another file, of the same shapes, in the place of each that fits."""
    files = {path: path.with_name(other(path.name)) for path in out.glob(pattern)}
    contents = {path: next(path.parent.glob(source.name)).read_bytes() for path, source in files.items()}
    assert len(contents) == 2
    for path, content in contents.items():
        path.write_bytes(content)


@pytest.mark.parametrize("pattern", ["parents/cycle=001/seed=*.safetensors", "winners/cycle=000/seed=*.safetensors"])
def test_networks_of_two_seeds_that_were_exchanged_are_made_again(
    begun: tuple[Experiment, Path, Path], tmp_path: Path, pattern: str
) -> None:
    experiment, part, whole = begun
    shutil.copytree(part, tmp_path, dirs_exist_ok=True)
    seeds = {"0": "seed=1*", "1": "seed=0*"}
    _exchanged(tmp_path, pattern, lambda name: seeds[name.removeprefix("seed=")[0]])
    run_oracle(experiment, tmp_path, executor="local", slots=1)
    assert timeless(read_oracle(tmp_path)) == timeless(read_oracle(whole))
    assert timeless(read_trials(tmp_path)) == timeless(read_trials(whole))


def test_a_checkpoint_of_another_pack_is_not_gone_on_with(
    begun: tuple[Experiment, Path, Path], tiny: Tiny, tmp_path: Path
) -> None:
    experiment, part, whole = begun
    other = tmp_path / "other"
    stopped(tiny("pruning.cycles=1", "training.epochs=4"), other, in_the_middle_of_a_pack)
    shutil.copytree(part, tmp_path / "a")
    [own], [foreign] = ((out / "checkpoints/cycle=001").iterdir() for out in (tmp_path / "a", other))
    shutil.copy(foreign, own)
    run_oracle(experiment, tmp_path / "a", executor="local", slots=1)
    assert timeless(read_trials(tmp_path / "a")) == timeless(read_trials(whole))


def test_a_flipped_bit_in_a_winner_of_a_finished_run_is_found(
    begun: tuple[Experiment, Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(begun[2], tmp_path, dirs_exist_ok=True)
    for name in ("winners/cycle=000/seed=1.safetensors", "winners/cycle=001/seed=0.safetensors"):
        (tmp_path / name).write_bytes(flipped((tmp_path / name).read_bytes()))
    said: list[str] = []
    table = run_oracle(begun[0], tmp_path, executor="local", slots=1, listeners=[noting(said)])
    assert sum("renamed to end in .unreadable" in text for text in said) == 2
    assert timeless(table) == timeless(read_oracle(begun[2]))
    for path in (begun[2] / "winners").rglob("*.safetensors"):
        assert (tmp_path / path.relative_to(begun[2])).read_bytes() == path.read_bytes()


# Tables


def test_a_worker_in_the_place_of_another_passes_over_what_that_one_committed_alone(
    begun: tuple[Experiment, Path, Path], tmp_path: Path
) -> None:
    """A file that was there before, and whose rows were not what its name says, would be passed over for ever."""
    shutil.copytree(begun[1], tmp_path, dirs_exist_ok=True)
    folder = Folder(tmp_path)
    store = CycleStore(folder=folder, cycle=1, lineage="")
    before = folder.names("trials/cycle=001")
    assert len(before) == 1
    assert store.commits_but(before) == set()
    folder.write("trials/cycle=001/c001-s1-abc-0123.parquet", b"")
    folder.write("trials/cycle=001/c001-s1-abd-0123.parquet.unreadable", b"")
    assert store.commits_but(before) == {"c001-s1-abc"}


def test_rows_of_another_table_are_not_believed_where_decisions_are_lost(
    begun: tuple[Experiment, Path, Path], tiny: Tiny, tmp_path: Path
) -> None:
    run_oracle(tiny("pruning.cycles=1", "training.epochs=1"), tmp_path / "other", executor="local")
    shutil.copytree(begun[2], tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "decisions")
    shutil.copy(tmp_path / "other" / "oracle.parquet", tmp_path / "a" / "oracle.parquet")
    table = run_oracle(begun[0], tmp_path / "a", executor="local")
    assert timeless(table) == timeless(read_oracle(begun[2]))


def test_no_flipped_bit_of_a_commit_is_believed(begun: tuple[Experiment, Path, Path]) -> None:
    trials = read_trials(begun[2])
    content = to_parquet(trials)
    believed = 0
    for place in range(len(content)):
        damaged = content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :]
        table = from_parquet(damaged, TRIALS, where="x")
        assert table is None or table.equals(trials), f"byte {place}"
        believed += table is not None
    assert believed < 10  # the checksum's own name


def test_doubled_rows_of_the_table_are_not_kept(begun: tuple[Experiment, Path, Path], tmp_path: Path) -> None:
    shutil.copytree(begun[2], tmp_path, dirs_exist_ok=True)
    rows = oracle_rows(Folder(tmp_path))
    table = pq.read_table(tmp_path / "oracle.parquet")
    for doubled in (pa.concat_tables([table, table]), table.slice(1), table.take(pa.array([1, 0]))):
        pq.write_table(doubled, tmp_path / "oracle.parquet")
        with pytest.raises(
            FolderError, match=r"one row a cycle from 0 on.* run the same search again: it is made anew"
        ):
            oracle_rows(Folder(tmp_path))
        run_oracle(begun[0], tmp_path, executor="local")
        assert oracle_rows(Folder(tmp_path)) == rows


def test_a_changed_number_of_a_decision_is_not_believed(begun: tuple[Experiment, Path, Path], tmp_path: Path) -> None:
    shutil.copytree(begun[2], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "decisions/cycle=001.json"
    whole = file.read_bytes()
    row = json.loads(whole)["row"]
    changed = whole.replace(f'"lo": {row["lo"]}'.encode(), f'"lo": {row["lo"] / 2}'.encode())
    assert changed != whole
    file.write_bytes(changed)
    run_oracle(begun[0], tmp_path, executor="local")
    assert file.read_bytes() == whole
    assert timeless(read_oracle(tmp_path)) == timeless(read_oracle(begun[2]))


# experiment.yaml

BROKEN = {
    "missing": None,
    "empty": b"",
    "cut": b"name: tiny\nnetwork: {name",
    "not text": bytes(range(128, 256)),
    "of something else": b"services: {}\n",
}


def _break(out: Path, content: bytes | None) -> None:
    if content is None:
        (out / "experiment.yaml").unlink()
    else:
        (out / "experiment.yaml").write_bytes(content)


@pytest.mark.parametrize("kind", BROKEN)
def test_the_same_experiment_restores_its_file(begun: tuple[Experiment, Path, Path], tmp_path: Path, kind: str) -> None:
    experiment, _, whole = begun
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    _break(tmp_path, BROKEN[kind])
    shown = CliRunner().invoke(app, ["show", str(tmp_path)])
    assert isinstance(shown.exception, FolderError)
    assert "experiment.yaml" in str(shown.exception)
    assert "anew" in str(shown.exception), "names no way out"
    said: list[str] = []
    run_oracle(experiment, tmp_path, executor="local", listeners=[noting(said)])
    assert any("experiment.yaml was missing, damaged or changed, and is written anew" in text for text in said)
    assert (tmp_path / "experiment.yaml").read_bytes() == (whole / "experiment.yaml").read_bytes()
    if BROKEN[kind] is not None:
        assert (tmp_path / "experiment.yaml.unreadable").read_bytes() == BROKEN[kind]
    assert trained(tmp_path) == trained(whole)


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("change", ["training.epochs=4", "pruning.rate=0.3", "seeds=[1]", "pruning.cycles=0"])
def test_another_experiment_is_refused_where_the_file_is_damaged(
    begun: tuple[Experiment, Path, Path], tiny: Tiny, tmp_path: Path, kind: str, change: str
) -> None:
    shutil.copytree(begun[2], tmp_path, dirs_exist_ok=True)
    _break(tmp_path, BROKEN[kind])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FolderError, match=r"experiment\.yaml"):
        run_oracle(tiny("pruning.cycles=1", change), tmp_path, executor="local")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("more", ["pruning.cycles=2", "seeds=[0, 1, 2]"])
def test_more_seeds_and_more_cycles_restore_it_and_train_nothing_again(
    begun: tuple[Experiment, Path, Path], tiny: Tiny, tmp_path: Path, more: str
) -> None:
    shutil.copytree(begun[2], tmp_path, dirs_exist_ok=True)
    (tmp_path / "experiment.yaml").unlink()
    run_oracle(tiny("pruning.cycles=1", more), tmp_path, executor="local")
    first = [start for start in trained(tmp_path) if start[0] == 0]
    assert len(first) == len(set(first)), "a dense network was trained again"
    assert len(trained(tmp_path)) > len(trained(begun[2]))


def test_a_file_of_something_else_in_a_new_folder_is_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("services: {}\n")
    with pytest.raises(FolderError, match=r"experiment\.yaml"):
        run_oracle(tiny(), tmp_path, executor="local")
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.yaml"]


def test_a_file_that_does_not_fit_its_trials_is_refused_and_restored_by_their_experiment(
    begun: tuple[Experiment, Path, Path], tiny: Tiny, tmp_path: Path
) -> None:
    shutil.copytree(begun[2], tmp_path, dirs_exist_ok=True)
    other = tiny("pruning.cycles=1", "training.epochs=4")
    (tmp_path / "experiment.yaml").write_text(other.to_yaml())
    foreign = r"its trials are of another experiment than experiment\.yaml says.* writes it anew"
    with pytest.raises(FolderError, match=foreign):
        run_oracle(other, tmp_path, executor="local")
    with pytest.raises(FolderError, match=foreign):
        read_trials(tmp_path)
    run_oracle(begun[0], tmp_path, executor="local")
    assert (tmp_path / "experiment.yaml").read_bytes() == (begun[2] / "experiment.yaml").read_bytes()
    assert trained(tmp_path) == trained(begun[2])


@pytest.mark.parametrize(
    "stray",
    [
        "trials/cycle=000/merged-000.parquet.bak",
        "trials/cycle=000/merged-.parquet",
        "parents/cycle=000/seed=0-x (copy)",
    ],
)
def test_a_stray_file_does_not_bar_a_folder(begun: tuple[Experiment, Path, Path], tmp_path: Path, stray: str) -> None:
    shutil.copytree(begun[2], tmp_path, dirs_exist_ok=True)
    Folder(tmp_path).write(stray, b"")
    run_oracle(begun[0], tmp_path, executor="local")
    assert trained(tmp_path) == trained(begun[2])


# Runs that are stopped in their first cycle, and lose experiment.yaml


@pytest.fixture
def in_its_first_cycle(tiny: Tiny, tmp_path: Path) -> Path:
    stopped(tiny(), tmp_path, lambda event: isinstance(event, TrialFinished))
    (tmp_path / "experiment.yaml").unlink()
    return tmp_path


def test_another_experiment_never_mixes_with_the_trials_there(tiny: Tiny, in_its_first_cycle: Path) -> None:
    names = Folder(in_its_first_cycle).names()
    with pytest.raises(FolderError, match=r"experiment\.yaml"):
        run_oracle(tiny("training.epochs=4"), in_its_first_cycle, executor="local")
    assert Folder(in_its_first_cycle).names() == names


def test_the_same_experiment_goes_on_with_the_trials_there(tiny: Tiny, in_its_first_cycle: Path) -> None:
    run_oracle(tiny(), in_its_first_cycle, executor="local")
    starts = trained(in_its_first_cycle)
    assert len(starts) == len(set(starts)) == 18  # 3 cycles, 3 rates, 2 seeds


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).parent / "data" / "run-of-0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run-of-0.1.0"


def test_a_run_of_0_1_0_without_its_file_and_table_is_refused(old: Path) -> None:
    (old / "experiment.yaml").unlink()
    (old / "oracle.parquet").unlink()  # as if it had been stopped in its first cycle
    with pytest.raises(FolderError, match=r"experiment\.yaml"):
        run_oracle(EXPERIMENT_OF_0_1_0, old, executor="local")


def test_a_run_of_0_1_0_is_known_by_its_table(old: Path) -> None:
    (old / "experiment.yaml").write_bytes(b"")
    assert oracle_hash(Folder(old)) == EXPERIMENT_OF_0_1_0.hash
    before = trained(old)
    table = run_oracle(EXPERIMENT_OF_0_1_0, old, executor="local")
    assert table.num_rows == 3
    assert len(trained(old)) == len(before) + 1
    other = EXPERIMENT_OF_0_1_0.model_copy(update={"tolerance": 0.01})
    (old / "experiment.yaml").write_bytes(b"")
    with pytest.raises(FolderError, match=r"experiment\.yaml"):
        run_oracle(other, old, executor="local")


def test_a_run_of_0_1_0_that_lost_its_first_trials_keeps_the_others(old: Path) -> None:
    later = sum(1 for cycle, _, _ in trained(old) if cycle > 0)
    shutil.rmtree(old / "trials/cycle=000")
    run_oracle(EXPERIMENT_OF_0_1_0, old, executor="local", slots=1)
    assert sum(1 for cycle, _, _ in trained(old) if cycle > 0) <= later + 1  # the one that it had not trained
    assert read_oracle(old).num_rows == 3


# What names a chain


def test_a_lineage_holds_the_experiment_but_not_what_a_run_may_have_more_of(tiny: Tiny) -> None:
    def first(*overrides: str) -> str:
        return Lineages(experiment=tiny(*overrides)).after([])

    same = [
        first(),
        first("seeds=[5, 6, 7]"),
        first("pruning.cycles=9"),
        first("data.path=null"),
        first("diagnostics=true"),
    ]
    assert len(set(same)) == 1
    others = [
        first("training.epochs=4"),
        first("pruning.rate=0.3"),
        first("tolerance=0.01"),
        first("grid.values=[0.02, 0.1]"),
        first("peaks=0.1"),
        AS_IN_0_1_0.after([]),
    ]
    assert len({*same, *others}) == 7


def test_a_lineage_holds_the_peaks_so_far_alone(tiny: Tiny) -> None:
    short = Lineages(experiment=tiny("peaks=[0.1, 0.2, 0.3]"))
    long = Lineages(experiment=tiny("pruning.cycles=3", "peaks=[0.1, 0.2, 0.3, 0.4]"))
    other = Lineages(experiment=tiny("peaks=[0.1, 0.3, 0.3]"))
    assert [short.after([0.1] * m) for m in range(3)] == [long.after([0.1] * m) for m in range(3)]
    assert short.after([]) == other.after([])
    assert short.after([0.1]) != other.after([0.1])
    ends = [0.1, 0.2, 0.3]
    assert short.of_winners(ends) == long.of_winners(ends)  # though the longer run has a peak after them
