"""The commands that the reducer issues to the runtime. Each field of a command is part of the recorded payload.

Treat commands as immutable. The dataclasses are not frozen because that halves the time to create one.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar, Literal, cast

from events import codec
from events.derived import CommandIssued
from events.envelope import PlaybackResult, Result

MicrophoneSetting = Literal["open", "gated", "closed"]


@dataclass(unsafe_hash=True)
class Command:
    """Base of all commands. A command's properties are declared only here and on its class."""

    name: ClassVar[str]
    stage: ClassVar[str] = ""
    """The part of the current task that the command starts, such as "intent", "answer" or "speech"; empty: none."""
    outlives_turn: ClassVar[bool] = False
    """The request continues after its turn ends: its results count while it is outstanding."""
    carried_out_by: ClassVar[Literal["", "Client", "Speech", "Services", "Player"]] = ""
    """The column of a sequence diagram that receives the command; empty: none."""

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__

    @property
    def target(self) -> str:
        """The timer, stage, playback or setting that the command concerns. Name and target are unique within a step."""
        return self.stage

    def payload(self) -> dict[str, Any]:
        """The command's fields in the order of their declaration. A field that was added later has a default, and is
        recorded only where its value differs from the default, so that older recordings still compare equal.
        """
        if not (added := _added(type(self))):  # type: ignore[arg-type] # a class can be hashed
            return self.__dict__
        return {name: value for name, value in self.__dict__.items() if added.get(name, MISSING) != value}


@cache
def _added(kind: Any) -> dict[str, Any]:
    """Name and default of each field added after the first release. Fields of the first release have no default."""
    return {field.name: field.default for field in fields(kind) if field.default is not MISSING}


@dataclass(unsafe_hash=True)
class SetMicrophone(Command):
    """Set who receives the microphone's audio. open: VAD and STT. gated: the VAD, and STT from the onset of speech on.
    closed: nobody.
    """

    setting: MicrophoneSetting
    carried_out_by = "Client"
    target = property(attrgetter("setting"))


@dataclass(unsafe_hash=True)
class ClearText(Command):
    """Clear the client's text buffer, which shows the unfinished utterance."""

    carried_out_by = "Client"


@dataclass(unsafe_hash=True)
class FinishUtterance(Command):
    """Ask speech-to-text for its final now: the user has finished the utterance."""

    carried_out_by = "Speech"


@dataclass(unsafe_hash=True)
class ClassifyIntent(Command):
    """Ask the intent service for the user's intent. `speculation`: attempt number before the turn; 0: asked by the
    turn.
    """

    speculation: int
    text: str
    stage = "intent"
    carried_out_by = "Services"


@dataclass(unsafe_hash=True)
class AnswerQuestion(Command):
    """Ask the answer service. It gets the conversation up to version `conversation_to` of the session's log."""

    conversation_to: int
    speculation: int
    text: str
    stage = "answer"
    carried_out_by = "Services"


@dataclass(unsafe_hash=True)
class RunTool(Command):
    """Run the tool call `call_id` that the agent has asked for; after `limit_ms` it has failed.

    It runs to its end, also if the user interrupts, unless `is_cancellable`: then it ends with its turn.
    """

    call_id: str
    is_cancellable: bool
    limit_ms: int
    tool: str
    stage = "tool"
    outlives_turn = True
    carried_out_by = "Services"
    target = property(attrgetter("call_id"))


@dataclass(unsafe_hash=True)
class PlayFiller(Command):
    """Speak a filler while the agent thinks. Its playback is separate, and changes no phase when it ends."""

    playback_id: str
    text: str
    stage = "filler"
    carried_out_by = "Player"
    target = property(attrgetter("playback_id"))


@dataclass(unsafe_hash=True, kw_only=True)
class Speak(Command):
    """Synthesise and play an answer, from position `from_ms` of its audio on. `ends`: the reason for which the session
    ends after the playback; empty: the session continues.

    `is_open`: more of the answer follows (SpeakMore). `text` is then its text number `index`, which begins at
    `begins_ms` of its audio: an answer that goes on after a takeover skips the texts that were heard.
    """

    begins_ms: int = 0
    ends: str
    from_ms: int
    index: int = 0
    is_open: bool = False
    playback_id: str
    text: str
    stage = "speech"
    carried_out_by = "Player"
    target = property(attrgetter("playback_id"))


