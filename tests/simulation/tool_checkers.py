"""The invariants of tool calls: each runs once committed, for a turn, within its limit, and is never forgotten."""

from collections.abc import Iterator

from events.derived import CommandIssued, TurnEnded
from events.journal import ToolCalled, ToolReturned
from orchestrator.simulation.steps import Seen
from tests.simulation.log_book import Book, Checker


def may_run(book: Book, event: ToolCalled) -> bool:
    """Whether this call counts: its answer is awaited in a turn, it is within the limit, and it does not run yet."""
    is_open = any(command.target == event.call_id for command in _open(book))
    is_awaited = book.what_it_answers(event) is not None and book.phase in ("THINKING", "SPEAKING")
    return is_awaited and not is_open and len(book.called) < book.policy.tools.calls


def a_call_runs_when_it_counts(book: Book, step: Seen) -> Iterator[str]:
    """Tool: a call that counts runs in its step, with the limit of the policy; nothing else runs but retries."""
    new = [command for command in step.commands if command.name == "RunTool" and not command.retry_of]
    due = [step.input.call_id] if isinstance(step.input, ToolCalled) and may_run(book, step.input) else []
    if [command.target for command in new] != due:
        yield f"{[command.target for command in new]} runs, {due} is due"
    if any(command.payload["limit_ms"] != book.policy.tools.limit_ms for command in new):
        yield "a call without the limit of the policy"


def the_answer_waits_for_its_call(book: Book, step: Seen) -> Iterator[str]:
    """Tool: a call that begins restarts the deadline of its answer. Each deadline that starts while a call for its
    question runs leaves the call its whole time; no other deadline waits for a call.
    """
    begins = isinstance(step.input, ToolCalled) and may_run(book, step.input)
    ended = step.input.call_id if isinstance(step.input, ToolReturned) else ""
    runs = any(call.idempotency_key in book.called and call.target != ended for call in _open(book))
    is_new = any(command.name == "AnswerQuestion" and not command.retry_of for command in step.commands)
    armed = [c for c in step.commands if (c.name, c.target) == ("StartTimer", "answer_deadline")]
    if begins and not armed:
        yield "the deadline of the answer goes on"
    limit_ms, deadlines = book.policy.tools.limit_ms, book.policy.deadlines
    least_ms = limit_ms if begins or (runs and not is_new) else 0
    most_ms = least_ms + max(deadlines.answer_ms, deadlines.next_text_ms)
    for timer in armed:
        wait_ms = (int(str(timer.payload["due_at_us"])) - timer.at_us) // 1000
        if not least_ms <= wait_ms <= most_ms:
            yield f"the answer is awaited for {wait_ms} ms, {least_ms} to {most_ms} are due"


def a_call_ends_with_its_turn_if_it_may(book: Book, step: Seen) -> Iterator[str]:
    """Tool: the end of a turn withdraws the calls that end with their turn, and no other."""
    withdrawn = {str(c.payload["command_id"]) for c in step.commands if c.name == "CancelStage"}
    is_over = any(isinstance(event, TurnEnded) for event in step.said)
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
