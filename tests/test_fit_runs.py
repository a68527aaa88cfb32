"""A run's folder, fitted: its estimates are read, or computed where its version wrote none; its page in a real browser."""

import json
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from test_report import browse

from oracle.chain import run_oracle
from oracle.errors import TableError
from oracle.experiment import load_experiment
from oracle.runs.tables import ESTIMATED, to_parquet
from silo_fit.fit import fit
from silo_fit.report import find_trials, write_report
from silo_fit.tables import read_intervals

pytestmark = pytest.mark.slow
LATE = ("lo_outside", "hi_outside", *ESTIMATED)  # columns that the first versions did not write


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three cycles of eight candidates and three seeds, in seconds."""
    folder = tmp_path_factory.mktemp("run") / "new"
    changes = ["pruning.cycles=2", "training.epochs=4", "grid.points=8", "seeds=[0, 1, 2]"]
    run_oracle(load_experiment("digits-mlp", overrides=changes), str(folder), executor="local")
    return folder


@pytest.fixture
def old(run, tmp_path):
    """The same as a version that knew no estimates left it."""
    folder = tmp_path / "old"
    shutil.copytree(run, folder)
    table = pq.read_table(folder / "oracle.parquet")
    known = [name for name in LATE if name in table.column_names]
    assert len(known) == len(LATE)  # else this is no older run
    (folder / "oracle.parquet").write_bytes(to_parquet(table.drop_columns(known)))
    (folder / "p_within.parquet").unlink()
    return folder


def told(source):
    """All that a fit says, but for where it came from."""
    fields = fit(read_intervals(source), trials=5).as_dict()
    return json.dumps(fields | {"source": ""})


def test_a_run_comes_with_estimates_by_its_folder_and_by_its_table(run):
    for source in (run, run / "oracle.parquet"):
        intervals = read_intervals(source)
        assert intervals.kinds == ("sure", "estimated", "possible")
        assert intervals.estimates.has_probabilities
        assert intervals.warnings == ()


def test_what_an_older_run_lacks_is_computed_and_not_written(run, old):
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    assert told(old) == told(run)
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_a_run_whose_estimates_cannot_be_computed_is_fitted_all_the_same_and_that_is_said(old):
    (old / "experiment.yaml").write_text("name: [")
    found = fit(read_intervals(old), trials=5)
    assert found.verdict is None
    assert any(notice.startswith("how sure the intervals are cannot be told: ") for notice in found.notices)


def test_a_run_of_one_max_lr_a_cycle_has_nothing_to_fit(tmp_path):
    changes = ["pruning.cycles=1", "training.epochs=2", "peaks=0.1", "seeds=[0]"]
    run_oracle(load_experiment("digits-mlp", overrides=changes), str(tmp_path / "peaks"), executor="local")
    with pytest.raises(TableError, match="no cycle was searched, as one max_lr alone was trained at each"):
        read_intervals(tmp_path / "peaks")


def test_costs_are_those_of_the_whole_grid_however_little_of_it_was_tried(tmp_path):
    changes = ["pruning.cycles=1", "training.epochs=2", "grid.points=24", "seeds=[0, 1]", "search.strategy=adaptive"]
    run_oracle(load_experiment("digits-mlp", overrides=changes), str(tmp_path / "few"), executor="local")
    intervals = read_intervals(tmp_path / "few")
    assert max(row["num_candidates"] for row in intervals.estimates.rows) < 24
    assert fit(intervals, trials=5).trainings["greedy_oracle"] == 24 * 2 * 2


def test_reading_and_fitting_runs_load_neither_torch_nor_ray(old):
    code = (
        "import sys; from silo_fit.cli import app; "
        f"app(['fit', {str(old)!r}, '--trials', '2', '--json'], standalone_mode=False); "
        "print([name for name in ('torch', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert '"verdict"' in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_page_of_a_run_draws_the_accuracy_curve_of_the_cycle_that_is_chosen(run, tmp_path):
    path = tmp_path / "report.html"
    write_report(fit(read_intervals(run), trials=5), path, trials=find_trials(str(run)))
    choose = 'menu.value = "2"; menu.dispatchEvent(new Event("change"));'
    said = {}
    for name, more in (("first", ""), ("last", choose)):
        page = tmp_path / f"{name}.html"
        page.write_text(path.read_text().replace("</script>\n</body>", f"{more}\n</script>\n</body>"))
        document, console = browse(f"file://{page}", tmp_path, "--dump-dom")
        assert console == []
        drawn = document.split('id="accuracy"')[1].split("<h2>")[0]
        assert "main-svg" in drawn
        said[name] = document.split('id="said"')[1].split("</span>")[0]
        assert "may be" in said[name]
    assert said["first"] != said["last"]
