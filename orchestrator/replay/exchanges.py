"""Folds a log into exchanges: the user's words in a turn with the agent's tool calls and answer, or an announcement."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from events import derived, inputs
from events.derived import CommandIssued
from events.envelope import Event
from events.journal import ToolCalled, ToolReturned


@dataclass(slots=True)
class Tool:
    """A tool call of the agent. `arguments` and `result` are JSON; `error` says why there is no result."""

    name: str
    arguments: str
    result: str = ""
    error: str = ""

    @property
    def call(self) -> str:
        """The call in short: `book({"day":"Friday"})`."""
        return f"{self.name}({'' if self.arguments == '{}' else self.arguments})"

    @property
    def returned(self) -> str:
        """The call's result, or its error after ✗."""
        return f"✗ {self.error}" if self.error else self.result or "no result"


@dataclass(slots=True)
class Exchange:
    """A turn of the user with the agent's answer, or an announcement of the agent."""

    session_id: str
    user: str = ""
    """The user's words; empty: the exchange is an announcement."""
    turn: int = 0
    playback_id: str = ""
    agent: str = ""
    """The agent's words that were given to the synthesiser."""
    heard: str = ""
    """The agent's words that the user heard."""
    outcome: str = ""
    """How the playback ended: finished, interrupted or failed; empty: nothing was spoken."""
    turn_outcome: str = ""
    wait_ms: int | None = None
    """Milliseconds from the end of the user's speech, or from their typed words, to the first sound of the answer.
    None: no sound came.
    """
    failure: str = ""
    """The error of the answer service, or why the policy's fallback was spoken; empty: the answer did not fail."""
    tools: list[Tool] = field(default_factory=list)
    """The tool calls of the agent, in order."""
    texts: dict[int, str] = field(default_factory=dict, repr=False)
    """Index of a text in the answer → the text. `agent` is all these texts joined."""

    @property
    def key(self) -> str:
        """The key by which exchanges of two runs are paired: the user's words; if there are none, the kind of the
        playback, such as "greeting".
        """
        return self.user or self.playback_id.rstrip("0123456789-")


def exchanges(events: Iterable[Event]) -> list[Exchange]:
    """Return the exchanges of a log, in order: one for each turn, and one for each announcement of the agent, such as
    the greeting. A turn that was merged into the next turn is left out.
    """
    fold = _Fold()
    for event in events:
        fold.note(event)
    return [one for one in fold.found if one.turn_outcome != "merged"]


class _Fold:
    def __init__(self) -> None:
        self.found: list[Exchange] = []
        self._silent_us: dict[str, int] = {}
        self._began_us: dict[str, int] = {}
        self._turns: dict[str, Exchange] = {}
        self._playing: dict[tuple[str, str], Exchange] = {}
        self._questions: set[str] = set()
        self._asked: ToolCalled | None = None
        self._tools: dict[tuple[str, str], Tool] = {}
        """(session id, call id) → the running tool call."""

    def note(self, event: Event) -> None:
        session_id = event.session_id
        match event:
            case inputs.SpeechStopped():
                self._silent_us[session_id] = event.at_us
            case derived.TurnStarted():
                since_us = self._silent_us.pop(session_id, event.at_us)
                self._began_us[session_id] = since_us if event.via == "speech" else event.at_us
                exchange = self._turns[session_id] = Exchange(session_id, event.text, event.turn)
                self.found.append(exchange)
            case derived.TurnEnded() if session_id in self._turns:
                self._turns.pop(session_id).turn_outcome = event.outcome
            case CommandIssued(name="AnswerQuestion"):
                self._questions.add(event.command_id)
            case CommandIssued(name="Speak"):
                self._speaks(event)
            case CommandIssued(name="SpeakMore"):
                if (speaking := self._playing.get((session_id, str(event.payload["playback_id"])))) is not None:
                    _add(speaking, event)
            case CommandIssued(name="RunTool") | ToolCalled() | ToolReturned():
                self._note_a_tool(event)
            case _:
                self._note_the_answer(event)

    def _note_a_tool(self, event: CommandIssued | ToolCalled | ToolReturned) -> None:
        match event:
            case ToolCalled():
                self._asked = event
            case ToolReturned() if event.cause and (event.session_id, event.call_id) in self._tools:
                tool = self._tools.pop((event.session_id, event.call_id))
                tool.result, tool.error = event.result, event.error
            case CommandIssued() if self._asked is not None and event.cause == self._asked.event_id:
                key = event.session_id, self._asked.call_id
                tool = self._tools[key] = Tool(self._asked.name, self._asked.arguments)
                if event.session_id in self._turns:
                    self._turns[event.session_id].tools.append(tool)

    def _note_the_answer(self, event: Event) -> None:
        session_id = event.session_id
        turn = self._turns.get(session_id)
        match event:
            case derived.ProcessingComplete() if event.fallback and turn is not None:
                turn.failure = turn.failure or event.fallback
            case inputs.ServiceFailed() if event.command_id in self._questions and turn is not None:
                turn.failure = event.error
            case inputs.PlaybackStarted():
                speaking = self._playing.get((session_id, event.playback_id))
                if speaking is not None and speaking.user and session_id in self._began_us:
                    speaking.wait_ms = (event.at_us - self._began_us.pop(session_id)) // 1000
            case derived.AnswerEnded():
                if (speaking := self._playing.pop((session_id, event.playback_id), None)) is not None:
                    speaking.outcome, speaking.heard = event.outcome, event.heard_text

    def _speaks(self, event: CommandIssued) -> None:
        key = event.session_id, event.target
        if (speaking := self._playing.get(key)) is None:
            speaking = self._turns.get(event.session_id)
            if speaking is None or speaking.playback_id:
                speaking = Exchange(event.session_id, turn=event.turn)
                self.found.append(speaking)
            speaking.playback_id = event.target
            self._playing[key] = speaking
        _add(speaking, event)


def _add(speaking: Exchange, event: CommandIssued) -> None:
    """Add the text of a Speak or SpeakMore to an exchange. A text that is spoken again after a takeover counts once."""
    index, text = int(str(event.payload.get("index", 0))), str(event.payload["text"])
    if text:
        speaking.texts[index] = text
        speaking.agent = "".join(speaking.texts[index] for index in sorted(speaking.texts))
