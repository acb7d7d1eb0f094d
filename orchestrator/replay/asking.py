"""The interface of a rerun to today's agent (Question, Agent), and the times at which the agent's results come."""

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
"""Tolerance in milliseconds. An agent's result, or the first sound of an answer, is late if it comes more than this
time after its recorded time.
"""

Given = tuple[int, Result]
"""(time, result of an agent). The time is in microseconds since the question. For ToolReturned, it is the duration of
the tool call in microseconds.
"""


@dataclass(frozen=True, slots=True)
class Question:
    """A question that a rerun asks today's agent. `command` is the AnswerQuestion command that the rerun issued."""

    command: CommandIssued
    conversation: tuple[Line, ...]
    """The conversation before the question."""
    said: tuple[str, ...]
    """The texts of the answer that came before a takeover. The agent continues the answer after them."""
    language: str
    recorded: tuple[Given, ...] = ()
    """The results of the recorded question with the same words. Stale results are left out."""
    silent_us: int = -1
    """Microseconds from the question until the recording cancelled the question or ended, whichever came first. If
    `recorded` holds no end of the answer, results that the recording lacks are due 1 microsecond later. If the question
    is not recorded, or if its answer missed the deadline and never came: 1 less than the usual latency of an answer, so
    that the results are due at the usual latency.
    """
    tools: RecordedTools = field(default_factory=lambda: RecordedTools(()))
    """The tool calls of the recording."""


Agent = Callable[[Question], Iterable[Given]]
"""Answers a question. Returns results in this order: the results of tool calls (ToolReturned); the other facts of the
agent's work (events/journal.py) and the texts of the answer (AnswerText); last, RagAnswered or ServiceFailed.
"""


def at_the_recorded_pace(given: Iterable[Given], question: Question, late_ms: int = LATE_MS) -> Iterator[Given]:
    """Yield the results of an agent (`given`) with their times in the new run. All times count from the question.

    The n-th result of a kind is due at the time of the n-th recorded result of that kind. If there is no such recorded
    result, the result is due at the end of the recorded answer or, if this end is not recorded, just after the
    recording cancelled the question or ended (`question.silent_us`). The time in which the recorded agent waited only
    for tool calls that today's agent does not make is subtracted from each due time.

    A result comes when it is due, so a fast fake model does not change the timing of the conversation. A result that
    the agent gives more than `late_ms` milliseconds after its due time comes at the agent's time, so a slow agent does
    change the timing. A result never comes before the results given earlier. If a result equals the recorded result in
    time and content, the recorded event itself is yielded.
    """
    given, recorded, before_us = [*given], question.recorded, 0
    saved_us = _saved_us(given, question)
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
        usual_us -= saved_us(usual_us)
        is_slow = after_us > usual_us + late_ms * 1000
        before_us = max(before_us, after_us if is_slow else usual_us)
        then = alike[0][1] if alike else None
        if then is not None and before_us == alike[0][0] and same_result(then, result):
            yield before_us, then
        else:
            yield before_us, result.replace(elapsed_us=before_us)


def _saved_us(given: list[Given], question: Question) -> Callable[[int], int]:
    """Return a function: time → how long, before this time, the recorded agent had waited only for tool calls that
    today's agent does not make. Times count from the question, in microseconds. `given`: the results of today's agent,
    which include its tool calls.
    """
    left = Counter((one.name, one.arguments) for _, one in given if isinstance(one, ToolCalled))
    calls, made = list[tuple[int, int]](), list[tuple[int, int]]()
    for at_us, one in question.recorded:
        if isinstance(one, ToolCalled):
            calls.append((at_us, at_us + question.tools.took_us(one)))
            if left[one.name, one.arguments]:
                left[one.name, one.arguments] -= 1
                made.append(calls[-1])
    return lambda until_us: _busy_us(calls, until_us) - _busy_us(made, until_us)


def _busy_us(calls: list[tuple[int, int]], until_us: int) -> int:
    """Return how long at least one of the calls was running before the time `until_us`. `calls`: (begin, end) of each
    call. All are in microseconds.
    """
    busy_us = over_us = 0
    for begin_us, end_us in sorted(calls):
        begin_us, end_us = max(begin_us, over_us), min(end_us, until_us)
        busy_us += max(0, end_us - begin_us)
        over_us = max(over_us, end_us)
    return busy_us


def _kind(result: Result) -> object:
    """Return the key by which results of two answers match: "end" for an answer's last result, else the type."""
    return "end" if result.is_last else type(result)


def same_result(one: Result, other: Result) -> bool:
    """Whether two results of the answer service have the same type and content. Sources and times are not compared."""
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
