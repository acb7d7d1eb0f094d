"""Drives the pure core like a conversation, so that a test reads like a call and checks the invariants at every step.

    call = Conversation.listening()
    call.at(1_000).says("hello").answers("Hi! How can I help?").speaks(chunks=10).played()
    assert call.state.phase == "LISTENING"
    assert call.golden[-1] == "[auto_session_12345] 🔵 LISTENING (playback_done)"
    call.check()

Times are in milliseconds of the session. After every step the state is compared with the fold of the log.
"""

from collections.abc import Callable, Iterable
from typing import Any

from events import inputs, journal
from events.codec import decode, encode
from events.derived import CommandIssued, Phase
from events.envelope import Derived, Event, Input, Result
from events.recording import Header, dump, parse
from orchestrator.replay.replay import replay
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.commands import COMMANDS, Command, answers, read
from orchestrator.session.evolve import apply, fold
from orchestrator.session.policy import Policy
from orchestrator.session.reducer import Step, reduce
from orchestrator.session.state import State, opening
from projections.golden_log import golden


class BrokenLawError(AssertionError):
    """An invariant of every conversation is violated; the message says which one."""


class Conversation:
    """One session, from NEW on. Methods that add an input or move time return the conversation, so that calls chain."""

    def __init__(
        self,
        session_id: str = "auto_session_12345",
        *,
        policy: Policy | None = None,
        incarnation: str = "incarnation-1",
        producer: str = "test",
    ) -> None:
        self.session_id = session_id
        self.policy = policy or Policy()
        self.incarnation = incarnation
        self.producer = producer
        self.now_us = 0
        self.state = State()
        self.steps: list[Step] = []
        self._folded = State()
        self._sent = 0

    @classmethod
    def listening(cls, session_id: str = "auto_session_12345", **how: Any) -> "Conversation":
        """A session whose client is connected."""
        return cls(session_id, **how).opens().connects()

    @classmethod
    def in_phase(cls, phase: Phase, session_id: str = "auto_session_12345", **how: Any) -> "Conversation":
        """A session that has taken the shortest way to a phase."""
        call = cls(session_id, **how)
        way: list[tuple[Phase, Callable[[], Any]]] = [
            ("IDLE", call.opens),
            ("LISTENING", call.connects),
            ("THINKING", lambda: call.after(1_000).says("hello")),
            ("SPEAKING", lambda: call.after(300).answers("Hi! How can I help?")),
            ("INTERRUPT", lambda: call.after(500).interrupts()),
            ("ENDED", call.closes),
        ]
        for _, go in way[: 0 if phase == "NEW" else [name for name, _ in way].index(phase) + 1]:
            go()
        return call

    # Results of the conversation so far.

    @property
    def log(self) -> list[Event]:
        """All committed events."""
        return [event for step in self.steps for event in step.events]

    @property
    def last(self) -> tuple[Event, ...]:
        """The events of the last step; empty: the input was a duplicate."""
        return self.steps[-1].events

    @property
    def commands(self) -> list[Command]:
        """The commands of the last step."""
        return [read(issued) for issued in self.steps[-1].commands]

    @property
    def golden(self) -> list[str]:
        """The golden log."""
        return golden(self.log)

    def outstanding(self, name: str, target: str = "") -> CommandIssued:
        """The outstanding command with this name; `name` may also be its target, such as a timer's name. Raises
        LookupError.
        """
        for command in self.state.pending.values():
            if name in (command.name, command.target) and target in ("", command.target):
                return command
        there = ", ".join(f"{c.name} {c.target}" for c in self.state.pending.values()) or "nothing"
        raise LookupError(f"no {name} {target} is outstanding in {self.state.phase}, but {there}")

    # Time, any input, and the common inputs by name.

    def at(self, ms: int) -> "Conversation":
        """Set the session's time to `ms` milliseconds after its start."""
        self.now_us = ms * 1000
        return self

    def after(self, ms: int) -> "Conversation":
        """Advance the session's time by `ms` milliseconds."""
        self.now_us += ms * 1000
        return self

    def input(self, kind: type[Input], **fields: Any) -> "Conversation":
        """Add an input. Without a `command_id`, a result answers the latest outstanding command that fits."""
        if issubclass(kind, Result) and "command_id" not in fields:
            fields = self._answering(kind, fields)
        self._sent += 1
        envelope: dict[str, Any] = {
            "producer": self.producer,
            "producer_seq": self._sent,
            "session_id": self.session_id,
        }
        return self.put(kind(**envelope | {"at_us": self.now_us, "incarnation": self.incarnation} | fields))

    def put(self, event: Input) -> "Conversation":
        """Add exactly this input. Raises BrokenLawError if an event cannot be read back, or if the state is not the
        fold of the log.
        """
        step = reduce(self.state, event)
        self.state = step.state
        self.steps.append(step)
        for said in step.events:
            if decode(encode(said)) != said:
                raise BrokenLawError(f"cannot be read back: {encode(said)[:200]!r}")
            apply(self._folded, said)
        if self._folded.hash() != self.state.hash():
            raise BrokenLawError(f"after {encode(event)[:200]!r} the state is not the fold of the log")
        return self

    def opens(self) -> "Conversation":
        return self.input(inputs.SessionOpened, **opening(self.policy.recorded()))

    def connects(self, client_id: str = "browser-1") -> "Conversation":
        return self.input(inputs.ClientConnected, client_id=client_id)

    def says(self, text: str, via: str = "speech") -> "Conversation":
        return self.input(inputs.SttFinal, text=text, via=via)

    def answers(self, text: str, intent: str = "greeting") -> "Conversation":
        """Both services answer; the intent service first, if it was asked."""
        if self.state.outstanding("ClassifyIntent"):
            self.input(inputs.IntentResolved, intent=intent)
        return self.input(inputs.RagAnswered, answer=text)

    def resolves(self, intent: str = "greeting") -> "Conversation":
        """The intent service answers."""
        return self.input(inputs.IntentResolved, intent=intent)

    def texts(self, *texts: str) -> "Conversation":
        """The answer service answers with these texts, the next ones of its answer; more may follow."""
        for text in texts:
            asked = self.state.task or self.state.speculation
            self.input(inputs.AnswerText, index=len(asked.found.texts) if asked else 0, text=text)
        return self

    def written(self) -> "Conversation":
        """The answer that came in texts is complete."""
        return self.input(inputs.RagAnswered, answer="")

    def calls(self, name: str, call_id: str = "", *, is_cancellable: bool = False) -> "Conversation":
        """The agent calls a tool. Without a `call_id`, the calls of a tool are numbered: book/1, book/2."""
        earlier = sum(isinstance(event, journal.ToolCalled) and event.name == name for event in self.log)
        call_id = call_id or f"{name}/{earlier + 1}"
        return self.input(journal.ToolCalled, arguments="{}", call_id=call_id, is_cancellable=is_cancellable, name=name)

    def returns(self, result: str = "null", *, error: str = "") -> "Conversation":
        """The last open tool call is over."""
        return self.input(journal.ToolReturned, error=error, result="" if error else result)

    def fails(self, command: str, error: str = "503") -> "Conversation":
        return self.input(inputs.ServiceFailed, command_id=self.outstanding(command).command_id, error=error)

    def speaks(self, chunks: int = 10, chunk_ms: int = 200) -> "Conversation":
        """The whole answer is synthesised, and its playback starts."""
        for index in range(chunks):
            self.input(inputs.TtsChunkReady, index=index, duration_ms=chunk_ms)
            if index == 0:
                self.input(inputs.PlaybackStarted)
        return self.input(inputs.TtsComplete, chunks=chunks, duration_ms=chunks * chunk_ms)

    def played(self) -> "Conversation":
        return self.input(inputs.PlaybackDone, confirmed_by="client")

    def interrupts(self) -> "Conversation":
        return self.input(inputs.BargeIn)

    def fires(self, timer: str) -> "Conversation":
        """Advance the time until this timer is due, and fire it."""
        armed = self.outstanding("StartTimer", timer)
        self.now_us = max(self.now_us, int(str(armed.payload["due_at_us"])))
        return self.input(inputs.TimerFired, command_id=armed.command_id, target=timer)

    def resumes(self, incarnation: str) -> "Conversation":
        """A new owner takes the session's shard."""
        self.incarnation = incarnation
        return self.input(inputs.SessionResumed, reducer_version=REDUCER_VERSION)

    def closes(self, reason: str = "goodbye") -> "Conversation":
        return self.input(inputs.SessionCloseRequested, reason=reason)

    # Invariants of every conversation.

    def recording(self, story: str = "") -> bytes:
        return recorded(self, story=story)

    def check(self) -> None:
        """Raise BrokenLawError unless the fold of the log is the state and the replay of its recording is equal."""
        if fold(self.log) != self.state:
            raise BrokenLawError("the fold of the whole log is not the state")
        replayed = replay(parse(self.recording(), self.session_id))
        if replayed.divergence is not None:
            raise BrokenLawError(f"the replay of its own recording differs: {replayed.divergence}")

    def _answering(self, kind: type[Result], fields: dict[str, Any]) -> dict[str, Any]:
        for command in reversed(self.state.pending.values()):
            about = {kind.about: command.target} if kind.about else {}
            filled = about | {"command_id": command.command_id} | fields
            if answers(kind.model_construct(**filled), command):
                return filled
        raise LookupError(f"nothing that {kind.__name__} answers is outstanding in {self.state.phase}")


