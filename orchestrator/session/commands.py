"""The commands: what the reducer wants done, imperative. Each field of a command is part of the recorded payload.

Nobody changes a command once it is made. That it is not frozen halves the time it takes to make one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar, Literal, TypeAlias

from events import inputs
from events.derived import CommandIssued
from events.envelope import Result

MicrophoneSetting = Literal["open", "gated", "closed"]


@dataclass(unsafe_hash=True)
class _Command:
    """`outstanding`: a result is expected. `stage`: part of the current task, cancelled with it."""

    name: ClassVar[str]
    outstanding: ClassVar[bool] = False
    stage: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__

    @property
    def target(self) -> str:
        """What the command is about (timer, stage, playback, setting); with the name, unique within a step."""
        return self.stage

    def payload(self) -> dict[str, Any]:
        """A command's own fields, in the order they stand there."""
        return self.__dict__


@dataclass(unsafe_hash=True)
class SetMicrophone(_Command):
    """open: heard. gated: the VAD hears it, and STT from the onset of speech on, as evidence. closed: not heard."""

    setting: MicrophoneSetting
    target = property(attrgetter("setting"))


@dataclass(unsafe_hash=True)
class ClearText(_Command):
    """Clear the text buffer: what the client shows of an unfinished utterance."""


@dataclass(unsafe_hash=True)
class FinishUtterance(_Command):
    """The user has finished: speech-to-text is to give its final now."""


@dataclass(unsafe_hash=True)
class ClassifyIntent(_Command):
    """Ask the intent service what the user wants. `speculation`: the how manieth try before a turn; 0: for the turn."""

    speculation: int
    text: str
    outstanding: ClassVar[bool] = True
    stage: ClassVar[str] = "intent"


@dataclass(unsafe_hash=True)
class AnswerQuestion(_Command):
    """Ask the answer service. The conversation so far is the session's log up to version `conversation_to`."""

    conversation_to: int
    speculation: int
    text: str
    outstanding: ClassVar[bool] = True
    stage: ClassVar[str] = "answer"


@dataclass(unsafe_hash=True)
class PlayFiller(_Command):
    """Say something while thinking; it has a playback of its own, and its end ends nothing."""

    playback_id: str
    text: str
    outstanding: ClassVar[bool] = True
    stage: ClassVar[str] = "filler"
    target = property(attrgetter("playback_id"))


@dataclass(unsafe_hash=True)
class Speak(_Command):
    """Synthesise and play what the agent says, from `from_ms` of its audio on. `ends`: with it the session ends, for
    this reason; empty: it goes on.
    """

    ends: str
    from_ms: int
    playback_id: str
    text: str
    outstanding: ClassVar[bool] = True
    stage: ClassVar[str] = "speech"
    target = property(attrgetter("playback_id"))


@dataclass(unsafe_hash=True)
class StopPlayback(_Command):
    """Be silent at once: clear the audio queue of this playback."""

    playback_id: str
    target = property(attrgetter("playback_id"))


@dataclass(unsafe_hash=True)
class PausePlayback(_Command):
    """Be silent for now: keep the audio queue of this playback."""

    playback_id: str
    target = property(attrgetter("playback_id"))


@dataclass(unsafe_hash=True)
class ResumePlayback(_Command):
    """Go on where this playback was paused."""

    playback_id: str
    target = property(attrgetter("playback_id"))


@dataclass(unsafe_hash=True)
class CancelTask(_Command):
    """Cancel the current task, whatever of it is still running."""


@dataclass(unsafe_hash=True)
class CancelStage(_Command):
    """Withdraw one request of the current task; the others go on."""

    command_id: str
    stage_name: str
    target = property(attrgetter("stage_name"))


@dataclass(unsafe_hash=True)
class StartTimer(_Command):
    """Come back with TIMER_FIRED at `due_at_us`."""

    due_at_us: int
    timer: str
    outstanding: ClassVar[bool] = True
    target = property(attrgetter("timer"))


@dataclass(unsafe_hash=True)
class CancelTimer(_Command):
    """Withdraw the timer that was started by `command_id`."""

    command_id: str
    timer: str
    target = property(attrgetter("timer"))


@dataclass(unsafe_hash=True)
class CloseSession(_Command):
    """Say goodbye to client and handler and forget the session."""

    reason: str


Command: TypeAlias = (
    SetMicrophone
    | ClearText
    | FinishUtterance
    | ClassifyIntent
    | AnswerQuestion
    | PlayFiller
    | Speak
    | StopPlayback
    | PausePlayback
    | ResumePlayback
    | CancelTask
    | CancelStage
    | StartTimer
    | CancelTimer
    | CloseSession
)
COMMANDS: dict[str, type[Command]] = {cls.__name__: cls for cls in Command.__args__}
OUTSTANDING: frozenset[str] = frozenset(name for name, cls in COMMANDS.items() if cls.outstanding)
STAGES: frozenset[str] = frozenset(name for name, cls in COMMANDS.items() if cls.stage)


def read(event: CommandIssued) -> Command:
    """The command that an event recorded."""
    command: type[Any] = COMMANDS[event.name]
    issued: Command = command(**event.payload)
    return issued


_PLAYS = frozenset({"PlayFiller", "Speak"})
ANSWERS: Mapping[type[Result], frozenset[str]] = {
    inputs.IntentResolved: frozenset({"ClassifyIntent"}),
    inputs.RagAnswered: frozenset({"AnswerQuestion"}),
    inputs.ServiceFailed: STAGES,
    inputs.TtsChunkReady: _PLAYS,
    inputs.TtsComplete: _PLAYS,
    inputs.PlaybackStarted: _PLAYS,
    inputs.PlaybackProgress: _PLAYS,
    inputs.PlaybackDone: _PLAYS,
    inputs.TimerFired: frozenset({"StartTimer"}),
}
"""Which commands a result can answer."""
_ABOUT: Mapping[type[Result], str] = {
    inputs.TimerFired: "target",
    **{kind: "playback_id" for kind, names in ANSWERS.items() if names is _PLAYS},
}
"""The field in which a result repeats its command's target."""


def answers(result: Result, command: CommandIssued) -> bool:
    """Whether a result is of the kind that a command waits for, and about the same timer or playback."""
    kind = type(result)
    about = _ABOUT.get(kind)
    return command.name in ANSWERS[kind] and (about is None or getattr(result, about) == command.target)
