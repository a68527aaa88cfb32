"""One HTML file that stands alone: an Oracle's intervals, SILO's curve, accuracies, parameters, settings.

plotly.js is written into the file, which therefore needs no network and weighs about 5 MB. A content policy in the page
(data/report.html) forbids it to load anything from elsewhere.
"""

import json
import re
from dataclasses import asdict
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plotly.offline import get_plotlyjs

from oracle.errors import FolderError
from oracle.storage import expanded, file_within, kind_of, parted, write_file
from silo_fit import words
from silo_fit.figures import accuracy_figures, curve_figure, heat_map
from silo_fit.result import Fit

if TYPE_CHECKING:
    import pyarrow

_METADATA_LABELS = {
    "name": "name", "experiment": "experiment", "version": "version of the table", "tolerance": "tolerance of the intervals"
}  # fmt: skip
_SETTING_LABELS = {
    "q": "searched q", "beta": "searched beta", "seed": "seed", "trials": "trials",
    "tolerance": "forgiven at an interval's end, of the largest hi",
}  # fmt: skip

_HEAT_SECTION = """
<h2>Accuracy of every candidate</h2>
<p>Colour: how far the mean validation accuracy lies below the cycle's best, clipped. Crosses: diverged.</p>
<div id="heat" class="plot"></div>"""

_ACCURACY_SECTION = """
<h2>Accuracy curve of a cycle</h2>
<p>What the trials tell of the mean accuracy of ever more seeds, with its 95% band. Shaded: what is surely in the interval,
dark, and what may be, light. The curve stays level where accuracies are hopeless: how bad they are is not asked.</p>
<p><label>Cycle <select id="cycle">[OPTIONS]</select></label> <span id="said"></span></p>
<div id="accuracy" class="plot"></div>"""


def find_trials(source: str) -> "pyarrow.Table | None":
    """Read the trials of a search's folder, or of the folder of its oracle.parquet; None where there are none."""
    from oracle.records import read_trials

    folder = _run_folder(source)
    if folder is None:
        return None
    try:
        trials = read_trials(folder)
    except FolderError:
        return None  # a folder with an oracle.parquet and nothing else is a table
    return trials if trials.num_rows else None


def _run_folder(source: str) -> str | None:
    """The folder that a source of intervals is, or whose oracle.parquet it is; None for any other table."""
    folder, name = parted(source)
    if name == "oracle.parquet":
        return folder
    return None if source.startswith("paper:") or name.endswith((".csv", ".parquet")) else source


def report_target(source: str, out: str | None) -> str:
    """Where a report goes: as told; else report.html in the folder that was read, or here for a table."""
    if out is not None:
        return out if "://" in out else str(expanded(out))
    return file_within(source, "report.html") if kind_of(source) == "folder" else "report.html"


def write_report(fit: Fit, target: str | Path, *, trials: "pyarrow.Table | None" = None) -> int:
    """Write the report of a fit, here or in an object store, with a heat map if there are trials; return its bytes.

    Raises FolderError where it cannot be written, or `target` names a folder.
    """
    where = str(target)
    only_a_bucket = parted(where)[0].endswith("://")
    if kind_of(where) == "folder" or only_a_bucket or where.endswith("/"):
        raise FolderError(f"{where}: is a folder; name a file in it, as in {file_within(where, 'report.html')}")
    page = render(fit, trials=trials).encode()
    write_file(where, page)
    return len(page)


def render(fit: Fit, *, trials: "pyarrow.Table | None" = None) -> str:
    """Return the page."""
    title = dict(fit.intervals.metadata).get("name", fit.intervals.name)
    heat = None if trials is None else heat_map(fit, trials)
    figures = {"curve": curve_figure(fit), **({} if heat is None else {"heat": heat})}
    cycles = accuracy_figures(fit, trials)
    drawn = {name: json.loads(figure.to_json()) for name, figure in figures.items()}
    if cycles:
        drawn["accuracy"] = [json.loads(figure.to_json()) for _, figure in cycles]
    parts = {
        "TITLE": escape(title),
        "HEADLINE": _headline(fit),
        "VERDICT": _verdict(fit),
        "NOTICES": "".join(f"<li>{escape(notice)}</li>" for notice in fit.notices),
        "HEAT": "" if heat is None else _HEAT_SECTION,
        "ACCURACY": _accuracy_section([cycle for cycle, _ in cycles]),
        "CYCLES": _cycles_table(fit),
        "CERTAINTY": _certainty(fit),
        "PARAMETERS": _parameters(fit),
        "COMPARISON": _table(["", "", ""], _escaped(words.comparison(fit))),
        "SETTINGS": _table(["", ""], _escaped(_settings(fit).items())),
        "FIGURES": _embedded(drawn),
        "SAID": _embedded([_said_of(fit, cycle) for cycle, _ in cycles]),
        "PLOTLY": get_plotlyjs(),
    }
    page = (resources.files("silo_fit") / "data" / "report.html").read_text("utf-8")
    return re.sub(r"\[\[([A-Z]+)\]\]", lambda found: parts[found[1]], page)


