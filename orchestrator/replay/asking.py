"""Asks an agent the questions of a recording, and fits the agent's results into the times of the recording."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from events import inputs
from events.derived import CommandIssued
from events.envelope import Result
from events.journal import ModelResponded, ToolCalled
from orchestrator.replay.recorded_tools import RecordedTools
from orchestrator.session.conversation import Line

LATE_MS = 300
"""Milliseconds after the recorded time from which an agent's text, or an answer's first sound, counts as late."""

Given = tuple[int, Result]
"""A result of an agent, and the time that it took from the question on, in microseconds."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question to the agent: an AnswerQuestion, the conversation before it, and what the recording has about it."""

    command: CommandIssued
    conversation: tuple[Line, ...]
    said: tuple[str, ...]
    """The texts of the answer that an earlier attempt gave, before the shard changed its owner."""
    language: str
    recorded: tuple[Given, ...] = ()
    """The results that the recorded agent gave to the same question."""
    silent_us: int = -1
    """How long the recording waited for results of the question, in microseconds, until it withdrew the question."""
    tools: RecordedTools = field(default_factory=lambda: RecordedTools(()))
    """The tool calls of the recording."""


Agent = Callable[[Question], Iterable[Given]]
"""Answers a question with results: the facts of the agent's work (events/journal.py), AnswerText events, and a last
RagAnswered or ServiceFailed. Results of tool calls come first, each with the time that the call took.
"""


def at_the_recorded_pace(given: Iterable[Given], question: Question, late_ms: int = LATE_MS) -> Iterator[Given]:
    """Yield the results of an agent at the times of the matching recorded results. A result that took over `late_ms`
    longer than recorded keeps its own time.

    So answers come when the recorded ones came, also if a stand-in replaces the model, and a slow agent is noticed.
    """
    recorded, before_us = question.recorded, 0
    is_whole = bool(recorded) and recorded[-1][1].is_last
    of_a_kind: dict[object, list[Given]] = defaultdict(list)
    for one in recorded:
        of_a_kind[_kind(one[1])].append(one)
    seen: Counter[object] = Counter()
    for after_us, result in given:
        kind = _kind(result)
        alike = of_a_kind[kind][seen[kind] : seen[kind] + 1]
        seen[kind] += 1
        later_us = recorded[-1][0] if is_whole else max(before_us, question.silent_us + 1)
        usual_us = alike[0][0] if alike else later_us
        is_slow = after_us > usual_us + late_ms * 1000
        before_us = max(before_us, after_us if is_slow else usual_us)
        then = alike[0][1] if alike else None
        if then is not None and before_us == usual_us and same_result(then, result):
            yield before_us, then
        else:
            yield before_us, result.but(elapsed_us=before_us)


def _kind(result: Result) -> object:
    """The key that matches the results of two answers: "end" for the last result of an answer, else its type."""
    return "end" if result.is_last else type(result)


def same_result(one: Result, other: Result) -> bool:
    """Whether two results of the answer service say the same. Names of sources are not compared."""
    return type(one) is type(other) and _content(one) == _content(other)


def _content(result: Result) -> object:
    match result:
        case inputs.AnswerText():
            return result.index, result.text
        case inputs.RagAnswered():
            return result.answer
        case inputs.ServiceFailed():
            return result.error
        case ToolCalled():
            return result.name, result.arguments, result.is_cancellable
        case ModelResponded():
            return result.response
        case _:
            return result
