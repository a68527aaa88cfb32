"""The YAML that experiments are written in: numbers as in YAML 1.2, no key twice, plain values only."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from oracle.errors import ExperimentError


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: `1e-4` is one, `1:30` is not. No `010`, which older YAML takes for 8. No key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # <<: may be overridden
        keys = [self.construct_object(key, deep=True) for key in own]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key given twice: {', '.join(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in {"tag:yaml.org,2002:float", "tag:yaml.org,2002:int"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9]\d*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read as text, such as the name 1e5."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump(fields: Mapping[str, Any]) -> str:
    """Plain values as YAML that `parse` reads back as they are."""
    return yaml.dump(fields, Dumper=_Dumper, sort_keys=False)


def parse(text: str, where: str) -> Any:
    """YAML as plain values; `where` names the text in messages. Raises ExperimentError."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain values only
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date in a month 13
        raise ExperimentError(f"{where}: is not YAML: {error}") from None


def override(fields: dict[str, Any], change: str) -> None:
    """Put one value of `change` ("grid.points=16") in place, making the parts that hold it. Raises ExperimentError."""
    key, equals, value = change.partition("=")
    if not equals or not key:
        raise ExperimentError(f"--set {change}: expected key=value, such as grid.points=16")
    *parents, last = key.strip().split(".")
    for parent in parents:
        inner = fields.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ExperimentError(f"--set {change}: {parent} holds {inner!r} and has no keys of its own")
        fields = inner
    fields[last] = parse(value, f"--set {change}")
