"""Declares, for each field of the state, the schema that added it, how it is hashed, and how events change it.

SESSION_OPENED records the state schema of its time. The hash covers the fields of that schema and no others, so a field
added later does not change the hashes of old recordings (docs/decisions/021-state-schema.md).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, get_args, get_type_hints

from events.envelope import Event

Fold = Callable[[Any, Any], Any]
"""(value of a field, event) → its next value."""
Form = Callable[[Any], Any]
"""A value → its form in the hash."""


def kept(
    default: Any = dataclasses.MISSING,
    *,
    factory: Any = dataclasses.MISSING,
    since: int = 1,
    form: Form | None = None,
    is_hashed: bool = True,
    on: Mapping[type[Event], Fold] | None = None,
) -> Any:
    """Declare a field of the state or of one of its parts.

    `since` is the state schema that introduced the field. `form` shortens the value for the hash. `on` maps event types
    to the folds that change the value, for a field that follows from events alone, such as a counter.
    """
    metadata = {"since": since, "form": form, "is_hashed": is_hashed, "on": on or {}}
    return dataclasses.field(default=default, default_factory=factory, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the state, immutable: a change replaces it."""

    def but(self, **fields: Any) -> Self:
        """A copy with some fields replaced; takes a tenth of the time of `dataclasses.replace`."""
        part, held = object.__new__(type(self)), self.__dict__ | fields
        assert len(held) == len(self.__dict__), "a part has no other fields"
        object.__setattr__(part, "__dict__", held)
        return part


def newest_schema(kind: type[Any]) -> int:
    """The number of the newest state schema: the highest `since` among the fields of a state and of its parts."""
    own: list[int] = [field.metadata.get("since", 1) for field in dataclasses.fields(kind)]
    return max([*own, *(newest_schema(part) for part in _parts(kind).values())])


def folds(kind: type[Any]) -> Iterator[tuple[type[Event], str, Fold]]:
    """Yield (event type, field name, fold) for each field that was declared with `kept(on=…)`."""
    for field in dataclasses.fields(kind):
        for event, fold in field.metadata.get("on", {}).items():
            yield event, field.name, fold


def hashed_form(kind: type[Any], schema: int) -> Callable[[Any], list[Any]]:
    """Return a function that converts a state or part to the list of values that is hashed under a schema.

    The values are ordered by `since`, then in field order. A part whose default is None is a nested list or null. The
    values of any other part are spliced into the list. The function is one expression over the names of the declared
    fields: it runs once per step, and calls per part cost a replay 3 % of its time.
    """
    forms: dict[str, Form] = {}
    expression = f"lambda it: [{_values(kind, schema, 'it', forms)}]"
    made: Callable[[Any], list[Any]] = eval(expression, forms)  # noqa: S307 - only names of fields are in it
    return made


def _values(kind: type[Any], schema: int, it: str, forms: dict[str, Form]) -> str:
    """The expressions of the values that are hashed of a state or part, which the expression `it` gives. Adds the
    functions that they call to `forms`.
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
    """Name of each field whose value is a Part (a dataclass within the state) → the class of that Part."""
    hints = {name: (hint, *get_args(hint)) for name, hint in get_type_hints(kind).items()}
    return {
        name: one for name, hint in hints.items() for one in hint if isinstance(one, type) and issubclass(one, Part)
    }
