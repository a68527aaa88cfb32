"""The YAML that experiments are written in: numbers as in YAML 1.2, no key twice, no tags, plain values only, not too many.

A few hundred bytes of YAML can stand for gigabytes: values and characters are counted while they are read, with every
alias at the size of what it stands for.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from oracle.errors import ExperimentError

# What one text may hold, aliases at full size. Experiments have a few thousand characters and a hundred values; the
# largest that the schema allows (10,000 seeds, 10,000 rates) fits too.
MOST_CHARACTERS = 1_000_000
MOST_VALUES = 25_000  # keys count as well
MOST_KEYS = 1_000  # of one mapping
MOST_DEPTH = 32  # of lists and mappings in each other
MOST_DIGITS = 1_000  # of a whole number
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class _DialectError(Exception):
    """YAML that is well formed, but not of this dialect: where, and why."""

    def __init__(self, at: yaml.Mark, why: str) -> None:
        super().__init__(f"line {at.line + 1}: {why}")


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: `1e-4` is one, `1:30` is not. No `010`, which older YAML takes for 8. No key twice, no tags."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = self._characters = 0
        self._sizes: dict[yaml.Node, tuple[int, int]] = {}  # values and characters of what an alias may stand for

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # so in PyYAML's stubs
        if index is None and isinstance(parent, yaml.MappingNode) and len(parent.value) >= MOST_KEYS:
            raise _DialectError(event.start_mark, f"a mapping has more than {MOST_KEYS:,} keys")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, parent, index)
        if event.tag is not None:
            tag = cut(event.tag.replace("tag:yaml.org,2002:", "!!"))
            raise _DialectError(event.start_mark, f"found the tag {tag}; experiments have none: write the value alone")
        before = self._values, self._characters
        self._count(event, 1, len(event.value) if isinstance(event, yaml.ScalarEvent) else 0)
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _DialectError(event.start_mark, f"lists and mappings lie in each other more than {MOST_DEPTH} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode):
            node.value = _checked(node)
        if event.anchor is not None and node is not None:
            self._sizes[node] = self._values - before[0], self._characters - before[1]
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping whose keys are text, as in JSON, and differ."""
        node = super().compose_mapping_node(anchor)
        node.value = [(self._text_key(key), value) for key, value in node.value]
        counts = Counter(key.value for key, _ in node.value if key.tag != _MERGE)  # <<: may be overridden
        if twice := [key for key, count in counts.items() if count > 1]:
            raise _DialectError(node.start_mark, f"key given twice: {cut(', '.join(twice))}")
        return node

    def _alias(self, event: Any, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        node = super().compose_node(parent, index)  # refuses one that stands for nothing
        assert node is not None
        if node not in self._sizes:
            raise _DialectError(
                event.start_mark, f"*{cut(event.anchor)} stands in itself, and no value may hold itself"
            )
        self._count(event, *self._sizes[node])
        return node

    def _count(self, event: Any, values: int, characters: int) -> None:
        self._values += values
        self._characters += characters
        for found, most, what in (
            (self._values, MOST_VALUES, "values"),
            (self._characters, MOST_CHARACTERS, "characters"),
        ):
            if found > most:
                raise _DialectError(
                    event.start_mark,
                    f"it holds {found:,} {what} or more, each alias counted as what it stands for; expected at most "
                    f"{most:,}",
                )

    def _text_key(self, key: yaml.Node) -> yaml.Node:
        if key.tag in {_TEXT, _MERGE}:
            return key
        value = self.construct_object(key) if isinstance(key, yaml.ScalarNode) else key
        if value is not None and not isinstance(value, bool | int | float):
            raise _DialectError(key.start_mark, f"keys must be words, found a {_kind(key)}")
        return yaml.ScalarNode(_TEXT, json.dumps(value), key.start_mark, key.end_mark)


def _checked(node: yaml.ScalarNode) -> str:
    """A scalar's text."""
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > MOST_DIGITS:
        raise _DialectError(
            node.start_mark, f"a number has {len(node.value):,} digits, expected at most {MOST_DIGITS:,}"
        )
    text = _paired(node.value)
    if text is None:
        raise _DialectError(
            node.start_mark, f"{cut(repr(node.value))} is not UTF-8 text: it holds half of a surrogate pair"
        )
    return text


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "list"
    return "mapping" if isinstance(node, yaml.MappingNode) else "date"


# Left out: numbers as YAML 1.1 has them, and `=`, which it takes for something else than text.
_LEFT_OUT = {f"tag:yaml.org,2002:{name}" for name in ("float", "int", "value")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _LEFT_OUT]
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
    """Plain values as YAML that `parse` reads back as they are. ExperimentError where it could not be read back."""
    try:
        text = yaml.dump(fields, Dumper=_Dumper, sort_keys=False)
    except RecursionError:
        raise ExperimentError(
            f"written as YAML: lists and mappings lie in each other more than {MOST_DEPTH} deep"
        ) from None
    parse(text, "written as YAML")
    return text


def parse(text: str, where: str) -> Any:
    """YAML as plain values; `where` names the text in messages. Raises ExperimentError."""
    if len(text) > MOST_CHARACTERS:
        raise ExperimentError(
            f"{where}: is {len(text):,} characters long, expected at most {MOST_CHARACTERS:,}; an experiment has a few "
            "thousand"
        )
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain values only
    except _DialectError as error:
        raise ExperimentError(f"{where}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date in a month 13
        raise ExperimentError(f"{where}: is not YAML: {cut(str(error), 400)}") from None


def override(fields: dict[str, Any], change: str) -> None:
    """Put one value of `change` ("grid.points=16") in place, making the parts that hold it. Raises ExperimentError."""
    where = f"--set {cut(change)}"
    key, equals, value = change.partition("=")
    if not equals or not key:
        raise ExperimentError(f"{where}: expected key=value, such as grid.points=16")
    *parents, last = key.strip().split(".")
    if len(parents) >= MOST_DEPTH:
        raise ExperimentError(f"{where}: its key has {len(parents) + 1:,} parts, expected at most {MOST_DEPTH}")
    if _paired(key) is None:
        raise ExperimentError(f"{where}: its key is not UTF-8 text")
    for parent in parents:
        inner = fields.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ExperimentError(f"{where}: {cut(parent)} holds {cut(repr(inner))} and has no keys of its own")
        fields[parent] = dict(inner)  # a copy: aliases may have put the same mapping elsewhere
        fields = fields[parent]
    fields[last] = parse(value, where)


def cut(text: str, most: int = 180) -> str:
    """A text for a message; of a long one its start and its end.

    >>> cut("a word"), cut("a long sentence with many words", most=12)
    ('a word', 'a long s ... ords')
    """
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-(most // 3) :]}"


def _paired(text: str) -> str | None:
    """With surrogate pairs, which JSON writes for rare characters, made one character; None where one lacks its half."""
    try:
        return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return None
