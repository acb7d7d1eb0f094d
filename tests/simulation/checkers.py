"""The invariants of a session, as functions that check its log and the simulated world without using the core.

A checker gets the step, and the book before the step (BEFORE) or after it (AFTER). It yields a message for each
violation. This module has the checkers of bookkeeping; speech_checkers.py and policy_checkers.py have the others.
"""

from collections.abc import Iterator

from events import inputs
from events.derived import CommandIssued, EventRejected, SessionEnded, TurnEnded, TurnStarted
from events.envelope import Result
from events.journal import ToolCalled
from orchestrator.simulation.steps import Seen, type_of
from tests.simulation import floor_rules, policy_checkers, speech_checkers, text_checkers, tool_checkers
from tests.simulation.log_book import PLAYS, STAGES, Book, Checker

MICROPHONE = {
    "IDLE": "open",
    "LISTENING": "open",
    "THINKING": "gated",
    "SPEAKING": "gated",
    "INTERRUPT": "gated",
    "ENDED": "closed",
}
WORKS_IN = {
    "AnswerQuestion": ("LISTENING", "THINKING", "SPEAKING"),
    "ClassifyIntent": ("LISTENING", "THINKING"),
    "PlayFiller": ("THINKING",),
    "Speak": ("SPEAKING",),
}
WAY_OUT = {
    "IDLE": ("reconnect",),
    "THINKING": ("answer_deadline", "floor_deadline", "intent_deadline"),
    "SPEAKING": ("answer_deadline", "tts_deadline", "playback_deadline"),
    "INTERRUPT": ("interrupt_pause",),
}
TIMER_OF = {
    "greeting": "LISTENING",
    "away": "LISTENING",
    "stable": "LISTENING",
    "filler": "THINKING",
    "tool_filler": "THINKING",
    "intent_deadline": "THINKING",
    "floor_deadline": "THINKING",
    "tts_deadline": "SPEAKING",
    "playback_deadline": "SPEAKING",
    "barge_in": "SPEAKING",
    "false_interruption": "SPEAKING",
    "interrupt_pause": "INTERRUPT",
}
IN_A_REJECTION = (("CancelTimer", ""), ("ResumePlayback", ""), ("StartTimer", "playback_deadline"))
"""(command, target) allowed in a step that rejects a final in SPEAKING: the answer continues. An empty target: any."""


def numbers_count_up(book: Book, step: Seen) -> Iterator[str]:
    """I-1: versions are 1..n without gaps, time never goes back, ids follow the version, turn and epoch count up."""
    version, at_us, turn, epoch = book.version, max(book.at_us, step.input.at_us), book.turns, book.epoch
    if step.input.at_us < book.at_us:
        yield "time goes back"
    for event in (step.input, *step.said):
        version += 1
        turn += isinstance(event, TurnStarted)
        if event.version != version:
            yield f"version {event.version} where {version} is due"
        if event is not step.input and event.event_id != f"{event.session_id}:{version}":
            yield f"event id {event.event_id!r} at version {version}"
        if event.at_us != at_us:
            yield "a step has two times"
        if (event.turn, event.epoch) != (turn, epoch):
            yield f"turn {event.turn} epoch {event.epoch} where {turn} and {epoch} are due"
        resumed = isinstance(event, inputs.SessionResumed) and book.is_new_owner(event)
        epoch += resumed or getattr(event, "name", "") == "CancelTask"


def time_passes_in_the_log(book: Book, step: Seen) -> Iterator[str]:
    """I-1: between two steps the log's time advances by the time that passed, even if clocks were set meanwhile."""
    if book.version:
        passed_us, logged_us = step.now_us - book.now_us, step.input.at_us - book.at_us
        if abs(logged_us - passed_us) > step.set_us - book.set_us:
            yield f"{passed_us // 1000} ms passed, {logged_us // 1000} ms in the log"


