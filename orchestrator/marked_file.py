"""Reads a YAML or JSON file into a plain value, with the line of each of its parts."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml
from yaml.reader import ReaderError

from events.file_kinds import other_kind

Place: TypeAlias = tuple[str | int, ...]
"""The path to a value in the file: names of mappings, positions in lists."""

_MOST_BYTES: Final = 256 * 1024
_DEEPEST: Final = 40
_TAG: Final = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake in a file, with its place and line (0: unknown)."""

    what: str
    place: Place = ()
    line: int = 0


class MarkedFileError(Exception):
    """A file cannot be read as a value; the message is the reason."""

    def __init__(self, what: str, line: int = 0) -> None:
        super().__init__(what)
        self.problem = Problem(what, line=line)


@dataclass(frozen=True, slots=True)
class MarkedFile:
    """The value of a file (None: empty), and the names that stand in it twice."""

    value: Any
    repeated: tuple[Problem, ...] = ()
    node: yaml.Node | None = None
    """The same value with its lines; None for JSON."""

    def line(self, place: Place) -> int:
        """The line where the value at a place begins, or where its name stands; 0: unknown."""
        return self._find(place)[1]

    def written(self, place: Place) -> str | None:
        """A value as written in the file, such as `yes` for true; None: unknown, or written in quotes."""
        node = self._find(place)[0]
        return node.value if isinstance(node, yaml.ScalarNode) and node.style is None else None

    def _find(self, place: Place) -> tuple[yaml.Node | None, int]:
        node = self.node
        line = _line(node) if node is not None else 0
        for step in place:
            if isinstance(node, yaml.MappingNode):
                pair = next((pair for pair in reversed(node.value) if pair[0].value == step), None)
                if pair is None:  # a place from pydantic need not exist in the file
                    return None, line
                node, line = pair[1], _line(pair[0])
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
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
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise MarkedFileError(f"it is longer than {_MOST_BYTES // 1024} KiB")
        if kind := other_kind(data):
            raise MarkedFileError(f"it is not text in UTF-8: it is {kind}")
        return reader(data.decode("utf-8-sig"))
    except OSError as error:
        raise MarkedFileError(f"it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MarkedFileError("it is not text in UTF-8", data.count(b"\n", 0, error.start) + 1) from error
    except RecursionError as error:
        raise MarkedFileError("it is nested too deeply") from error


class _Object(dict[str, Any]):
    """A JSON object that remembers its repeated names."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = (name for name, _ in pairs)
        self.repeated = [name for name, times in Counter(names).items() if times > 1]


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
    """A safe loader without the surprises of YAML 1.1: 010 is not octal, 1:30 is not 90, a date is a text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 -- the library's own table
        first: [(tag, rule) for tag, rule in rules if tag not in (f"{_TAG}int", f"{_TAG}timestamp", f"{_TAG}value")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node as usual, but refuse tags and bound the depth: time would grow with its square."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if tag := getattr(event, "tag", None):
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise MarkedFileError(f"a tag such as {tag} has no meaning here", line)
        if self._depth == _DEEPEST:
            raise MarkedFileError("it is nested too deeply")
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,30})$"), list("-+0123456789"))


def _read_yaml(text: str) -> MarkedFile:
    loader = None
    try:
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
    except (ValueError, OverflowError) as error:  # such as "\U00110000", which is no character
        raise MarkedFileError(f"it is not YAML: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _tidy(node: yaml.Node, place: Place, seen: set[int]) -> Iterator[Problem]:
    """Make every name a text (YAML reads `on` as true), and yield the names that a mapping has twice."""
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