@dataclass(unsafe_hash=True)
class SpeakMore(Command):
    """Go on with the answer that an open Speak began: `text` is its text number `index`. `is_last`: nothing follows."""

    index: int
    is_last: bool
    playback_id: str
    text: str
    carried_out_by = "Player"

    @property
    def target(self) -> str:
        return f"{self.playback_id}/{self.index}"


@dataclass(unsafe_hash=True)
class PlaybackCommand(Command):
    """Base of the commands to a running playback."""

    playback_id: str
    carried_out_by = "Player"
    target = property(attrgetter("playback_id"))


@dataclass(unsafe_hash=True)
class StopPlayback(PlaybackCommand):
    """Stop this playback at once and clear its audio queue."""


@dataclass(unsafe_hash=True)
class PausePlayback(PlaybackCommand):
    """Pause this playback and keep its audio queue."""


@dataclass(unsafe_hash=True)
class ResumePlayback(PlaybackCommand):
    """Continue this playback from the position where it was paused."""


@dataclass(unsafe_hash=True)
class CancelTask(Command):
    """Cancel the current task with all its running requests."""

    carried_out_by = "Services"


@dataclass(unsafe_hash=True)
class CancelStage(Command):
    """Withdraw one request of the current task; the other requests continue."""

    command_id: str
    stage_name: str
    carried_out_by = "Services"
    target = property(attrgetter("stage_name"))


@dataclass(unsafe_hash=True)
class StartTimer(Command):
    """Start a timer that sends TIMER_FIRED at `due_at_us`, in microseconds of the session's time."""

    due_at_us: int
    timer: str
    target = property(attrgetter("timer"))


@dataclass(unsafe_hash=True)
class CancelTimer(Command):
    """Withdraw the timer that the command `command_id` started."""

    command_id: str
    timer: str
    target = property(attrgetter("timer"))


@dataclass(unsafe_hash=True)
class CloseSession(Command):
    """Close the connections of client and handler, and release the session."""

    reason: str
    carried_out_by = "Client"


def _with(field: str) -> frozenset[str]:
    return frozenset(name for name, cls in COMMANDS.items() if field in cls.__dataclass_fields__)


COMMANDS: dict[str, type[Command]] = {
    cls.name: cls for base in (Command, PlaybackCommand) for cls in base.__subclasses__() if cls is not PlaybackCommand
}
RESULTS: tuple[type[Result], ...] = tuple(cast("type[Result]", kind) for kind in codec.RESULTS.values())
STAGES: frozenset[str] = frozenset(name for name, cls in COMMANDS.items() if cls.stage)
OF_THE_TURN: frozenset[str] = frozenset(name for name in STAGES if not COMMANDS[name].outlives_turn)
"""Names of the commands that end with their turn."""
PLAYS: frozenset[str] = PlaybackResult.answers
QUESTIONS: frozenset[str] = _with("speculation")
"""Names of the commands that may be issued before the utterance is complete (speculation.py)."""
WITHDRAWALS: frozenset[str] = _with("command_id")
"""Names of the commands that withdraw one outstanding command, given as their `command_id`."""
ANSWERS: Mapping[type[Result], frozenset[str]] = {
    kind: OF_THE_TURN if kind.answers is None else kind.answers for kind in RESULTS
}
"""Type of result → names of the commands that a result of this type can answer."""
OUTSTANDING: frozenset[str] = frozenset().union(*ANSWERS.values())
"""Names of the commands that expect a result."""


def read(event: CommandIssued) -> Command:
    """Rebuild the command from its COMMAND_ISSUED event."""
    return COMMANDS[event.name](**event.payload)


def answers(result: Result, command: CommandIssued) -> bool:
    """Whether a result answers a command: the command waits for results of this type, and both name the same timer or
    playback, if the result names one.
    """
    kind, about = type(result), result.about
    return command.name in ANSWERS[kind] and (not about or getattr(result, about) == command.target)
