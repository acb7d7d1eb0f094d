"""What if: the same conversation under another policy, or with other inputs.

It is open loop. What the user did stays as it was recorded, in words and in time. What the services did is matched by
what was asked: an answer, an intent, a speech of the same text takes as long as it took; what was never asked is
answered by a model with the latencies of the recording, and counted as simulated. Timers fire when they are due.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import Any

from events import inputs
from events.derived import CommandIssued
from events.envelope import Event, Input, Result
from events.inputs import SessionOpened
from orchestrator.replay.fold_on import fold_on
from orchestrator.session.commands import OUTSTANDING
from orchestrator.session.evolve import TERMINAL
from orchestrator.session.heard import MS_PER_CHARACTER
from orchestrator.session.policy import Policy
from orchestrator.session.reducer import reduce
from orchestrator.session.state import State

SERVICE_US = 300_000
"""How long a service takes of which the recording says nothing."""
UNKNOWN = "(an answer that nobody recorded)"
SPEECH_US = 100_000
"""To the first chunk, likewise."""
PLAYS = ("Speak", "PlayFiller")
PRODUCER = "what-if"

Asked = tuple[str, ...]
"""What a command asks for: the stage, the turn and the text; an answer to it answers whoever asks the same."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be different."""

    policy: Policy | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Part → field → value, over the recorded policy."""
    without: frozenset[str] = frozenset()
    """Event ids of inputs that do not come."""
    insert: tuple[Input, ...] = ()

    def apply(self, recorded: Policy) -> Policy:
        """The policy that a session has then. Raises pydantic's ValidationError."""
        base = (self.policy or recorded).recorded()
        return Policy.model_validate(
            {p: fields | self.settings.get(p, {}) for p, fields in base.items()}
            | {p: v for p, v in self.settings.items() if p not in base}
        )


@dataclass(slots=True)
class WhatIf:
    """What would have happened."""

    events: list[Event] = field(default_factory=list)
    results: int = 0
    simulated: int = 0
    """How many of the results nobody recorded."""


def what_if(recorded: Iterable[Event], change: Change) -> WhatIf:
    """Run a recorded conversation (whole, in order) with a change. Sessions do not touch each other.

    Raises UnsoundLogError.
    """
    by_session: dict[str, list[Event]] = defaultdict(list)
    for event in recorded:
        by_session[event.session_id].append(event)
    found = WhatIf()
    for log in by_session.values():
        _World(log, change, found).run()
    return found


RECORDED, MATCHED, SIMULATED = range(3)
"""How a result comes about: as it was, as it was for another command that asked the same, or by the model."""


