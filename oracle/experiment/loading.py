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

from oracle.errors import ExperimentError
from oracle.experiment import dialect
from oracle.experiment.schema import NAME, SHA256, Experiment


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
    fields = dialect.parse(text, where)
    if not isinstance(fields, dict):
        raise ExperimentError(f"{where}: expected keys such as name, network and data, found {type(fields).__name__}")
    for change in overrides:
        dialect.override(fields, change)
    try:
        plain = json.dumps(fields, default=str)
    except (TypeError, ValueError, RecursionError) as error:  # a key that is a date, an alias to its own parent
        raise ExperimentError(f"{where}: keys must be words, and no value may hold itself: {error}") from None
    try:
        return Experiment.model_validate_json(plain)
    except ValidationError as error:
        faults = [detail for detail in error.errors() if detail["type"] != "too_short" or not detail["input"]]
        lines = [_explain(detail, fields) for detail in faults]  # pydantic calls a list of wrong items too short, too
        raise ExperimentError("\n".join(f"{where}: {line}" for line in lines)) from None


def _presets() -> Any:
    return resources.files("search_spaces") / "presets"


def _source(name_or_path: str) -> tuple[str, str]:
    """Where an experiment is described (for messages), and the text."""
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        try:
            return str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ExperimentError(f"{path}: cannot be read: {error}") from None
    if name_or_path in preset_names():
        return f"preset {name_or_path}", (_presets() / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    near = difflib.get_close_matches(name_or_path, preset_names(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ExperimentError(
        f"no preset is called {name_or_path!r}; {hint}`oracle presets` lists them; a file of your own ends in .yaml"
    )


def _by_choice(selector: str, union: Any) -> dict[str, type[BaseModel]]:
    """The models of a union, each by the value of `selector` that chooses it."""
    return {get_args(model.model_fields[selector].annotation)[0]: model for model in get_args(union)}


# Fields of an experiment that are one of several models (schedule, optimizer): the key that chooses, and the models.
_SELECTORS: Mapping[str, str] = {
    key: field.discriminator for key, field in Experiment.model_fields.items() if isinstance(field.discriminator, str)
}
_CHOICES: Mapping[str, Mapping[str, type[BaseModel]]] = {
    key: _by_choice(selector, Experiment.model_fields[key].annotation) for key, selector in _SELECTORS.items()
}
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


def _explain(detail: Any, fields: Mapping[str, Any]) -> str:
    """One pydantic error as a line for people: the key, what was found, what is allowed."""
    path = [str(part) for part in detail["loc"]]
    if len(path) > 1 and path[1] in _CHOICES.get(path[0], {}):
        del path[1]  # pydantic names the chosen class between a field and its key
    key = ".".join(path)
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{key}: is missing"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_allowed_keys(path[:-1], fields, path[-1])}"
    if detail["type"] in {"union_tag_not_found", "union_tag_invalid"}:
        return f"{key}.{_SELECTORS[key]}: must be one of {', '.join(_CHOICES[key])}"
    if detail["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if detail["type"] == "string_pattern_mismatch":
        message = _PATTERNS[detail["ctx"]["pattern"]]
    return f"{key}: found {detail['input']!r}: {message[:1].lower()}{message[1:]}"


def _allowed_keys(parents: list[str], fields: Mapping[str, Any], wrong: str) -> str:
    parent = ".".join(parents)
    model = _MODELS.get(parent) or _CHOICES[parent][fields[parent][_SELECTORS[parent]]]
    known = list(model.model_fields)
    near = difflib.get_close_matches(wrong, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}allowed: {', '.join(known)}"