def one_current_task(book: Book, step: Seen) -> Iterator[str]:
    """I-4: a turn is open exactly in THINKING and while its answer is spoken; each stage is outstanding at most once,
    and runs at most once at a time.
    """
    speaks = book.phase == "SPEAKING" and book.answer is not None and book.answer.playback_id.startswith("answer-")
    if (book.turn is not None) != (speaks or book.phase == "THINKING"):
        yield f"{'a' if book.turn else 'no'} turn is open in {book.phase}"
    names = [command.name for command in book.outstanding.values() if command.name in STAGES]
    if len(set(names)) != len(names):
        yield f"outstanding at once: {names}"
    stages = [name for name, _ in step.moment.running if name in STAGES]
    if len(set(stages)) != len(stages):
        yield f"running at once: {stages}"


def turns_follow_each_other(book: Book, step: Seen) -> Iterator[str]:
    """I-4: a turn starts when none is open, and ends once."""
    is_open = book.turn is not None
    for event in step.said:
        if isinstance(event, TurnStarted | TurnEnded):
            if is_open == isinstance(event, TurnStarted):
                yield f"{event.type} while {'a' if is_open else 'no'} turn is open"
            is_open = not is_open


def work_fits_the_phase(book: Book, step: Seen) -> Iterator[str]:
    """I-4: each stage of a turn runs only in its phases; services may be asked early, in LISTENING."""
    for name, target in step.moment.running:
        if name in STAGES and book.phase not in WORKS_IN[name]:
            yield f"{name} {target} runs in {book.phase}"


def each_utterance_counts_once(book: Book, step: Seen) -> Iterator[str]:
    """I-5: a final opens a turn, is merged, is held for the next one, or is rejected with a reason."""
    opened = [event.text for event in step.said if isinstance(event, TurnStarted)]
    due = floor_rules.words_that_open_a_turn(book, step.input)
    if opened != ([due] if due else []):
        yield f"turns {opened} are opened where {due!r} is due"
    if isinstance(step.input, inputs.SttFinal):
        counts = floor_rules.final_counts(book, step.input)
        if counts is not None and counts == _is_rejected(step):
            yield f"the final {step.input.text!r} in {book.phase} is {'rejected' if counts else 'accepted'}"


def something_is_always_awaited(book: Book, step: Seen) -> Iterator[str]:
    """I-6: a waiting phase always has a timer armed, and so does a session without a client. While nobody can hear the
    audio, the timer `reconnect` is enough.
    """
    timers = book.timers
    is_paused = book.answer is not None and book.answer.paused_us is not None
    ways = ("false_interruption",) if is_paused else WAY_OUT.get(book.phase, ())
    if book.phase == "SPEAKING" and not book.client_id:
        ways = (*ways, "reconnect")
    if ways and not any(timer in timers for timer in ways):
        yield f"{book.phase} has no way out but {sorted(timers)}"
    for stage, deadline in (("ClassifyIntent", "intent_deadline"), ("AnswerQuestion", "answer_deadline")):
        if book.turn is not None and book.is_outstanding(stage) and deadline not in timers:
            yield f"{stage} is awaited without a deadline"
    if not book.client_id and book.phase not in ("NEW", "ENDED") and "reconnect" not in timers:
        yield "nobody is connected, and nobody will ever be missed"


def no_phase_outlasts_its_deadline(book: Book, step: Seen) -> Iterator[str]:
    """I-6: THINKING and INTERRUPT end by their deadline, plus the delay caused by the simulated world."""
    deadlines = book.policy.deadlines
    limits_ms = {
        "THINKING": max(deadlines.answer_ms, deadlines.intent_ms)
        + deadlines.floor_ms
        + len(book.called) * (book.policy.tools.limit_ms + deadlines.answer_ms),
        "INTERRUPT": book.policy.interruption.pause_ms,
    }
    limit_ms = limits_ms.get(book.phase)
    late_us = 0 if limit_ms is None else step.now_us - book.since_us - limit_ms * 1000 - step.excused_us
    if late_us > 0:
        yield f"{book.phase} is {late_us // 1000} ms over its deadline"


def timers_are_armed_once_and_withdrawn(book: Book, step: Seen) -> Iterator[str]:
    """I-9: a timer is armed only if no timer of its name is, withdrawn only if armed, and fires only when due."""
    armed = {target: command.command_id for target, command in book.timers.items()}
    if isinstance(step.input, inputs.TimerFired) and (fired := book.what_it_answers(step.input)):
        armed.pop(fired.target, None)
        if step.input.observed_at_us < int(str(fired.payload["due_at_us"])):
            yield f"{fired.target} fires before it is due"
    for event in step.commands:
        if event.retry_of:
            armed = {name: command_id for name, command_id in armed.items() if command_id != event.retry_of}
        if event.name == "StartTimer":
            if event.target in armed:
                yield f"{event.target} is armed twice"
            armed[event.target] = event.command_id
        if event.name == "CancelTimer" and armed.pop(event.target, "") != event.payload["command_id"]:
            yield f"{event.target} is withdrawn, and is not armed"


