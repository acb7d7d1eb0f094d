"""The invariants of tool calls: each runs once committed, for a turn, within its limit, and is never forgotten."""

from collections.abc import Iterator

from events.derived import CommandIssued
from events.journal import ToolCalled
from orchestrator.simulation.steps import Seen
from tests.simulation.log_book import Book, Checker


def may_run(book: Book, event: ToolCalled) -> bool:
    """Whether this call counts: its answer is awaited in a turn, it is within the limit, and it does not run yet."""
    is_open = any(command.target == event.call_id for command in _open(book))
    is_awaited = book.what_it_answers(event) is not None and book.phase in ("THINKING", "SPEAKING")
    return is_awaited and not is_open and book.calls < book.policy.tools.calls


def a_call_runs_when_it_counts(book: Book, step: Seen) -> Iterator[str]:
    """Tool: a call that counts runs in its step, with the limit of the policy; nothing else runs but retries."""
    new = [command for command in step.commands if command.name == "RunTool" and not command.retry_of]
    due = [step.input.call_id] if isinstance(step.input, ToolCalled) and may_run(book, step.input) else []
    if [command.target for command in new] != due:
        yield f"{[command.target for command in new]} runs, {due} is due"
    if any(command.payload["limit_ms"] != book.policy.tools.limit_ms for command in new):
        yield "a call without the limit of the policy"


def the_answer_waits_for_its_call(book: Book, step: Seen) -> Iterator[str]:
    """Tool: when a call begins, the deadline of its answer leaves it its whole time."""
    if isinstance(step.input, ToolCalled) and may_run(book, step.input):
        armed = [c for c in step.commands if (c.name, c.target) == ("StartTimer", "answer_deadline")]
        due_us = [int(str(command.payload["due_at_us"])) for command in armed]
        if not due_us or due_us[0] < step.input.at_us + book.policy.tools.limit_ms * 1000:
            yield f"the deadline of the answer is {due_us}, at {step.input.at_us}"


def a_call_ends_with_its_turn_if_it_may(book: Book, step: Seen) -> Iterator[str]:
    """Tool: CancelTask comes with the withdrawal of the calls that end with their turn, and of no other."""
    withdrawn = {str(c.payload["command_id"]) for c in step.commands if c.name == "CancelStage"}
    is_over = any(command.name == "CancelTask" for command in step.commands)
    ends = any(command.name == "CloseSession" for command in step.commands)
    for command in _open(book):
        due = ends or (is_over and bool(command.payload["is_cancellable"]))
        if due != (command.command_id in withdrawn):
            yield f"{command.target} is {'not ' if due else ''}withdrawn"


def no_call_stays_open(book: Book, step: Seen) -> Iterator[str]:
    """Tool: a call is over after its limit, counted anew for each owner, plus the delay caused by the world."""
    for command in _open(book):
        late_us = book.at_us - command.at_us - book.policy.tools.limit_ms * 1000 - step.excused_us
        if late_us > step.set_us:
            yield f"{command.target} is open {late_us // 1000} ms too long"


def _open(book: Book) -> list[CommandIssued]:
    return [command for command in book.outstanding.values() if command.name == "RunTool"]


BEFORE: tuple[tuple[str, Checker], ...] = (
    ("tool", a_call_runs_when_it_counts),
    ("tool", the_answer_waits_for_its_call),
    ("tool", a_call_ends_with_its_turn_if_it_may),
)
AFTER: tuple[tuple[str, Checker], ...] = (("tool", no_call_stays_open),)
