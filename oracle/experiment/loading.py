"""Reading experiments: presets and files, overrides, and what is wrong with them said in words.

What a mistake is, pydantic finds (schema.py); here it becomes a line that names the key and what is allowed.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from oracle.errors import ExperimentError, FolderError
from oracle.experiment import dialect
from oracle.experiment.dialect import cut
from oracle.experiment.schema import NAME, SHA256, AdaptiveSearch, Experiment, Search

MOST_TOLD = 1000  # characters of a message, after which the other faults are only counted
MOST_LINE = 400  # characters of one fault
LONGEST_WORD = 100  # characters of a wrong word that known ones are held against


def preset_names() -> list[str]:
    """Names of the experiments that ship with the package."""
    return sorted(file.name.removesuffix(".yaml") for file in _presets().iterdir() if file.name.endswith(".yaml"))


def load_experiment(name_or_path: str | Path, *, overrides: Sequence[str] = ()) -> Experiment:
    """Read a preset by its name, or a YAML file by its path, and change what `overrides` say ("grid.points=16").

    Raises ExperimentError, naming the key and what is allowed, where anything is not as the format asks.
    """
    where, text = _source(str(name_or_path))
    return experiment_from_yaml(text, where=where, overrides=overrides)


def experiment_from_yaml(text: str, *, where: str = "experiment", overrides: Sequence[str] = ()) -> Experiment:
    """Validate YAML text; `where` names it in messages. Raises ExperimentError."""
    where = cut(where)
    fields = dialect.parse(text, where)
    if not isinstance(fields, dict):
        raise ExperimentError(f"{where}: expected keys such as name, network and data, found {type(fields).__name__}")
    for change in overrides:
        dialect.override(fields, change)
    try:
        return Experiment.model_validate_json(json.dumps(fields, default=str))  # str: of dates
    except ValidationError as error:
        raise ExperimentError(_told(error, fields, where)) from None


def _presets() -> Any:
    return resources.files("search_spaces") / "presets"


def _source(name_or_path: str) -> tuple[str, str]:
    """Where an experiment is described (for messages), and the text."""
    if Path(name_or_path).suffix in {".yaml", ".yml"}:
        return _read(name_or_path)
    if name_or_path in preset_names():
        return f"preset {name_or_path}", (_presets() / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    raise ExperimentError(
        f"no preset is called {cut(repr(name_or_path))}; {_nearest(name_or_path, preset_names())}`oracle presets` lists "
        "them; a file of your own ends in .yaml"
    )


def _read(path: str) -> tuple[str, str]:
    """A file's path as messages show it, and its text."""
    from oracle.storage import read_file, shown  # here, because it brings pyarrow, which presets do without

    where = shown(path)
    try:
        content = read_file(path, dialect.MOST_CHARACTERS + 1)
        if content is None:
            raise ExperimentError(f"{where}: cannot be read: there is no such file")
        if len(content) > dialect.MOST_CHARACTERS:
            raise ExperimentError(
                f"{where}: holds more than {dialect.MOST_CHARACTERS:,} bytes, and an experiment has a few thousand; is it "
                "the right file?"
            )
        return where, content.decode()
    except FolderError as error:
        raise ExperimentError(str(error)) from None
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{where}: cannot be read: {error}; save it as UTF-8") from None


def _by_choice(selector: str, union: Any) -> dict[str, type[BaseModel]]:
    """The models of a union, each by the value of `selector` that chooses it."""
    return {get_args(model.model_fields[selector].annotation)[0]: model for model in get_args(union)}


# Fields of an experiment that are one of several models (schedule, optimizer): the key that chooses, and the models.
_SELECTORS: Mapping[str, str] = {
    key: field.discriminator for key, field in Experiment.model_fields.items() if isinstance(field.discriminator, str)
}
_CHOICES: Mapping[str, Mapping[str, type[BaseModel]]] = {
    key: _by_choice(selector, Experiment.model_fields[key].annotation) for key, selector in _SELECTORS.items()
} | {"search": {"adaptive": AdaptiveSearch, "other": Search}}
# Those that are one model, and the experiment itself.
_MODELS: Mapping[str, type[BaseModel]] = {"": Experiment} | {
    key: field.annotation
    for key, field in Experiment.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}
_PATTERNS: Mapping[str, str] = {
    NAME: "use lower-case letters, digits, - and _, starting with a letter or digit, 64 at most",
    SHA256: "expected 64 hexadecimal digits, a to f in lower case, as sha256sum prints them",
}


_BOUNDS: Mapping[str, tuple[str, str]] = {  # pydantic writes 1e-30 with 30 zeros
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "greater than or equal to"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "less than or equal to"),
}


def _number(value: int | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _told(error: ValidationError, fields: Mapping[str, Any], where: str) -> str:
    """What is wrong, a line a fault: the first few, and how many more."""
    # pydantic calls a list of wrong items too short, too
    faults = [it for it in error.errors(include_url=False) if it["type"] != "too_short" or not it["input"]]
    lines: list[str] = []
    for detail in faults:
        if sum(map(len, lines)) > MOST_TOLD:
            lines.append(f"{where}: and {len(faults) - len(lines):,} more like these")
            break
        line = _explain(detail, fields)
        lines.append(f"{where}: {line if len(line) <= MOST_LINE else line[:MOST_LINE] + ' ...'}")
    return "\n".join(lines)


def _explain(detail: Any, fields: Mapping[str, Any]) -> str:
    """One pydantic error as a line for people: the key, what was found, what is allowed."""
    path = [str(part) for part in detail["loc"]]
    if len(path) > 1 and path[1] in _CHOICES.get(path[0], {}):
        del path[1]  # pydantic names the chosen class between a field and its key
    key = cut(".".join(path))
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{key}: is missing"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_allowed_keys(path[:-1], fields, path[-1])}"
    if detail["type"] in {"union_tag_not_found", "union_tag_invalid"}:
        return f"{key}.{_SELECTORS[key]}: must be one of {', '.join(_CHOICES[key])}"
    if detail["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if detail["type"] in _BOUNDS:
        name, words = _BOUNDS[detail["type"]]
        message = f"input should be {words} {_number(detail['ctx'][name])}"
    if detail["type"] == "string_pattern_mismatch":
        message = _PATTERNS[detail["ctx"]["pattern"]]
    return f"{key}: found {cut(repr(detail['input']))}: {message[:1].lower()}{message[1:]}"


def _allowed_keys(parents: list[str], fields: Mapping[str, Any], wrong: str) -> str:
    parent = ".".join(parents)
    model = _MODELS.get(parent) or _CHOICES[parent][fields[parent][_SELECTORS.get(parent, "strategy")]]
    known = list(model.model_fields)
    return f"{_nearest(wrong, known)}allowed: {', '.join(known)}"


def _nearest(wrong: str, known: Sequence[str]) -> str:
    """A question after the known word that is most like a wrong one, if any is."""
    near = difflib.get_close_matches(wrong[:LONGEST_WORD], known, n=1)
    return f"did you mean {near[0]}? " if near else ""