def no_timer_outlives_its_phase(book: Book, step: Seen) -> Iterator[str]:
    """I-9: a deadline is armed only in its own phase; no timer outlives the session."""
    timers = book.timers
    if "answer_deadline" in timers and not book.is_outstanding("AnswerQuestion"):
        yield "answer_deadline without an answer to wait for"
    wrong = [name for name in timers if TIMER_OF.get(name, book.phase) != book.phase or book.phase == "ENDED"]
    if wrong:
        yield f"{wrong} armed in {book.phase}"
    if "intent_deadline" in timers and not book.is_outstanding("ClassifyIntent"):
        yield "intent_deadline without an intent to wait for"


def command_ids_follow_from_the_input(book: Book, step: Seen) -> Iterator[str]:
    """I-10: a command id consists of session, incarnation, number of the input, name and target, and is unique."""
    where = f"{step.input.session_id}/{step.input.incarnation}/{book.inputs_taken + 1}"
    seen: set[str] = set()
    for event in step.commands:
        expected = f"{where}/{event.name}" + (f"/{event.target}" if event.target else "")
        if event.command_id != expected:
            yield f"command id {event.command_id!r}, {expected!r} is due"
        if event.command_id in seen or event.command_id in book.issued:
            yield f"command id {event.command_id!r} comes twice"
        seen.add(event.command_id)


def a_result_counts_while_outstanding(book: Book, step: Seen) -> Iterator[str]:
    """I-10: a result counts exactly if its command is outstanding and waits for it; so only one final result counts."""
    if isinstance(step.input, Result):
        counts = book.what_it_answers(step.input) is not None
        if isinstance(step.input, inputs.AnswerText):
            counts = book.is_next_text(step.input)
        if isinstance(step.input, ToolCalled):
            counts = tool_checkers.may_run(book, step.input)
        if counts == _is_rejected(step):
            how = "rejected" if counts else "counted"
            yield f"{type_of(step.input)} of {step.input.command_id} is {how}; it was {_fate(book, step.input)}"


def _fate(book: Book, event: Result) -> str:
    return "outstanding" if event.command_id in book.outstanding else book.closed.get(event.command_id, "never issued")


def nothing_after_the_end(book: Book, step: Seen) -> Iterator[str]:
    """I-11: ENDED is absorbing: every later input is rejected."""
    if book.phase == "ENDED" and [type(event) for event in step.said] != [EventRejected]:
        yield f"{type_of(step.input)} leads to {[type(event).__name__ for event in step.said]} after the end"


def nothing_left_at_the_end(book: Book, step: Seen) -> Iterator[str]:
    """I-11: at SESSION_ENDED every command is answered or withdrawn, and nothing runs any more."""
    if any(isinstance(event, SessionEnded) for event in step.said):
        if book.outstanding:
            yield f"outstanding at the end: {sorted(book.outstanding)}"
        if step.moment.running or step.moment.audible:
            yield f"running at the end: {step.moment.running} {step.moment.audible}"


def nobody_is_missed_who_is_there(book: Book, step: Seen) -> Iterator[str]:
    """I-11: a session does not end as abandoned while a client is connected to this owner."""
    abandoned = any(isinstance(event, SessionEnded) and event.reason == "client_gone" for event in step.said)
    if abandoned and step.client_id in book.connected:
        yield f"{step.client_id} is connected, and is hung up on"


