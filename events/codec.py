"""The canonical encoding of events: one event is one line of JSON with sorted keys. Decoding checks everything."""

import json
from collections.abc import Callable, Iterable
from functools import cache, reduce
from operator import attrgetter, or_
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from events import derived, inputs, journal
from events.envelope import Derived, Event, Input, Result
from events.upcast import upcast


def _types(base: type[Event]) -> dict[str, type[Event]]:
    """Type name → class of each event with this base, in the order of the modules."""
    defined = (*vars(inputs).values(), *vars(journal).values(), *vars(derived).values())
    events = [kind for kind in defined if isinstance(kind, type) and issubclass(kind, base)]
    return {kind.model_fields["type"].default: kind for kind in events if "type" in kind.model_fields}


INPUTS: dict[str, type[Event]] = _types(Input)
RESULTS: dict[str, type[Event]] = _types(Result)
DERIVED: dict[str, type[Event]] = _types(Derived)
_KINDS = {name.encode(): kind for name, kind in (INPUTS | DERIVED).items()}
_FREE: dict[type[Event], Callable[[Event], Any]] = {
    inputs.SessionOpened: attrgetter("policy", "grant"),
    derived.CommandIssued: attrgetter("payload"),
}
"""Class of an event → function that returns its fields of free JSON, whose numbers are checked."""
_TYPE = b'"type":"'


class BadEventError(ValueError):
    """An event cannot be read; the message says which field is wrong and why."""


@cache
def _adapter() -> TypeAdapter[Any]:
    kinds: Any = reduce(or_, (*INPUTS.values(), *DERIVED.values()))
    return TypeAdapter(Annotated[kinds, Field(discriminator="type")])


def prepare() -> None:
    """Build all models now. Otherwise the first turn of a service would take some milliseconds longer."""
    for model in (*INPUTS.values(), *DERIVED.values()):
        model.model_rebuild()
    _adapter()


def encode(event: Event) -> bytes:
    """The canonical line of an event, without a line end."""
    return event.__pydantic_serializer__.to_json(event)


def encoded(events: Iterable[Event]) -> list[bytes]:
    """The canonical lines of events."""
    return [event.__pydantic_serializer__.to_json(event) for event in events]


def decode(line: bytes | str) -> Event:
    """Read one event of any type; older schema versions are lifted to today's. Raises BadEventError.

    A canonical line is read by the model of its type, which a text search finds. That is a third faster than the union
    of all models, which reads any form of JSON. A wrong type cannot succeed: each model checks its own type.
    """
    try:
        start = line.rfind(_TYPE) + len(_TYPE)  # type: ignore[arg-type]
        event = _READ[line[start : line.find(b'"', start)]](line)  # type: ignore[arg-type,index]
    except (KeyError, TypeError, ValidationError):  # not canonical, not valid, or a text
        try:
            event = _adapter().validate_json(line)
        except ValidationError as error:
            return _decode_older(line, error)
    if event.schema_version != event.blank["schema_version"]:
        return _decode_older(line, None)
    if (free := _FREE.get(type(event))) is not None:
        _check_numbers(free(event))
    return event


class _Readers(dict[bytes, Callable[[bytes], Event]]):
    """Name of a type → its decoder. Builds a model when its first event is read."""

    def __missing__(self, name: bytes) -> Callable[[bytes], Event]:
        read: Callable[[bytes], Event] = _KINDS[name].__pydantic_validator__.validate_json
        self[name] = read
        return read


_READ = _Readers()


def decode_input(line: bytes | str) -> Input:
    """Read an event that a producer may send. Raises BadEventError, also for a derived event."""
    event = decode(line)
    if not isinstance(event, Input):
        raise BadEventError(f"{type(event).model_fields['type'].default} is said by the reducer, never by a producer")
    return event


def _decode_older(line: bytes | str, problem: ValidationError | None) -> Event:
    """The slow path, for a line of another schema version or an invalid line. Raises BadEventError."""
    try:
        raw = from_json(line)
    except ValueError as error:
        raise BadEventError(f"not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise BadEventError(f"an event is a JSON object, this is {type(raw).__name__}")
    known = INPUTS.get(str(raw.get("type"))) or DERIVED.get(str(raw.get("type")))
    if known is None:
        raise BadEventError(f"unknown event type {str(raw.get('type', '(missing)'))[:60]!r}") from problem
    name, current = raw["type"], known.model_fields["schema_version"].default
    version = raw.get("schema_version", 1)
    if problem is not None and (version == current or not isinstance(version, int)):
        raise BadEventError(f"{name}: {_in_words(problem)}") from problem
    if version > current:
        raise BadEventError(f"{name} has schema version {version}, this program knows {current}: a newer orch wrote it")
    try:
        lifted: Event = _adapter().validate_json(to_json(upcast(raw, current)))
    except ValidationError as error:
        raise BadEventError(f"{name}: {_in_words(error)}") from error
    except (LookupError, TypeError, ValueError) as error:
        raise BadEventError(f"{name} of schema version {version} cannot be lifted to {current}") from error
    return lifted


def _check_numbers(value: Any) -> None:
    """Refuse Infinity and NaN, also as 1e999: parsers read them, and JSON cannot write them. Raises BadEventError."""
    text = to_json(value, inf_nan_mode="constants")
    if b"Infinity" in text or b"NaN" in text:  # a number, or a word
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise BadEventError("not JSON: it holds Infinity, NaN or a number beyond all bounds") from None


def _in_words(error: ValidationError) -> str:
    """The first three problems of a validation, short enough for a log line, and without the invalid values."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    parts = [f"{'.'.join(_name(p) for p in e['loc'][1:] or e['loc'])}: {e['msg']}" for e in problems[:3]]
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return "; ".join(parts) + more


def _name(part: str | int) -> str:
    """A field's name, shortened to one line: it may be any text from a producer."""
    return "".join(c if c.isprintable() else "?" for c in str(part)[:60])
