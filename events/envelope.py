"""What every event carries besides its payload, and the rules all models share."""

from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# Bounds keep a hostile or broken producer out of the log: what exceeds them is a dead letter with the reason.
Id = Annotated[str, StringConstraints(max_length=200)]
Key = Annotated[str, StringConstraints(max_length=1_000)]
"""An identifier made of other identifiers, so it always has room for them."""
Text = Annotated[str, StringConstraints(max_length=8_000)]
Note = Annotated[str, StringConstraints(max_length=500)]
Count = Annotated[int, Field(ge=0, le=2**53)]
"""A whole number that JavaScript can read too. No event carries a float: two machines must agree on each digit."""
Milliseconds = Annotated[int, Field(ge=0, le=24 * 3600 * 1000)]
"""A length of audio or a position in it; a day at most, so that no sum of them leaves the range of Count."""


class Event(BaseModel):
    """An immutable fact. Fields are kept in sorted order, so that the plain dump is the canonical encoding.

    Set by the producer: event_id, session_id or handler_id, type, producer, producer_seq, observed_at_us and the
    payload. Stamped on an input by the owner of its shard: at_us (never below the session's last), incarnation.
    Set by the session core: version, turn, epoch, cause, and state_hash on the last event of a step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    at_us: Count = 0
    cause: Key = ""
    epoch: Count = 0
    event_id: Key = ""
    incarnation: Id = ""
    schema_version: Count = 1
    session_id: Id = ""
    state_hash: Id = ""
    turn: Count = 0
    version: Count = 0

    blank: ClassVar[dict[str, Any]]
    """Every field in its place, with its default."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        # The schema is built on first use (defer_build), so sorting here costs nothing and lasts.
        cls.__pydantic_fields__ = dict(sorted(cls.__pydantic_fields__.items()))
        cls.blank = {name: field.default for name, field in cls.__pydantic_fields__.items()}

    @classmethod
    def made(cls, fields: dict[str, Any]) -> Self:
        """An event of the program's own making, in a third of the time: nothing is checked, so all that has no default
        must be given and right. What comes from outside is read by codec.decode, which checks everything.
        """
        return holding(cls, cls.blank | fields)

    def but(self, **fields: Any) -> Self:
        """A copy in which some fields are other ones; unchecked, as `made`."""
        return holding(type(self), {**self.__dict__, **fields})


E = TypeVar("E", bound=Event)


def holding(kind: type[E], fields: dict[str, Any]) -> E:
    """Fill pydantic's own slots, as its model_construct does; a frozen model refuses the plain way."""
    event = _new(kind)
    _set_fields(event, fields)
    _set_fields_set(event, _NONE_SET)
    _set_extra(event, None)
    _set_private(event, None)
    return event


_NONE_SET: set[str] = set()
_new = object.__new__
_set_fields = BaseModel.__dict__["__dict__"].__set__
_set_fields_set = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private = BaseModel.__dict__["__pydantic_private__"].__set__


class Input(Event):
    """An event that came from outside the reducer: from a producer, through the inbox."""

    handler_id: Id = ""
    observed_at_us: Count = 0
    producer: Id = ""
    producer_seq: Count = 0


class Result(Input):
    """An input that answers a command. It counts only while its command is outstanding, and only if it is of the
    kind that the command waits for, about the same timer or playback; else it is stale.
    """

    command_id: Key
    elapsed_us: Count = 0


class Derived(Event):
    """An event that the reducer said about an input; its `cause` is that input's event id."""


Via = Literal["speech", "text"]