def recorded(*calls: Conversation, story: str = "") -> bytes:
    """The recording of one or more conversations, with their steps ordered by time."""
    steps = [step for call in calls for step in call.steps if step.events]
    steps.sort(key=lambda step: step.events[0].at_us)
    header = Header(reducer_version=REDUCER_VERSION, story=story)
    return dump(header, (encode(event) for step in steps for event in step.events))


class given:  # noqa: N801 - reads as given(log).when(event).then(...)
    """Tests one decision: `given(log).when(event).then(TurnStarted, ClearText, …, phase="THINKING")`."""

    def __init__(self, log: Iterable[Event] = ()) -> None:
        self.state = fold(log)
        self.said: tuple[Event, ...] = ()

    def when(self, event: Input) -> "given":
        step = reduce(self.state, event)
        self.state, self.said = step.state, step.events[1:]
        return self

    def then(self, *expected: Command | type[Command] | type[Derived], **state: Any) -> "given":
        """Assert that the step derived exactly these events, and that the named fields of the new state have these
        values. Give derived events as classes, commands as classes or instances.
        """
        said = [read(event) if isinstance(event, CommandIssued) else event for event in self.said]
        wanted = [*expected]
        fits = len(said) == len(wanted) and all(
            got == want or type(got) is want for got, want in zip(said, wanted, strict=True)
        )
        if not fits:
            raise AssertionError(f"expected {[_short(w) for w in wanted]}, got {[_short(s) for s in said]}")
        for name, value in state.items():
            if (found := getattr(self.state, name)) != value:
                raise AssertionError(f"expected {name}={value!r}, got {found!r}")
        return self


def _short(said: object) -> str:
    if isinstance(said, type):
        return said.__name__
    return repr(said) if isinstance(said, tuple(COMMANDS.values())) else type(said).__name__