def a_rejection_is_all_there_is(book: Book, step: Seen) -> Iterator[str]:
    """I-12: a rejected input leads to nothing else, and the rejection has a reason. Exception: an answer that was
    paused for the input continues.
    """
    rejected = [event.reason for event in step.said if isinstance(event, EventRejected)]
    if not rejected:
        return
    rest = [event for event in step.said if not isinstance(event, EventRejected)]
    may_resume = book.phase == "SPEAKING" and isinstance(step.input, inputs.SttFinal)
    for event in rest:
        name, target = (event.name, event.target) if isinstance(event, CommandIssued) else (type_of(event), "")
        if not (may_resume and any(name == known and about in ("", target) for known, about in IN_A_REJECTION)):
            yield f"{name} {target} in a step that is rejected"
    if len(rejected) != 1 or not all(rejected):
        yield f"rejected {rejected}"


def a_new_owner_asks_again(book: Book, step: Seen) -> Iterator[str]:
    """I-14: after SESSION_RESUMED no command waits for another incarnation; a retry keeps its idempotency key."""
    retries = [command for command in step.commands if command.retry_of]
    for event in retries:
        old = book.outstanding.get(event.retry_of)
        if old is None or old.name != event.name or old.idempotency_key != event.idempotency_key:
            yield f"{event.command_id} is a retry of {event.retry_of}, which is {old and old.name}"
    if not isinstance(step.input, inputs.SessionResumed) or book.phase == "ENDED":
        return
    stopped = {command.target for command in step.commands if command.name == "StopPlayback"}
    withdrawals = ("CancelTimer", "CancelStage")
    settled = {event.retry_of for event in retries} | {
        command.payload["command_id"] for command in step.commands if command.name in withdrawals
    }
    for command in book.outstanding.values():
        forgotten = command.command_id not in settled and not (command.name in PLAYS and command.target in stopped)
        if forgotten and command.incarnation != step.input.incarnation:
            yield f"{command.command_id} waits for an owner that is gone"


def causes_make_a_line(book: Book, step: Seen) -> Iterator[str]:
    """I-18: a derived event is caused by its input, an accepted result by its command, any other input by nothing."""
    command = book.what_it_answers(step.input)
    due = command.event_id if command is not None else ""
    if step.input.cause != due:
        yield f"{type_of(step.input)} is caused by {step.input.cause!r}, {due!r} is due"
    for event in step.said:
        if event.cause != step.input.event_id:
            yield f"version {event.version} is caused by {event.cause!r}, not by its input"
        if (event.session_id, event.incarnation) != (step.input.session_id, step.input.incarnation):
            yield f"version {event.version} is of another session or incarnation"


def the_microphone_follows_the_phase(book: Book, step: Seen) -> Iterator[str]:
    """The session's handler has the microphone setting of the phase."""
    moment = step.moment
    if moment.handler_id and moment.handler_id == book.handler_id and moment.microphone != MICROPHONE[book.phase]:
        yield f"the microphone is {moment.microphone} in {book.phase}"


def _is_rejected(step: Seen) -> bool:
    return any(isinstance(event, EventRejected) for event in step.said)


BEFORE: tuple[tuple[str, Checker], ...] = (
    ("I-1", numbers_count_up),
    ("I-1", time_passes_in_the_log),
    ("I-4", turns_follow_each_other),
    ("I-5", each_utterance_counts_once),
    ("I-9", timers_are_armed_once_and_withdrawn),
    ("I-10", command_ids_follow_from_the_input),
    ("I-10", a_result_counts_while_outstanding),
    ("I-11", nothing_after_the_end),
    ("I-11", nobody_is_missed_who_is_there),
    ("I-12", a_rejection_is_all_there_is),
    ("I-14", a_new_owner_asks_again),
    ("I-18", causes_make_a_line),
    *speech_checkers.BEFORE,
    *text_checkers.BEFORE,
    *tool_checkers.BEFORE,
    *policy_checkers.BEFORE,
)
AFTER: tuple[tuple[str, Checker], ...] = (
    ("I-4", one_current_task),
    ("I-4", work_fits_the_phase),
    ("I-6", something_is_always_awaited),
    ("I-6", no_phase_outlasts_its_deadline),
    ("I-9", no_timer_outlives_its_phase),
    ("I-11", nothing_left_at_the_end),
    ("microphone", the_microphone_follows_the_phase),
    *speech_checkers.AFTER,
    *text_checkers.AFTER,
    *tool_checkers.AFTER,
    *policy_checkers.AFTER,
)
"""BEFORE checks a step before the book absorbs it, AFTER checks afterwards."""
