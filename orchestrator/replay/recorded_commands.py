"""The commands of one recorded session, with their results. A what-if or rerun looks up a command's results here."""

from collections import defaultdict
from collections.abc import Sequence

from events.derived import CommandIssued
from events.envelope import Event, Input, Result
from events.inputs import TimerFired
from orchestrator.replay.fold_on import fold_on
from orchestrator.session.commands import PLAYS
from orchestrator.session.state import State

Asked = tuple[str, ...]
"""The key of a command, made by `_asked`. Commands with the same key are similar commands (see the glossary)."""


class RecordedCommands:
    """The commands of a log. Call `note` with each event of the log, in order. `without`: event ids of inputs that the
    what-if leaves out.
    """

    def __init__(self, log: Sequence[Event], without: frozenset[str]) -> None:
        self.issued = {event.command_id: event for event in log if isinstance(event, CommandIssued)}
        self.results: dict[str, list[tuple[int, Result]]] = defaultdict(list)
        """Command id → its recorded results, each with its index in the log."""
        self.counted: set[str] = set()
        """Event ids of the recorded results that were not stale."""
        self.state = State()
        """The recorded state after the last event given to `note`."""
        self._without = without
        self._ended: set[str] = set()
        """Ids of the commands whose last result is recorded. Results that the what-if leaves out count too."""
        self._asked: dict[Asked, list[CommandIssued]] = defaultdict(list)
        self._withdrawn_by: dict[str, Event] = {}
        """Command id → the input whose step cancelled the command in the recording."""
        self._input: Event = log[0]
        """The last input given to `note`."""
        self._ends_us = log[-1].at_us

    def note(self, order: int, event: Event) -> None:
        """Add the next event of the log: store its command or result, and fold the event into `state`. `order`: the
        index of the event in the log.
        """
        self._input = event if isinstance(event, Input) else self._input
        if isinstance(event, Result) and event.command_id in self.issued:
            if self.state.answered(event) is not None:
                self.counted.add(event.event_id)
            if event.is_last and event.cause:
                self._ended.add(event.command_id)
            if event.event_id not in self._without:
                self.results[event.command_id].append((order, event))
        before = self.state.pending.keys() - {getattr(event, "command_id", "")}
        fold_on(self.state, event)
        self._withdrawn_by |= dict.fromkeys(before - self.state.pending.keys(), self._input)
        if isinstance(event, CommandIssued):
            self._asked[_asked(event)].append(event)

    def same(self, command: CommandIssued) -> CommandIssued | None:
        """Return the recorded command with the same id, time and payload. None: the recording has no such command."""
        twin = self.issued.get(command.command_id)
        return twin if twin is not None and (twin.at_us, twin.payload) == (command.at_us, command.payload) else None

    def alike(self, command: CommandIssued) -> CommandIssued | None:
        """Return a recorded command that is similar to `command`. Of several, prefers a command with results, then the
        nearest turn. None: the recording has no similar command.
        """
        alike = self._asked.get(_asked(command), [])
        is_far = [(not self.results[one.command_id], abs(one.turn - command.turn)) for one in alike]
        return alike[is_far.index(min(is_far))] if alike else None

    def has_results(self, command: CommandIssued) -> bool:
        """Whether the recording has a command that is similar to `command`, with results."""
        twin = self.alike(command)
        return twin is not None and bool(self.results[twin.command_id])

    def asked_before(self, command: CommandIssued) -> CommandIssued | None:
        """Return the recorded question with the same words as the AnswerQuestion `command`. Of several, returns the
        nearest in time. None: these words were never asked in the recording.
        """
        if (twin := self.same(command)) is not None:
            return twin
        words = command.payload["text"]
        alike = (one for one in self.issued.values() if one.name == command.name and one.payload["text"] == words)
        return min(alike, key=lambda one: abs(one.at_us - command.at_us), default=None)

    def has_ended(self, twin: CommandIssued) -> bool:
        """Whether the last result of the recorded command `twin` is recorded. A result that the what-if leaves out
        counts too.
        """
        return twin.command_id in self._ended

    def silent_us(self, twin: CommandIssued) -> int:
        """Return the microseconds from the recorded command `twin` until the recording cancelled it, or ended."""
        by = self._withdrawn_by.get(twin.command_id)
        return (by.at_us if by else self._ends_us) - twin.at_us

    def never_came(self, twin: CommandIssued) -> bool:
        """Whether the recorded question `twin` never got a complete answer: the deadline cancelled the question, and
        the answer did not come late either.
        """
        by, results = self._withdrawn_by.get(twin.command_id), self.results[twin.command_id]
        is_late = any(result.is_last for _, result in results)
        return isinstance(by, TimerFired) and by.target == "answer_deadline" and not is_late


def _asked(command: CommandIssued) -> Asked:
    """Return the key of a command: its name and its text. A command without a text has its target in place of the text
    (a tool call's id, a timer's name). Except for playbacks and tool calls, the key also has the turn: an answer
    depends on the turns before it.
    """
    text = str(command.payload["text"]) if "text" in command.payload else command.target
    if command.name in PLAYS or command.name == "RunTool":
        return command.name, text
    return command.name, str(command.turn), text