class _World:
    """One session: its recorded past as a model of the world, and a queue of what comes next."""

    def __init__(self, log: list[Event], change: Change, found: WhatIf) -> None:
        self._change, self._found, self._log = change, found, log
        self._commands = {event.command_id: event for event in log if isinstance(event, CommandIssued)}
        self._results: dict[str, list[tuple[int, Result]]] = defaultdict(list)
        """Command id → what came of it, each with its place in the log."""
        self._asked: dict[Asked, list[CommandIssued]] = defaultdict(list)
        self._withdrawn_us: dict[str, int] = {}
        self._queue: list[tuple[int, int, Input, int]] = []
        self._order = count(len(log))
        self._held: dict[str, list[tuple[int, int, Input, int]]] = {}
        """Of a playback that is paused: what is left of it, counted from the pause."""
        self._state = State()
        self._learn()

    def _learn(self) -> None:
        """What came of each command when it was recorded; all else comes as it came."""
        outstanding = State()
        for order, event in enumerate(self._log):
            before = outstanding.pending.keys() - {getattr(event, "command_id", "")}
            fold_on(outstanding, event)
            self._withdrawn_us |= dict.fromkeys(before - outstanding.pending.keys(), event.at_us)
            if isinstance(event, CommandIssued):
                self._asked[_asked(event)].append(event)
            elif isinstance(event, Input) and event.event_id not in self._change.without:
                if isinstance(event, Result) and event.command_id in self._commands:
                    self._results[event.command_id].append((order, event))
                else:
                    heapq.heappush(self._queue, (event.at_us, order, self._opened(event), RECORDED))
        for event in self._change.insert:
            if event.session_id in ("", self._log[0].session_id):
                named = event.but(session_id=self._log[0].session_id, event_id=f"{PRODUCER}:{next(self._order)}")
                heapq.heappush(self._queue, (event.at_us, next(self._order), named, RECORDED))

    def run(self) -> None:
        """Until the recording is over, and with it what is being said."""
        end_us = max(self._log[-1].at_us, *(event.at_us for event in self._change.insert), 0)
        while self._queue:
            at_us, _, event, how = heapq.heappop(self._queue)
            if at_us > end_us and self._state.task is None and self._state.playback is None:
                return
            if isinstance(event, Result):
                if how != RECORDED and self._state.answered(event) is None:
                    continue  # it was cancelled meanwhile
                if not isinstance(event, inputs.TimerFired):
                    self._found.results += 1
                    self._found.simulated += how == SIMULATED
            step = reduce(self._state, event.but(at_us=at_us, version=0, producer_seq=0))
            self._state = step.state
            self._found.events += step.events
            for command in step.commands:
                self._carry_out(command)

    def _opened(self, event: Input) -> Input:
        if not isinstance(event, SessionOpened) or (policy := Policy.read(event.policy)) is None:
            return event
        return event.but(policy=self._change.apply(policy).recorded())

    def _carry_out(self, command: CommandIssued) -> None:
        if command.name == "PausePlayback":
            self._pause(command)
        elif command.name == "ResumePlayback":
            for after_us, order, event, how in self._held.pop(command.target, ()):
                heapq.heappush(self._queue, (command.at_us + after_us, order, event, max(how, MATCHED)))
        elif command.name in OUTSTANDING:
            twin = self._commands.get(command.command_id)
            is_the_same = twin is not None and (twin.at_us, twin.payload) == (command.at_us, command.payload)
            if is_the_same:
                for order, result in self._results[command.command_id]:
                    heapq.heappush(self._queue, (result.at_us, order, result, RECORDED))
            else:
                twin = self._alike(command)
            self._go_on(command, twin, is_the_same=is_the_same)

    def _alike(self, command: CommandIssued) -> CommandIssued | None:
        """A recorded command that asked the same; what came of it comes again, as long after it."""
        alike = self._asked.get(_asked(command), [])
        twin = next((one for one in alike if self._results[one.command_id]), alike[0] if alike else None)
        if twin is None or command.name == "StartTimer":
            return None
        for _, result in self._results[twin.command_id]:
            if result.cause:
                self._come(command, result.at_us - twin.at_us, result, MATCHED)
        return twin

    def _go_on(self, command: CommandIssued, twin: CommandIssued | None, *, is_the_same: bool) -> None:
        """What was not recorded, because the command was withdrawn first or never issued; what had not come by then
        although it was due never comes.
        """
        known = [result for _, result in self._results[twin.command_id] if result.cause] if twin else []
        if any(type(result) in TERMINAL for result in known):
            return
        silent_us = self._withdrawn_us.get(twin.command_id, self._log[-1].at_us) - twin.at_us if twin else -1
        for after_us, result in self._rest(command, [(r.at_us - twin.at_us, r) for r in known] if twin else []):
            if after_us > silent_us or (not is_the_same and command.name == "StartTimer"):
                self._come(command, after_us, result, SIMULATED)

    def _rest(self, command: CommandIssued, known: list[tuple[int, Result]]) -> Iterator[tuple[int, Result]]:
        match command.name:
            case "StartTimer":
                due_us = int(str(command.payload["due_at_us"])) - command.at_us
                yield max(0, due_us), inputs.TimerFired.made({"target": command.target})
            case "ClassifyIntent":
                after_us = self._usual_us(command.name)
                yield after_us, inputs.IntentResolved.made({"elapsed_us": after_us, "intent": ""})
            case "AnswerQuestion":
                after_us = self._usual_us(command.name)
                yield after_us, inputs.RagAnswered.made({"answer": UNKNOWN, "elapsed_us": after_us})
            case _:
                yield from _rest_of_playback(command, known)

    def _usual_us(self, name: str) -> int:
        took = [
            result.at_us - self._commands[command_id].at_us
            for command_id, results in self._results.items()
            for _, result in results
            if self._commands[command_id].name == name and result.cause
        ]
        return int(median(took)) if took else SERVICE_US

    def _pause(self, command: CommandIssued) -> None:
        """What is still to be played waits, unless it is recorded when it came; what is being synthesised goes on."""
        waits = (inputs.PlaybackProgress, inputs.PlaybackDone)
        held = [
            e
            for e in self._queue
            if isinstance(e[2], waits) and e[3] != RECORDED and e[2].playback_id == command.target
        ]
        self._queue = [entry for entry in self._queue if entry not in held]
        heapq.heapify(self._queue)
        self._held[command.target] = [(at_us - command.at_us, order, e, how) for at_us, order, e, how in sorted(held)]

    def _come(self, command: CommandIssued, after_us: int, result: Result, how: int) -> None:
        about = {"playback_id": command.target} if command.name in PLAYS and hasattr(result, "playback_id") else {}
        order = next(self._order)
        named = result.but(
            command_id=command.command_id,
            event_id=result.event_id if how == MATCHED else f"{PRODUCER}:{order}",
            incarnation=command.incarnation,
            producer=PRODUCER if how == SIMULATED else result.producer,
            session_id=command.session_id,
            **about,
        )
        heapq.heappush(
            self._queue, (command.at_us + after_us, order, named, how if command.name != "StartTimer" else MATCHED)
        )


