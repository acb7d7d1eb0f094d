"""Declares the fields of the state. A declaration says which state schema added the field, how the field is hashed, and
how events change it.

SESSION_OPENED records the state schema of the program that opens the session. The hash covers the fields of that schema
and no others, so a field added later does not change the hashes of old recordings (docs/decisions/021-state-schema.md).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, get_args, get_type_hints

from events.envelope import Event

Fold = Callable[[Any, Any], Any]
"""A function: (value of a field, event) → the next value of the field."""
Form = Callable[[Any], Any]
"""A function: value of a field → the value that is hashed in its place."""


def kept(
    default: Any = dataclasses.MISSING,
    *,
    factory: Any = dataclasses.MISSING,
    since: int = 1,
    form: Form | None = None,
    is_hashed: bool = True,
    on: Mapping[type[Event], Fold] | None = None,
) -> Any:
    """Declare a field of the state or of one of its parts. `default` and `factory` are as in `dataclasses.field`.

    `since`: the state schema that introduced the field. `form`: a function that converts the value for the hash.
    `is_hashed`: whether the hash covers the field. `on`: event type → the Fold that changes the value. Use `on` for a
    field that follows from events alone, such as a counter.
    """
    metadata = {"since": since, "form": form, "is_hashed": is_hashed, "on": on or {}}
    return dataclasses.field(default=default, default_factory=factory, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Part:
    """Base of the parts of the state, such as Turn and Playback. A part is immutable: a change makes a new part."""

    def replace(self, **fields: Any) -> Self:
        """Return a copy with some fields replaced. This takes a tenth of the time of `dataclasses.replace`."""
        part, held = object.__new__(type(self)), self.__dict__ | fields
        assert len(held) == len(self.__dict__), "a part has no other fields"
        object.__setattr__(part, "__dict__", held)
        return part


def newest_schema(kind: type[Any]) -> int:
    """Return the number of the newest state schema: the highest `since` among the fields of a state and its parts."""
    own: list[int] = [field.metadata.get("since", 1) for field in dataclasses.fields(kind)]
    return max([*own, *(newest_schema(part) for part in _parts(kind).values())])


def folds(kind: type[Any]) -> Iterator[tuple[type[Event], str, Fold]]:
    """Yield (event type, field name, function) for each event type in the `on` of a field's declaration (`kept`). The
    function changes the value of the field when an event of this type is folded.
    """
    for field in dataclasses.fields(kind):
        for event, fold in field.metadata.get("on", {}).items():
            yield event, field.name, fold


def hashed_form(kind: type[Any], schema: int) -> Callable[[Any], list[Any]]:
    """Return a function that converts a state or a part to the list of values that the hash of a state schema covers.

    The values are ordered by `since`, then in field order. A part whose default is None becomes a list within the list,
    or null. The values of any other part are inserted into the list itself.
    """
    # One expression, generated from the fields: one function call per part would slow a replay by 3 %.
    forms: dict[str, Form] = {}
    expression = f"lambda it: [{_values(kind, schema, 'it', forms)}]"
    made: Callable[[Any], list[Any]] = eval(expression, forms)  # noqa: S307 - only names of fields are in it
    return made


def _values(kind: type[Any], schema: int, it: str, forms: dict[str, Form]) -> str:
    """Return Python code for the values of a state or a part that the hash of a state schema covers: expressions,
    separated by commas. `it`: the Python expression for the state or part.

    If a field has a `form`, the code calls this function by a generated name, and `_values` adds (name, function) to
    `forms`.
    """
    fields = [field for field in dataclasses.fields(kind) if field.metadata.get("is_hashed", True)]
    covered = [field for field in fields if field.metadata.get("since", 1) <= schema]
    parts, values = _parts(kind), []
    for field in sorted(covered, key=lambda field: int(field.metadata.get("since", 1))):
        value, part, form = f"{it}.{field.name}", parts.get(field.name), field.metadata.get("form")
        if part is not None and field.default is None:
            inner = f"{it}_{field.name}"
            values.append(f"None if ({inner} := {value}) is None else [{_values(part, schema, inner, forms)}]")
        elif part is not None:
            values.append(_values(part, schema, value, forms))
        elif form is not None:
            name = f"form_{len(forms)}"
            forms[name] = form
            values.append(f"{name}({value})")
        else:
            values.append(value)
    return ", ".join(values)


def _parts(kind: type[Any]) -> dict[str, type[Any]]:
    """Name of each field whose value is a Part → the class of that Part."""
    hints = {name: (hint, *get_args(hint)) for name, hint in get_type_hints(kind).items()}
    return {
        name: one for name, hint in hints.items() for one in hint if isinstance(one, type) and issubclass(one, Part)
    }
