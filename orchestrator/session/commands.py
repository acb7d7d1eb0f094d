"""The commands that the reducer issues to the runtime. Each field of a command is part of the recorded payload.

Treat commands as immutable. The dataclasses are not frozen, because to create a frozen command takes twice the time.
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
    """Base of all commands. A new command is a subclass that declares its payload as fields. Where the defaults below
    do not fit, the subclass sets `stage`, `outlives_turn`, `carried_out_by` or `target`. All lists of commands are
    derived from these classes, so a new command need not be added to a list.
    """

    name: ClassVar[str]
    stage: ClassVar[str] = ""
    """The stage that the command starts, such as "intent", "answer" or "speech"; empty: the command starts no stage."""
    outlives_turn: ClassVar[bool] = False
    """Whether the request continues when its turn ends."""
    carried_out_by: ClassVar[Literal["", "Client", "Speech", "Services", "Player"]] = ""
    """The column of a sequence diagram that receives the command; empty: the diagram does not show the command."""

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__

    @property
    def target(self) -> str:
        """The timer, stage, playback, tool call or microphone setting that the command concerns; empty: the command has
        no target. No two commands of a step have both the same name and the same target.
        """
        return self.stage

    def payload(self) -> dict[str, Any]:
        """Return the command's fields in the order of their declaration. Fields that have their default value are left
        out: only fields added after the first release have a default, and older recordings lack these fields.
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
    """Set which components get the microphone's audio. open: voice detector (VAD) and speech-to-text. gated: the VAD
    and, from the onset of speech on, speech-to-text. closed: no component.
    """

    setting: MicrophoneSetting
    carried_out_by = "Client"
    target = property(attrgetter("setting"))


@dataclass(unsafe_hash=True)
class ClearText(Command):
    """Clear the client's text buffer: the client no longer shows the unfinished utterance."""

    carried_out_by = "Client"


@dataclass(unsafe_hash=True)
class FinishUtterance(Command):
    """Ask speech-to-text for the final transcript now: the user has finished the utterance."""

    carried_out_by = "Speech"


@dataclass(unsafe_hash=True)
class ClassifyIntent(Command):
    """Ask the intent service for the intent of the user's words (`text`). `speculation`: 1 for the first question about
    an utterance that is not complete, 2 for the second, and so on; 0: the utterance is complete and its turn is open.
    """

    speculation: int
    text: str
    stage = "intent"
    carried_out_by = "Services"


@dataclass(unsafe_hash=True)
class AnswerQuestion(Command):
    """Ask the answer service for the answer to the user's words (`text`). The service also gets the conversation up to
    version `conversation_to` of the session's log. `speculation`: as in ClassifyIntent.
    """

    conversation_to: int
    speculation: int
    text: str
    stage = "answer"
    carried_out_by = "Services"


@dataclass(unsafe_hash=True)
class RunTool(Command):
    """Run the tool call `call_id` that the agent has asked for. A call that takes longer than `limit_ms` is stopped and
    counts as failed.

    `is_cancellable`: the call is cancelled when its turn ends. Any other call continues after its turn, until it
    returns or reaches `limit_ms`.
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
    """Speak a filler while the agent thinks. The end of a filler's playback does not change the phase."""

    playback_id: str
    text: str
    stage = "filler"
    carried_out_by = "Player"
    target = property(attrgetter("playback_id"))


@dataclass(unsafe_hash=True, kw_only=True)
class Speak(Command):
    """Synthesise and play an answer or announcement. `ends`: the reason for which the session ends after the playback;
    empty: the session continues.

    `is_open`: the answer comes in texts, and SpeakMore commands bring the texts after `text`. `index`: the number of
    `text` in the answer, from 0.

    A retry continues an answer that the user has heard in part. `from_ms`: the position up to which they have heard it.
    `begins_ms`: the position at which the audio of `text` begins. The retry synthesises `text` from its beginning, and
    skips the audio before `from_ms`. Positions are in ms of the audio of the whole answer. In the first attempt,
    `index`, `begins_ms` and `from_ms` are 0.
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
    """Continue the answer that a Speak with `is_open` began. `text`: the next text of the answer. `index`: its number,
    from 0. `is_last`: no further text follows.
    """

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
    """Base of the commands that stop, pause or resume a playback."""

    playback_id: str
    carried_out_by = "Player"
    target = property(attrgetter("playback_id"))


@dataclass(unsafe_hash=True)
class StopPlayback(PlaybackCommand):
    """Stop a playback at once and clear its audio queue."""


@dataclass(unsafe_hash=True)
class PausePlayback(PlaybackCommand):
    """Pause a playback and keep its audio queue."""


@dataclass(unsafe_hash=True)
class ResumePlayback(PlaybackCommand):
    """Continue a playback from the position where it was paused."""


@dataclass(unsafe_hash=True)
class CancelTask(Command):
    """Cancel the work on the current turn: all its running requests, except tool calls."""

    carried_out_by = "Services"


@dataclass(unsafe_hash=True)
class CancelStage(Command):
    """Cancel the request that the command `command_id` made; other requests continue. `stage_name`: "intent" or
    "answer", the stage of the request; for a tool call, the id of the call.
    """

    command_id: str
    stage_name: str
    carried_out_by = "Services"
    target = property(attrgetter("stage_name"))


@dataclass(unsafe_hash=True)
class StartTimer(Command):
    """Start a timer that sends TIMER_FIRED at `due_at_us`, in microseconds of the session's time.

    The session's time is the time that its events carry in `at_us`. A change of a node's clock does not change the
    session's time. After a takeover, the new owner continues from the `at_us` of the last event.
    """

    due_at_us: int
    timer: str
    target = property(attrgetter("timer"))


@dataclass(unsafe_hash=True)
class CancelTimer(Command):
    """Cancel the timer that the command `command_id` started."""

    command_id: str
    timer: str
    target = property(attrgetter("timer"))


@dataclass(unsafe_hash=True)
class CloseSession(Command):
    """Close the connections of client and handler, and end the tasks and timers that the node runs for the session. The
    session's log and the lease of its shard stay.
    """

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
"""Names of the commands whose requests end with their turn."""
PLAYS: frozenset[str] = PlaybackResult.answers
QUESTIONS: frozenset[str] = _with("speculation")
"""Names of the commands that may be issued before the utterance is complete (speculation.py)."""
WITHDRAWALS: frozenset[str] = _with("command_id")
"""Names of the commands that cancel one outstanding command. Their `command_id` is the cancelled command's id."""
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
    """Whether a result answers a command. The command must expect results of this type. If the result names a timer, a
    playback or a tool call, this must be the `target` of the command.
    """
    kind, about = type(result), result.about
    return command.name in ANSWERS[kind] and (not about or getattr(result, about) == command.target)