def _rest_of_playback(command: CommandIssued, known: list[tuple[int, Result]]) -> Iterator[tuple[int, Result]]:
    """Synthesis and playback to their end, where the recording has less."""
    names = {"playback_id": command.target}
    chunks = [(us, c) for us, c in known if isinstance(c, inputs.TtsChunkReady)]
    complete = next((c for _, c in known if isinstance(c, inputs.TtsComplete)), None)
    started_us = next((us for us, c in known if isinstance(c, inputs.PlaybackStarted)), SPEECH_US)
    audio_ms = sum(chunk.duration_ms for _, chunk in chunks)
    length_ms = max(audio_ms, len(str(command.payload["text"])) * MS_PER_CHARACTER)
    if complete is not None:
        length_ms = complete.duration_ms
    else:
        more = [] if audio_ms >= length_ms else [length_ms - audio_ms]
        for index, duration_ms in enumerate(more, len(chunks)):
            yield started_us, inputs.TtsChunkReady.made(names | {"index": index, "duration_ms": duration_ms})
        total = {"chunks": len(chunks) + len(more), "duration_ms": length_ms}
        yield max([started_us, *(us for us, _ in chunks)]), inputs.TtsComplete.made(names | total)
    if not any(isinstance(result, inputs.PlaybackStarted) for _, result in known):
        yield started_us, inputs.PlaybackStarted.made(names)
    done = {"confirmed_by": "client", "position_ms": length_ms}
    yield started_us + length_ms * 1_000, inputs.PlaybackDone.made(names | done)


def _asked(command: CommandIssued) -> Asked:
    """Playbacks are matched by what is said; questions by the turn, too: the conversation before them matters."""
    text = str(command.payload["text"]) if "text" in command.payload else command.target
    if command.name in PLAYS:
        return command.name, text
    return command.name, str(command.turn), text
