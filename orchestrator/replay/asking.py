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
"""Tolerance in milliseconds: how much later than in the recording a result of the agent, or the first sound of an
answer, may come without being late.
"""

Given = tuple[int, Result]
"""(microseconds, result of an agent). The microseconds count from the question. For ToolReturned, they are the duration
of the tool call.
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
    """The results of the recorded question with the same words, without stale results. Empty: there are none."""
    silent_us: int = -1
    """Microseconds from the recorded question until the recording cancelled this question, or ended. If the question is
    not recorded, or missed the deadline and got no late answer: the usual latency of an answer, minus 1.
    """
    tools: RecordedTools = field(default_factory=lambda: RecordedTools(()))
    """The tool calls of the recording."""


Agent = Callable[[Question], Iterable[Given]]
"""A function that answers a question. It returns these results, in this order: ToolReturned for each tool call; the
other facts of the journal (ToolCalled, ModelResponded) and the texts of the answer (AnswerText); then RagAnswered or
ServiceFailed, unless the answer never ends.
"""


def at_the_recorded_pace(given: Iterable[Given], question: Question, late_ms: int = LATE_MS) -> Iterator[Given]:
    """Yield the results of an agent (`given`), each with the time when it comes in the rerun. All times count from the
    question.

    The n-th text of the answer is due when the n-th recorded text came; the same holds for each other type of result.
    The end of the answer is due at its recorded end. A result that the recording lacks is due at the recorded end of
    the answer or, if there is none, 1 microsecond after `question.silent_us`. Results are due earlier if the recorded
    agent waited for tool calls that today's agent does not make.

    A result comes when it is due, even if the agent is faster. If the agent gives it more than `late_ms` milliseconds
    later, it comes at the agent's time. Results stay in the order of `given`. A result that has the time and the
    content of the recorded result is yielded as the recorded event.
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
    """Return a function: time → how much of the time before it today's agent saves, because it makes fewer tool calls.
    Times count from the question, in microseconds. `given`: the results of today's agent, with its tool calls.
    """
    left = Counter((one.name, one.arguments) for _, one in given if isinstance(one, ToolCalled))
    calls, made = list[tuple[int, int]](), list[tuple[int, int]]()
    for at_us, one in question.recorded:
        if isinstance(one, ToolCalled):
            calls.append((at_us, at_us + question.tools.took_us(one)))
            if left[one.name, one.arguments]:
                left[one.name, one.arguments] -= 1
                made.append(calls[-1])
    # a call that today's agent makes too saves no time, nor does another call beside it
    return lambda until_us: _busy_us(calls, until_us) - _busy_us(made, until_us)


def _busy_us(calls: list[tuple[int, int]], until_us: int) -> int:
    """Return how long at least one of the calls was running before the time `until_us`. `calls`: (begin, end) of each
    call. All times are in microseconds.
    """
    busy_us = over_us = 0
    for begin_us, end_us in sorted(calls):
        begin_us, end_us = max(begin_us, over_us), min(end_us, until_us)
        busy_us += max(0, end_us - begin_us)
        over_us = max(over_us, end_us)
    return busy_us


def _kind(result: Result) -> object:
    """Return the key by which the results of two answers are matched: "end" for the last result, else the type."""
    return "end" if result.is_last else type(result)


def same_result(one: Result, other: Result) -> bool:
    """Whether two results of an AnswerQuestion have the same type and content. Ids, times, sources and numbers of
    tokens are not compared.
    """
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
