"""Reads a YAML or JSON file into a plain value, and remembers where in the file each part of it stands."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml
from yaml.reader import ReaderError

Place: TypeAlias = tuple[str | int, ...]
"""The names and positions that lead to a value of the file."""

_TAG: Final = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, at which place, in which line (0: nobody knows)."""

    what: str
    place: Place = ()
    line: int = 0


class MarkedFileError(Exception):
    """A file has no value, for this reason."""

    def __init__(self, what: str, line: int = 0) -> None:
        super().__init__(what)
        self.problem = Problem(what, line=line)


@dataclass(frozen=True, slots=True)
class MarkedFile:
    """What a file says (None: nothing), and the names that it has twice."""

    value: Any
    repeated: tuple[Problem, ...] = ()
    node: yaml.Node | None = None
    """The same with its lines, if it is YAML."""

    def line(self, place: Place) -> int:
        """Where the value at a place begins, or is named; 0: nobody knows."""
        return self._find(place)[1]

    def written(self, place: Place) -> str | None:
        """A value as it is written, such as `yes` for true; None: nobody knows, or it stands in quotes."""
        node = self._find(place)[0]
        return node.value if isinstance(node, yaml.ScalarNode) and node.style is None else None

    def _find(self, place: Place) -> tuple[yaml.Node | None, int]:
        node = self.node
        line = _line(node) if node is not None else 0
        for step in place:
            if isinstance(node, yaml.MappingNode):
                key, node = next(pair for pair in reversed(node.value) if pair[0].value == step)
                line = _line(key)
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                node = node.value[step]
                line = _line(node)
        return node, line


def read_marked(path: Path) -> MarkedFile:
    """Read a .yaml, .yml or .json file. Raises MarkedFileError."""
    readers = {".yaml": _read_yaml, ".yml": _read_yaml, ".json": _read_json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise MarkedFileError(f"its name must end with {', '.join(readers)}")
    try:
        return reader(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MarkedFileError(f"it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MarkedFileError("it is not text in UTF-8") from error
    except RecursionError as error:
        raise MarkedFileError("it is nested too deeply") from error


class _Object(dict[str, Any]):
    """A JSON object that remembers which names it had twice."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.repeated = [name for name in self if names.count(name) > 1]


def _read_json(text: str) -> MarkedFile:
    if not text.strip():
        return MarkedFile(None)
    try:
        value = json.loads(text, object_pairs_hook=_Object)
    except json.JSONDecodeError as error:
        raise MarkedFileError(f"it is not JSON: {error.msg}", error.lineno) from error
    except ValueError as error:  # a number with thousands of digits
        raise MarkedFileError(f"it is not JSON: {error}") from error
    return MarkedFile(value, tuple(Problem("it is there twice", place) for place in _repeated(value)))


def _repeated(value: Any, place: Place = ()) -> Iterator[Place]:
    if isinstance(value, _Object):
        yield from ((*place, name) for name in value.repeated)
        for name, part in value.items():
            yield from _repeated(part, (*place, name))


class _Loader(yaml.SafeLoader):
    """Safe, and without surprises of YAML 1.1: 010 is not octal, 1:30 is not ninety, a date is a text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 -- the library's own table
        first: [(tag, rule) for tag, rule in rules if tag not in (f"{_TAG}int", f"{_TAG}timestamp", f"{_TAG}value")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,30})$"), list("-+0123456789"))


def _read_yaml(text: str) -> MarkedFile:
    loader = None
    try:
        _refuse_tags(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return MarkedFile(None)
        repeated = tuple(_tidy(node, (), set()))
        return MarkedFile(loader.construct_document(node), repeated, node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise MarkedFileError(f"it is not YAML: {error.problem}", line) from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise MarkedFileError(f"it is not YAML: {error.reason}", line) from error
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_tags(text: str) -> None:
    for event in yaml.parse(text, Loader=_Loader):
        if tag := getattr(event, "tag", None):
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise MarkedFileError(f"a tag such as {tag} has no meaning here", line)


def _tidy(node: yaml.Node, place: Place, seen: set[int]) -> Iterator[Problem]:
    """Make every name a text (YAML reads `on` as true), and find those that a mapping has twice."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for at, item in enumerate(node.value):
            yield from _tidy(item, (*place, at), seen)
    elif isinstance(node, yaml.MappingNode):
        lines = dict[str, int]()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise MarkedFileError("a name must be a text, not a list or a mapping", _line(key))
            if key.tag != f"{_TAG}merge":
                key.tag = f"{_TAG}str"
            inner = (*place, key.value)
            if key.value in lines:
                yield Problem(f"it is there twice, first in line {lines[key.value]}", inner, _line(key))
            lines.setdefault(key.value, _line(key))
            yield from _tidy(value, inner, seen)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
