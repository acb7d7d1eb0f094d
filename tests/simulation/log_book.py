"""Reads a session's log independently of the core, so that checkers compare the core with a second implementation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from events import derived, inputs, journal
from events.derived import CommandIssued
from events.envelope import Event, Input, Result
from orchestrator.session.policy import Policy
from orchestrator.simulation.steps import PLAYS, STAGES, Seen, plain

EXPECTS_RESULT = (*STAGES, "RunTool", "StartTimer")
WHAT_ANSWERS: dict[type[Event], tuple[str, ...]] = {
    inputs.AnswerText: ("AnswerQuestion",),
    inputs.IntentResolved: ("ClassifyIntent",),
    inputs.RagAnswered: ("AnswerQuestion",),
    inputs.ServiceFailed: STAGES,
    inputs.TtsChunkReady: PLAYS,
    inputs.TtsComplete: PLAYS,
    inputs.PlaybackStarted: PLAYS,
    inputs.PlaybackProgress: PLAYS,
    inputs.PlaybackDone: PLAYS,
    inputs.TimerFired: ("StartTimer",),
    journal.ToolCalled: ("AnswerQuestion",),
    journal.ModelResponded: ("AnswerQuestion",),
    journal.ToolReturned: ("RunTool",),
}
ABOUT = {"playback_id": PLAYS, "target": ("StartTimer",), "call_id": ("RunTool",)}
"""The field of a result that repeats the target of its command."""
LAST_WORDS = (
    inputs.IntentResolved,
    inputs.RagAnswered,
    inputs.ServiceFailed,
    inputs.PlaybackDone,
    inputs.TimerFired,
    journal.ToolReturned,
)
FAILS_SPEECH = ("tts_deadline", "playback_deadline")

LONGEST_PAUSE_US = 2_000_000
"""A longer silence is no pause within an utterance."""


@dataclass(slots=True)
class Answer:
    """The current answer or announcement, according to the log."""

    playback_id: str
    text: str
    ends: str = ""
    audio_ms: int = 0
    chunks: int = 0
    complete: bool = False
    was_complete: bool = False
    """Whether synthesis was complete under a former owner."""
    total_ms: int = 0
    position_ms: int = 0
    from_ms: int = 0
    """Position from which a retry continues, such as after a change of owner."""
    paused_us: int | None = None
    """The world's time when the pause began; None: not paused."""
    words: list[tuple[int, str]] = field(default_factory=list)
    """(start in ms of audio, word) for each word that the synthesiser has timed so far."""
    is_open: bool = False
    """Whether more texts of the answer follow."""
    texts: list[tuple[str, int | None]] = field(default_factory=list)
    """(text, start of its audio in ms, if it has begun) for each text of an answer that comes in texts."""
    has_started: bool = False
    """Whether the current attempt has started to play."""
    indices: set[int] = field(default_factory=set)
    """The chunks of the current attempt."""
    is_shown: bool = False
    """Whether it comes in texts, and is shown instead of spoken."""

    @property
    def can_be_interrupted(self) -> bool:
        return self.ends in ("", "goodbye", "user_away")

    def starts(self) -> None:
        """Playback starts: aloud if there is sound of this attempt, else shown as text."""
        is_first = not self.has_started and self.paused_us is None
        if is_first or (self.is_shown and self.indices):
            self.is_shown = bool(self.texts) and not self.indices
            self.has_started = True

    def takes(self, event: inputs.TtsChunkReady) -> None:
        """A chunk of audio is there. Of an answer in texts, one that is said again counts once."""
        if self.texts and event.index in self.indices:
            return
        self.indices.add(event.index)
        self.begins_text(event.text_index)
        self.chunks += 1
        self.audio_ms += event.duration_ms
        self.words += [(word.at_ms, word.text) for word in event.words]

    def begins_text(self, index: int) -> None:
        """The next chunk of audio belongs to this text."""
        for number, (text, begins_ms) in enumerate(self.texts[: index + 1]):
            self.texts[number] = text, self.audio_ms if begins_ms is None else begins_ms


@dataclass(slots=True)
class Turn:
    """The open turn."""

    text: str
    via: str
    at_us: int
    processed: derived.ProcessingComplete | None = None


@dataclass(frozen=True, slots=True)
class Guess:
    """Questions that were asked before the utterance was complete."""

    number: int
    text: str
    is_answered: bool = False