def _headline(fit: Fit) -> str:
    said = [words.smallest_margin(fit), words.rise(fit)]
    more = "".join(f" {sentence[0].upper()}{sentence[1:]}." for sentence in said if sentence)
    return f"<strong>{words.hits(fit)}</strong>; {escape(words.proof(fit) + '.' + more)}"


def _verdict(fit: Fit) -> str:
    if fit.verdict is None:
        return ""
    said = fit.verdict.sentence
    remarks = words.remarks(fit.verdict)
    beside = f" {escape(remarks[0].upper() + remarks[1:])}." if remarks else ""
    return f'<p class="{fit.verdict.outcome}"><strong>{escape(said[0].upper() + said[1:])}.</strong>{beside}</p>'


def _accuracy_section(cycles: list[int]) -> str:
    options = "".join(f'<option value="{place}">{cycle}</option>' for place, cycle in enumerate(cycles))
    return _ACCURACY_SECTION.replace("[OPTIONS]", options) if cycles else ""


def _said_of(fit: Fit, cycle: int) -> str:
    """How sure a cycle is, beside the menu that names it."""
    place = next(place for place, row in enumerate(fit.per_cycle) if row.cycle == cycle)
    return (words.certainty(fit.intervals, place) or "").removeprefix(f"cycle {cycle}: ")


def _parameters(fit: Fit) -> str:
    head, rows = words.parameter_table(fit)
    table = _table(_escaped([head])[0], _escaped(rows))
    kinds = words.kinds(fit)
    return (
        _table(["intervals", "hit by the curve", "most that any curve hits"], _escaped(kinds)) if kinds else ""
    ) + table


def _certainty(fit: Fit) -> str:
    head, rows = words.certainty_table(fit.intervals, fit.per_cycle, fit.verdict)
    return "<h2>How sure</h2>" + _table(_escaped([head])[0], _escaped(rows), numbers=True) if rows else ""


def _cycles_table(fit: Fit) -> str:
    edges = set(fit.edge_limited or ())
    rows = []
    for row in fit.per_cycle:
        inside = '<span class="yes">yes</span>' if row.inside else '<span class="no">no</span>'
        remaining = 100 * (1 - fit.curve.pruning_rate) ** row.cycle
        rows.append(
            [
                str(row.cycle),
                inside + (" (edge)" if row.on_edge else ""),
                f"{row.silo:.4g}",
                f"{row.lo:.4g} to {row.hi:.4g}" + (" *" if row.cycle in edges else ""),
                f"{row.max_lr:.4g}",
                words.margin(row),
                f"{remaining:.3g}%",
            ]
        )
    head = ["cycle", "inside", "SILO", "interval", "optimum", "margin", "weights left"]
    note = "<p>* ends on the grid's edge, so it may be wider than it looks.</p>" if edges else ""
    return _table(head, rows, numbers=True) + note


def _settings(fit: Fit) -> dict[str, str]:
    """Where the table came from, what was asked for, what it all costs, and what computed it."""
    basis, counts = words.trainings(fit)
    return {
        "table": fit.intervals.name,
        **{_METADATA_LABELS[name]: value for name, value in fit.intervals.metadata},
        "pruning rate": f"{fit.curve.pruning_rate:g}",
        "intervals on the grid's edge": words.edges(fit),
        **{_SETTING_LABELS[name]: _shown(value) for name, value in asdict(fit.settings).items()},
        "found by": "Optuna" if fit.found_by == "optuna" else "the certificate",
        "trainings counted for": basis,
        **{f"trainings: {name}": count for name, count in counts.items()},
        **{f"version of {name}": number for name, number in fit.versions.items()},
    }


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:g} to {value[1]:g}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _escaped(rows: Any) -> list[list[str]]:
    return [[escape(cell) for cell in row] for row in rows]


def _table(head: list[str], rows: list[list[str]], *, numbers: bool = False) -> str:
    """An HTML table of cells that are HTML already."""
    top = "<thead><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr></thead>" if any(head) else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="numbers"' if numbers else ""
    return f'<div class="scroll"><table{kind}>{top}<tbody>{body}</tbody></table></div>'


def _embedded(data: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
