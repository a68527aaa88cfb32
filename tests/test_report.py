"""The report, opened in a real browser where there is one."""

import dataclasses
import json
import re
import shutil
import subprocess
from html import escape

import numpy as np
import pyarrow as pa
import pytest

from silo_fit import words
from silo_fit.curve import SiloCurve
from silo_fit.figures import heat_map
from silo_fit.fit import fit
from silo_fit.report import render, write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
    "--enable-logging=stderr", "--virtual-time-budget=5000",
)  # fmt: skip
RATES = [0.01, 0.02, 0.03, 0.05, 0.08, 0.13]


@pytest.fixture(scope="module")
def trials():
    """Six candidates and two seeds in each of eight cycles; the highest rate diverges for seed 1 of even cycles."""
    true = SiloCurve(eps=0.02, delta=0.06, q=1, beta=5, pruning_rate=0.2)
    rows = []
    for cycle in range(8):
        for rate in RATES:
            for seed in range(2):
                diverged = rate == RATES[-1] and seed == 1 and cycle % 2 == 0
                accuracy = None if diverged else 0.9 - 0.04 * abs(np.log(rate / true(cycle))) - 0.001 * seed
                outcome = "diverged" if diverged else "finished"
                rows.append(
                    {"cycle": cycle, "seed": seed, "max_lr": rate, "outcome": outcome, "val_accuracy": accuracy}
                )
    return pa.Table.from_pylist(rows)


@pytest.fixture(scope="module")
def result():
    true = SiloCurve(eps=0.02, delta=0.06, q=1, beta=5, pruning_rate=0.2)
    best = true(np.arange(8))
    best[6] = 0.01  # a cycle that no curve can hit together with the others
    rows = {"cycle": range(8), "lo": 0.8 * best, "max_lr": best, "hi": 1.2 * best}
    table = pa.table(rows).replace_schema_metadata(
        {"pruning_rate": "0.2", "name": "</script><b>mine", "tolerance": "0.005"}
    )
    return fit(table, trials=10)


@pytest.fixture(scope="module")
def page(result, trials, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(result, path, trials=trials)
    return path


def browse(url, folder, *flags):
    """Open a page in the browser; return its final document and what it said on the console."""
    if BROWSER is None:
        pytest.skip("no chromium on this machine: the report is not opened in a browser")
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, url]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
def test_report_opens_without_errors_and_draws_both_plots(page, tmp_path):
    document, console = browse(f"file://{page}", tmp_path, "--dump-dom")
    assert console == []
    for name in ("curve", "heat"):
        plot = document.split(f'id="{name}"')[1].split("<h2>")[0]
        assert "main-svg" in plot, name


@pytest.mark.slow
def test_an_error_on_the_page_would_be_noticed(page, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("\ndraw();", "\ndraw(); nothing.here();"))
    assert browse(f"file://{broken}", tmp_path, "--dump-dom")[1] != []


@pytest.mark.slow
def test_page_is_no_wider_than_a_phone(page, tmp_path):
    """Browsers open no window as narrow as a phone, so the page is put in a frame of 390 points."""
    frame = tmp_path / "frame.html"
    measure = "document.title = document.querySelector('iframe').contentDocument.documentElement.scrollWidth"
    frame.write_text(
        f'<iframe src="file://{page}" width="390" height="800" style="border:0"></iframe>'
        f"<script>setTimeout(() => {{ {measure} }}, 2000)</script>"
    )
    document, _ = browse(f"file://{frame}", tmp_path, "--dump-dom", "--disable-web-security")
    assert 300 < int(re.search(r"<title>(\d+)</title>", document).group(1)) <= 390


def test_report_loads_nothing_from_elsewhere(page):
    html = page.read_text()
    own = html.replace(html[html.index("/**", html.index('type="application/json"')) : html.rindex("<script>")], "")
    assert "default-src 'none'" in own
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", own)


def test_names_from_the_table_cannot_become_markup(page):
    html = page.read_text()
    assert "&lt;/script&gt;&lt;b&gt;mine" in html
    assert "<b>mine" not in html


def test_a_name_like_a_placeholder_is_a_name(result):
    named = dataclasses.replace(result.intervals, metadata=(("name", "[[PLOTLY]] [[FIGURES]]"),))
    html = render(dataclasses.replace(result, intervals=named))
    assert "<h1>[[PLOTLY]] [[FIGURES]]</h1>" in html
    assert html.count("<script") == render(result).count("<script")


@pytest.mark.parametrize("tolerance", ["abc", "nan", "-1"])
def test_a_tolerance_that_is_none_is_the_papers(result, trials, tolerance):
    described = dataclasses.replace(result.intervals, metadata=(("tolerance", tolerance),))
    plain = dataclasses.replace(result.intervals, metadata=())
    one, other = (heat_map(dataclasses.replace(result, intervals=it), trials).to_json() for it in (described, plain))
    assert one == other


def test_report_tells_what_the_fit_found(page, result):
    html = page.read_text()
    assert f"<strong>{result.hits} of 8 intervals hit</strong>" in html
    assert html.count('class="no"') == 8 - result.hits > 0
    for said in result.determined.values():
        assert said in html
    assert result.versions["optuna"] in html


def test_report_draws_the_whole_comparison(page, result):
    html = page.read_text()
    for row in words.comparison(result):
        assert f"<td>{'</td><td>'.join(map(escape, row))}</td>" in html


def test_heat_map_shows_the_gap_to_the_cycles_best_clipped_and_marks_diverged_candidates(result, trials):
    figure = json.loads(heat_map(result, trials).to_json())
    heat, crosses = figure["data"][0], figure["data"][1]
    custom = np.array(heat_map(result, trials).data[0].customdata, dtype=float)
    gaps = custom[..., 1]
    assert np.nanmin(gaps, axis=0) == pytest.approx(np.zeros(8))
    assert np.nanmax(np.array(heat_map(result, trials).data[0].z, dtype=float)) == heat["zmax"] < np.nanmax(gaps)
    assert crosses["name"] == "diverged"
    assert len(crosses["x"]) == 4
    assert np.isnan(gaps[-1, ::2]).all()


def test_trial_told_twice_counts_once(result, trials):
    twice = pa.concat_tables([trials, trials])
    assert heat_map(result, twice).to_json() == heat_map(result, trials).to_json()


def test_report_without_trials_has_no_heat_map(result):
    html = render(result)
    assert 'id="curve"' in html
    assert 'id="heat"' not in html