@dataclass(slots=True)
class User:
    """The user's behaviour, according to the session's inputs."""

    is_speaking: bool = False
    since_us: int = 0
    stopped_us: int = 0
    partial: str = ""
    partial_us: int = 0
    """When `partial` last changed."""
    is_complete: bool = False
    """Whether the recogniser says that `partial` is complete."""
    paused_us: int = 0
    """The longest silence after which they spoke on, since their last spoken final."""
    last_us: int = 0
    """The world's time when the user last did anything."""
    said: tuple[list[str], str, int] | None = None
    """(words, producer, time) of the last spoken final, or of the last partial that counted without one."""
    late: str = ""
    """That partial, until its final comes; empty: the last words were those of a final."""


@dataclass(slots=True)
class Book:
    """The session's state according to the log so far."""

    phase: str = "NEW"
    since_us: int = 0
    """The world's time when the phase began, or when a new owner restarted its deadlines."""
    version: int = 0
    at_us: int = 0
    now_us: int = 0
    """The world's time of the last step."""
    set_us: int = 0
    """`Seen.set_us` of the last step."""
    inputs_taken: int = 0
    turns: int = 0
    epoch: int = 0
    session_id: str = ""
    policy: Policy = field(default_factory=Policy)
    client_id: str = ""
    handler_id: str = ""
    connected: set[str] = field(default_factory=set)
    """Clients that have connected since the last change of owner."""
    owner: str = ""
    node: str = ""
    user: User = field(default_factory=User)
    turn: Turn | None = None
    merges: int = 0
    """How many earlier turns are merged into this turn."""
    held: str = ""
    held_via: str = ""
    answer: Answer | None = None
    texts: list[str] = field(default_factory=list)
    """The answer to the last question, as far as it came in texts."""
    called: list[str] = field(default_factory=list)
    """Idempotency keys of the tool calls for the last question."""
    guess: Guess | None = None
    guesses: int = 0
    """Number of guesses for the current utterance."""
    answer_failures: int = 0
    speech_failures: int = 0
    hearing_failures: int = 0
    prompts: int = 0
    limits: int = 0
    limit_us: int = 0
    """The world's time when `session_limit` first fired."""
    outstanding: dict[str, CommandIssued] = field(default_factory=dict)
    timers: dict[str, CommandIssued] = field(default_factory=dict)
    """Armed timers by name."""
    closed: dict[str, str] = field(default_factory=dict)
    """Commands no longer outstanding: command_id → answered, cancelled, stopped, withdrawn or retried."""
    issued: set[str] = field(default_factory=set)
    resumed: bool = False

    def what_it_answers(self, event: Input) -> CommandIssued | None:
        """The outstanding command that a result answers; None: the event is stale, no result, or does not fit it."""
        if not isinstance(event, Result):
            return None
        command = self.outstanding.get(event.command_id)
        if command is None or command.name not in WHAT_ANSWERS[type(event)]:
            return None
        fields = [name for name in ABOUT if command.name in ABOUT[name] and hasattr(event, name)]
        about = getattr(event, fields[0]) if fields else command.target
        return command if about == command.target else None

    def is_next_text(self, event: inputs.AnswerText) -> bool:
        """Whether this is the next text of the answer that is being written."""
        return self.what_it_answers(event) is not None and event.index == len(self.texts) and bool(event.text)

    def is_outstanding(self, *names: str) -> bool:
        return any(command.name in names for command in self.outstanding.values())

    def is_new_owner(self, event: Input) -> bool:
        """Whether this SESSION_RESUMED is the first from its owner, in an open session."""
        is_known = (event.incarnation, node_of(event)) == (self.owner, self.node)
        return self.phase not in ("NEW", "ENDED") and not is_known

    def repeats(self, event: inputs.SttFinal) -> bool:
        """Whether another producer has just reported these words: a second recogniser heard the same speech."""
        if self.user.said is None or event.via == "text":
            return False
        if self.user.late:
            has_spoken, said = self.user.since_us > self.user.said[2], " ".join(plain(event.text))
            of_the_next = "stt_deadline" in self.timers and (
                not has_spoken or said.startswith(" ".join(plain(self.user.partial)))
            )
            return self.may_be_late(event.at_us) and not of_the_next and plain(self.user.late) == plain(event.text)
        words, producer, at_us = self.user.said
        is_recent = event.at_us - at_us <= self.policy.deadlines.stt_ms * 1000
        return producer != event.producer and words == plain(event.text) and is_recent

    def late_words(self, at_us: int) -> str:
        """The words that counted without their final, if it may still come: not for long, and not once the user speaks
        again.
        """
        is_silent_since = self.user.said is not None and self.user.since_us <= self.user.said[2]
        return self.user.late if is_silent_since and self.may_be_late(at_us) else ""

    def may_be_late(self, at_us: int) -> bool:
        """Whether a final may still come for words that have counted without it."""
        said = self.user.said
        return said is not None and bool(self.user.late) and at_us - said[2] <= self.policy.deadlines.stt_ms * 1000

    def is_old(self, event: inputs.SttPartial) -> bool:
        """Whether a partial repeats words that have counted, and the user has not begun to speak since."""
        user = self.user
        if user.said is None or not user.said[0] or user.since_us > user.said[2]:
            return False
        in_time = event.at_us - user.said[2] <= self.policy.deadlines.stt_ms * 1000
        return in_time and user.said[0] == plain(event.text)

    @property
    def is_quiet(self) -> bool:
        """Whether the user is silent, and no words of theirs are still to come."""
        return not self.user.is_speaking and not {"endpoint", "stt_deadline"} & self.timers.keys()

    def is_awaited(self, event: inputs.SttFinal) -> bool:
        """Whether the end of an utterance waits for this final; not for a duplicate, if other words came since."""
        is_other = self.repeats(event) and not " ".join(plain(event.text)).startswith(
            " ".join(plain(self.user.partial))
        )
        return "stt_deadline" in self.timers and not is_other

    def absorb(self, step: Seen) -> None:
        """Fold one more step."""
        self._absorb_input(step)
        for event in step.said:
            self._absorb_derived(event, step.now_us)
        last = step.said[-1] if step.said else step.input
        self.version, self.at_us = last.version, last.at_us
        self.now_us, self.set_us = step.now_us, step.set_us

    def _absorb_input(self, step: Seen) -> None:
        event = step.input
        self.inputs_taken += 1
        if isinstance(event, Result):
            self._absorb_result(event, step.now_us)
        elif isinstance(event, inputs.SttFinal):
            self._absorb_final(event, step)
        elif self.phase not in ("NEW", "ENDED"):
            if isinstance(event, inputs.HearingFailed) and not self.late_words(event.at_us):
                self.hearing_failures += event.is_utterance_lost
            self._absorb_speech(event, step.now_us)
            self._absorb_connection(event, step.now_us)
        if isinstance(event, inputs.SessionOpened) and not self.session_id:
            self.session_id, self.owner, self.node = event.session_id, event.incarnation, node_of(event)
            self.policy = Policy.read(event.policy) or self.policy

    def _absorb_final(self, event: inputs.SttFinal, step: Seen) -> None:
        words, user = event.text.strip(), self.user
        user.last_us = step.now_us
        if self.phase in ("NEW", "IDLE", "ENDED"):
            return
        if not words or self.repeats(event):
            if self.is_awaited(event):  # nothing was said after all
                self.guess, self.guesses, user.partial = None, 0, ""
            elif words and user.late and user.said is not None:
                if self.late_words(event.at_us):
                    user.partial, user.is_speaking = "", False
                user.said, user.late = (user.said[0], event.producer, user.said[2]), ""
            return
        if event.via == "speech" and self.phase == "INTERRUPT" and not user.is_speaking:
            self.held = self.held.removesuffix(self.late_words(event.at_us)).rstrip()
        if event.via == "speech":
            user.said, user.late = (plain(words), event.producer, event.at_us), ""
            user.paused_us = 0
        user.partial, user.is_speaking = "", False
        interrupts = any(isinstance(e, derived.UserInterrupted) for e in step.said)
        if self.phase == "INTERRUPT" or interrupts:
            self.held, self.held_via = f"{self.held} {words}".strip(), event.via

    def _absorb_speech(self, event: Input, now_us: int) -> None:
        user = self.user
        match event:
            case inputs.SpeechStarted():
                silence_us = event.at_us - user.stopped_us
                if not user.is_speaking and user.partial and silence_us <= LONGEST_PAUSE_US:
                    user.paused_us = max(user.paused_us, silence_us)
                if self.is_quiet:
                    user.partial = ""
                user.is_speaking, user.since_us = True, event.at_us
            case inputs.SpeechStopped():
                user.is_speaking, user.stopped_us = False, event.at_us
            case inputs.SttPartial() if not self.is_old(event):
                user.is_complete = event.is_complete
                if user.partial != event.text:
                    user.partial, user.partial_us = event.text, event.at_us
            case inputs.BargeIn():
                pass
            case _:
                return
        user.last_us = now_us

    def _absorb_connection(self, event: Input, now_us: int) -> None:
        if node_of(event) != self.node and not isinstance(event, inputs.SessionResumed):
            return  # late, from before that node lost the session
        match event:
            case inputs.ClientConnected():
                self.client_id = event.client_id
                self.connected.add(event.client_id)
                self.user.last_us = now_us
            case inputs.ClientDisconnected() if event.client_id == self.client_id:
                self.client_id = ""
            case inputs.HandlerAttached():
                self.handler_id = event.handler_id
            case inputs.HandlerDetached() if event.handler_id == self.handler_id:
                self.handler_id = ""
                self.user.is_speaking = False
            case inputs.SessionResumed() if self.is_new_owner(event):
                self.owner, self.node = event.incarnation, node_of(event)
                self.client_id = self.handler_id = ""
                self.connected.clear()
                self.user.is_speaking, self.user.said, self.user.late, self.guess = False, None, "", None
                self.epoch += 1
                self.since_us = self.user.last_us = now_us
                self.resumed = True

    def _absorb_result(self, event: Result, now_us: int) -> None:
        command = self.what_it_answers(event)
        if command is None:
            return
        if isinstance(event, inputs.AnswerText) and self.is_next_text(event):
            self.texts.append(event.text)
        if isinstance(event, LAST_WORDS):
            self._close(event.command_id, "answered")
        self._apologise(event, command.name)
        self._count_failures(event, command.name, now_us)
        answer = self.answer
        if answer is None or getattr(event, "playback_id", "") != answer.playback_id:
            return
        match event:
            case inputs.PlaybackStarted():
                answer.starts()
            case inputs.TtsChunkReady():
                answer.takes(event)
            case inputs.TtsComplete():
                answer.complete, answer.total_ms = True, event.duration_ms
            case inputs.PlaybackProgress() | inputs.PlaybackDone():
                answer.position_ms = max(answer.position_ms, event.position_ms)

    def _apologise(self, event: Result, name: str) -> None:
        """An answer that breaks off in the middle ends with an apology."""
        breaks = isinstance(event, inputs.ServiceFailed) and name == "AnswerQuestion"
        is_late = isinstance(event, inputs.TimerFired) and event.target == "answer_deadline"
        if self.texts and self.turn is not None and (breaks or is_late):
            self.texts.append(f" {self.policy.fallback.cut_off}")

    def _count_failures(self, event: Result, name: str, now_us: int) -> None:
        """Count failures of answers and of speech in a row, and how often `session_limit` fired."""
        match event:
            case inputs.RagAnswered():
                self.answer_failures = 0 if self.turn else self.answer_failures
                self.guess = replace(self.guess, is_answered=True) if self.guess and not self.turn else self.guess
            case inputs.ServiceFailed():
                self.answer_failures += name == "AnswerQuestion" and self.turn is not None
                self.speech_failures += name == "Speak"
                if self.phase == "LISTENING":
                    self.guess = None
            case inputs.PlaybackDone() if name == "Speak":
                self.speech_failures = 0
            case inputs.TimerFired():
                self.answer_failures += event.target == "answer_deadline"
                self.speech_failures += event.target in FAILS_SPEECH
                if event.target == "session_limit":
                    self.limits += 1
                    self.limit_us = self.limit_us or now_us
                if event.target == "stt_deadline":
                    self._final_is_missing(event)

    def _final_is_missing(self, event: inputs.TimerFired) -> None:
        words = self.user.partial.strip()
        if not words:  # nothing was said after all
            self.guess, self.guesses = None, 0
        elif self.phase in ("LISTENING", "THINKING", "INTERRUPT"):
            self.user.said, self.user.late = (plain(words), "", event.at_us), words
        if words and self.phase == "INTERRUPT":
            self.held, self.held_via = f"{self.held} {words}".strip(), "speech"
        if self.phase not in ("LISTENING", "THINKING"):
            self.user.partial = ""

    def _absorb_derived(self, event: Event, now_us: int) -> None:
        match event:
            case derived.StateChanged():
                self.phase, self.since_us = event.to_phase, now_us
                if event.to_phase == "LISTENING" and self.is_quiet:
                    self.user.partial = ""
                self.prompts += event.reason == "user_away"
            case derived.TurnStarted():
                self._turn_starts(event)
            case derived.ProcessingComplete() if self.turn is not None:
                self.turn.processed = event
            case derived.TurnEnded():
                self.merges = self.merges + 1 if event.outcome == "merged" else 0
                self.turn = None
            case derived.AnswerEnded():
                self.answer = None
            case CommandIssued():
                self._absorb_command(event, now_us)

    def _turn_starts(self, event: derived.TurnStarted) -> None:
        if event.speculation and self.guess is not None and self.guess.is_answered:
            self.answer_failures = 0
        self.turns, self.hearing_failures = self.turns + 1, 0
        self.turn = Turn(event.text, event.via, event.at_us)
        self.held = self.held_via = self.user.partial = ""
        self.guess, self.guesses, self.prompts = None, 0, 0

    def _absorb_command(self, command: CommandIssued, now_us: int) -> None:
        self._open(command)
        match command.name:
            case "CancelTask":
                self.epoch += 1
                self._close_all(STAGES, "", "cancelled")
            case "StopPlayback":
                self._close_all(PLAYS, command.target, "stopped")
            case "CancelTimer" | "CancelStage":
                self._close(str(command.payload["command_id"]), "withdrawn")
            case "Speak":
                self._speaks(command)
            case "SpeakMore" if self.answer is not None:
                self._speaks_on(self.answer, command)
            case "PausePlayback" if self.answer is not None:
                self.answer.paused_us = now_us
            case "ResumePlayback" if self.answer is not None:
                self.answer.paused_us = None
            case "RunTool" | "AnswerQuestion" if not command.retry_of:
                self._absorb_work(command)

    def _absorb_work(self, command: CommandIssued) -> None:
        """A new question, or a tool call for it."""
        if command.name == "RunTool":
            self.called.append(command.idempotency_key)
            return
        self.texts, self.called = [], []
        if self.turn is None:
            self.guesses += 1
            self.guess = Guess(int(str(command.payload["speculation"])), str(command.payload["text"]))

    def _speaks(self, command: CommandIssued) -> None:
        if self.answer is None or self.answer.playback_id != command.target:
            text, is_open = str(command.payload["text"]), bool(command.payload.get("is_open"))
            self.answer = Answer(command.target, text, str(command.payload["ends"]), is_open=is_open)
            self.answer.texts = [(text, None)] if is_open else []
        else:
            self.answer.was_complete = self.answer.was_complete or self.answer.complete
            self.answer.audio_ms, self.answer.complete = int(str(command.payload["from_ms"])), False
            self.answer.has_started = False
            self.answer.indices.clear()
            self.answer.paused_us, self.answer.from_ms = None, int(str(command.payload["from_ms"]))

    def _speaks_on(self, answer: Answer, command: CommandIssued) -> None:
        text, index = str(command.payload["text"]), command.payload["index"]
        if text and index == len(answer.texts):
            answer.texts.append((text, None))
            answer.text += text
        answer.is_open = answer.is_open and not command.payload["is_last"]

    def _open(self, command: CommandIssued) -> None:
        self.issued.add(command.command_id)
        if command.retry_of:
            self._close(command.retry_of, "retried")
        if command.name in EXPECTS_RESULT:
            self.outstanding[command.command_id] = command
        if command.name == "StartTimer":
            self.timers[command.target] = command

    def _close_all(self, names: tuple[str, ...], target: str, how: str) -> None:
        for command in list(self.outstanding.values()):
            if command.name in names and target in ("", command.target):
                self._close(command.command_id, how)

    def _close(self, command_id: str, how: str) -> None:
        command = self.outstanding.pop(command_id, None)
        if command is not None:
            self.closed[command_id] = how
            if self.timers.get(command.target) is command:
                del self.timers[command.target]


Checker = Callable[[Book, Seen], Iterator[str]]


def node_of(event: Input) -> str:
    """The node of an input's producer, which is named `node` or `node:part`."""
    return event.producer.partition(":")[0]
