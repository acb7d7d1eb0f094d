"""Base classes of all events: the fields that every event carries, and the rules that all models share."""

from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# Bounds keep a hostile or broken producer out of the log: an event that exceeds them is a dead letter with the reason.
Id = Annotated[str, StringConstraints(max_length=200)]
Key = Annotated[str, StringConstraints(max_length=1_000)]
"""An identifier composed of other identifiers; its limit leaves room for them."""
Text = Annotated[str, StringConstraints(max_length=8_000)]
Note = Annotated[str, StringConstraints(max_length=500)]
Count = Annotated[int, Field(ge=0, le=2**53)]
"""A whole number that JavaScript can read too. No event carries a float: two machines must agree on each digit."""
Milliseconds = Annotated[int, Field(ge=0, le=24 * 3600 * 1000)]
"""A length of audio or a position in it; a day at most, so that no sum of them leaves the range of Count."""

ADDED = Field(exclude_if=lambda value: not value)
"""Marks a field that came after the first release. It is written only where it is not its default, so the lines of
older recordings keep their bytes."""


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
    """All fields with their defaults, in sorted order."""
    lane: ClassVar[Literal["", "USER", "STT", "THINK", "TTS", "PLAYBACK"]] = ""
    """The lane of a timeline in which the event stands; empty: none."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        # The schema is built on first use (defer_build), so sorting here costs nothing and lasts.
        cls.__pydantic_fields__ = dict(sorted(cls.__pydantic_fields__.items()))
        cls.blank = {name: field.default for name, field in cls.__pydantic_fields__.items()}

    @classmethod
    def unchecked(cls, fields: dict[str, Any]) -> Self:
        """Create an event without validation, in a third of the time. Only for values from this program: pass every
        field without a default, with a valid value. Read events from outside with codec.decode, which validates them.
        """
        return unchecked_event(cls, cls.blank | fields)

    def replace(self, **fields: Any) -> Self:
        """A copy with some fields replaced; unchecked, like `unchecked`."""
        return unchecked_event(type(self), {**self.__dict__, **fields})


E = TypeVar("E", bound=Event)


def unchecked_event(kind: type[E], fields: dict[str, Any]) -> E:
    """Create an event without validation: fill pydantic's slots, as model_construct does. `fields` has every field."""
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

    told_by: ClassVar[Literal["Client", "Speech", "Services", "Player", "Timers"]] = "Client"
    """The column of a sequence diagram from which the event comes."""

    handler_id: Id = ""
    observed_at_us: Count = 0
    producer: Id = ""
    producer_seq: Count = 0


class ConnectionInput(Input):
    """An input that only the session's owner node can report. From another node it is late, and rejected."""


class Result(Input):
    """An input that answers a command. It counts only while the command is outstanding, and only if the command waits
    for this type of result, about the same timer or playback. Otherwise it is stale.
    """

    answers: ClassVar[frozenset[str] | None] = None
    """Names of the commands that the result can answer; None: every request of the current task, which
    ends with its turn.
    """
    about: ClassVar[str] = ""
    """The field that repeats the target of the command; empty: there is none."""
    is_last: ClassVar[bool] = False
    """Whether the command is no longer outstanding after the result."""
    ends_stage: ClassVar[bool] = False
    """Whether the measured time of the stage ends with the result: the service has delivered."""

    command_id: Key
    elapsed_us: Count = 0


class ServiceResult(Result):
    """The outcome of a request to a service."""

    told_by = "Services"
    lane = "THINK"
    is_last = True
    ends_stage = True


class PlaybackResult(Result):
    """A step of synthesis or playback."""

    answers = frozenset({"PlayFiller", "Speak"})
    about = "playback_id"
    told_by = "Player"

    playback_id: Id


class Derived(Event):
    """An event that the reducer derives from an input; its `cause` is the input's event id."""


Via = Literal["speech", "text"]
