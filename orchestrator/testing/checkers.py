"""The invariants of a session as small functions over its log and the simulated world; they know nothing of the core.

Each gets the book before the step (BEFORE) or after it (AFTER), and the step. It yields what is wrong, in words.
"""

from collections.abc import Callable, Iterator

from events import derived, inputs
from events.derived import AnswerEnded, CommandIssued, EventRejected, SessionEnded, StateChanged, TurnEnded, TurnStarted
from events.envelope import Result
from orchestrator.testing.log_book import PLAYS, STAGES, Book
from orchestrator.testing.simulated_steps import Seen

Checker = Callable[[Book, Seen], Iterator[str]]

MICROPHONE = {
    "IDLE": "open",
    "LISTENING": "open",
    "THINKING": "gated",
    "SPEAKING": "gated",
    "INTERRUPT": "gated",
    "ENDED": "closed",
}
WAY_OUT = {
    "IDLE": ("reconnect",),
    "THINKING": ("answer_deadline", "floor_deadline", "intent_deadline"),
    "SPEAKING": ("tts_deadline", "playback_deadline"),
    "INTERRUPT": ("interrupt_pause",),
}
TIMER_OF = {
    "intent_deadline": "THINKING",
    "answer_deadline": "THINKING",
    "floor_deadline": "THINKING",
    "tts_deadline": "SPEAKING",
    "playback_deadline": "SPEAKING",
    "interrupt_pause": "INTERRUPT",
}


def numbers_count_up(book: Book, step: Seen) -> Iterator[str]:
    """I-1: versions are 1..n without gaps, time never goes back, ids follow the version; turn and epoch are counted."""
    version, at_us, turn, epoch = book.version, max(book.at_us, step.input.at_us), book.turn, book.epoch
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


def one_current_task(book: Book, step: Seen) -> Iterator[str]:
    """I-4: a turn is open exactly in THINKING and SPEAKING; each stage is outstanding at most once, and runs so."""
    if book.in_turn != (book.phase in ("THINKING", "SPEAKING")):
        yield f"{'a' if book.in_turn else 'no'} turn is open in {book.phase}"
    names = [command.name for command in book.outstanding.values() if command.name in STAGES]
    if len(set(names)) != len(names):
        yield f"outstanding at once: {names}"
    stages = [name for name, _ in step.moment.running if name in STAGES]
    if len(set(stages)) != len(stages):
        yield f"running at once: {stages}"


def turns_follow_each_other(book: Book, step: Seen) -> Iterator[str]:
    """I-4: a turn starts when none is open, and ends once."""
    is_open = book.in_turn
    for event in step.said:
        if isinstance(event, TurnStarted | TurnEnded):
            if is_open == isinstance(event, TurnStarted):
                yield f"{event.type} while {'a' if is_open else 'no'} turn is open"
            is_open = not is_open


def work_fits_the_phase(book: Book, step: Seen) -> Iterator[str]:
    """I-4: nothing of a turn runs outside of its phase: services and fillers THINKING, answers SPEAKING."""
    for name, target in step.moment.running:
        if name in STAGES and book.phase != ("SPEAKING" if name == "Speak" else "THINKING"):
            yield f"{name} {target} runs in {book.phase}"


def each_utterance_counts_once(book: Book, step: Seen) -> Iterator[str]:
    """I-5: a final opens a turn, is held for the next one, or is rejected with a reason: always one of these."""
    opened = [event.text for event in step.said if isinstance(event, TurnStarted)]
    due = book.words_that_open_a_turn(step.input)
    if opened != ([due] if due else []):
        yield f"turns {opened} are opened where {due!r} is due"
    if isinstance(step.input, inputs.SttFinal):
        is_awaited = bool(step.input.text.strip()) or "stt_deadline" in book.timers()
        counts = is_awaited and book.phase in ("LISTENING", "THINKING", "SPEAKING", "INTERRUPT")
        if counts == _is_rejected(step):
            yield f"the final {step.input.text!r} in {book.phase} is {'rejected' if counts else 'accepted'}"


def something_is_always_awaited(book: Book, step: Seen) -> Iterator[str]:  # noqa: ARG001
    """I-6: a phase that waits has a timer armed for the case that nothing comes; so has a session without a client."""
    timers = book.timers()
    if not any(timer in timers for timer in WAY_OUT.get(book.phase, timers)) and book.phase in WAY_OUT:
        yield f"{book.phase} has no way out but {sorted(timers)}"
    for stage, deadline in (("ClassifyIntent", "intent_deadline"), ("AnswerQuestion", "answer_deadline")):
        if book.is_outstanding(stage) and deadline not in timers:
            yield f"{stage} is awaited without a deadline"
    if not book.client_id and book.phase not in ("NEW", "ENDED") and "reconnect" not in timers:
        yield "nobody is connected, and nobody will ever be missed"


def no_phase_outlasts_its_deadline(book: Book, step: Seen) -> Iterator[str]:
    """I-6: THINKING and INTERRUPT are over by their deadline, save for what the world itself was late."""
    limit_us = book.limits_us.get(book.phase)
    late_us = 0 if limit_us is None else step.now_us - book.since_us - limit_us - step.excused_us
    if late_us > 0:
        yield f"{book.phase} is {late_us // 1000} ms over its deadline"


def an_interruption_stops_everything(book: Book, step: Seen) -> Iterator[str]:
    """I-7: the step that takes the floor stops playback, cancels the task, ends the turn, and asks for nothing."""
    supersedes = book.phase == "THINKING" and bool(book.words_that_open_a_turn(step.input))
    interrupted = any(isinstance(event, derived.UserInterrupted) for event in step.said)
    if book.interrupts(step.input) != interrupted:
        yield f"{'not ' if not interrupted else ''}interrupted by {_type(step)} in {book.phase}"
    if not (interrupted or supersedes):
        return
    names = [event.name for event in step.said if isinstance(event, CommandIssued)]
    playing = {command.target for command in book.outstanding.values() if command.name in PLAYS}
    stopped = {e.target for e in step.said if isinstance(e, CommandIssued) and e.name == "StopPlayback"}
    if playing - stopped:
        yield f"no StopPlayback of {sorted(playing - stopped)}"
    if names.count("CancelTask") != 1:
        yield f"{names.count('CancelTask')} CancelTask"
    outcome = [event.outcome for event in step.said if isinstance(event, TurnEnded)]
    if outcome != ["interrupted" if interrupted else "superseded"]:
        yield f"the turn ends as {outcome}"
    if interrupted and any(name in STAGES for name in names):
        yield "something is asked for in the moment of the interruption"


def silence_outside_of_speaking(book: Book, step: Seen) -> Iterator[str]:
    """I-7: what can be heard is the answer in SPEAKING or the filler in THINKING; else the agent is silent."""
    allowed = {"SPEAKING": "answer-", "THINKING": "filler-"}.get(book.phase)
    wrong = [name for name in step.moment.audible if allowed is None or name != f"{allowed}{book.turn}"]
    if wrong:
        yield f"{wrong} can be heard in {book.phase} of turn {book.turn}"


def an_answer_ends_as_it_was_heard(book: Book, step: Seen) -> Iterator[str]:
    """I-8: what leaves SPEAKING ends the answer once, with the chunks there were and what can have been heard."""
    ended = [event for event in step.said if isinstance(event, AnswerEnded)]
    left = any(isinstance(event, StateChanged) and event.from_phase == "SPEAKING" for event in step.said)
    if len(ended) != left:
        yield f"{len(ended)} answers end in a step that {'leaves' if left else 'does not leave'} SPEAKING"
    for event in ended:
        yield from _answer(book, step, event)


def _answer(book: Book, step: Seen, event: AnswerEnded) -> Iterator[str]:
    answer = book.answer
    if answer is None or answer.playback_id != event.playback_id:
        yield f"{event.playback_id} ends, {answer and answer.playback_id} was playing"
        return
    if event.chunks != answer.chunks:
        yield f"{event.chunks} chunks where {answer.chunks} came"
    position_ms = max(answer.position_ms, getattr(step.input, "position_ms", 0) if _finishes(book, step) else 0)
    if not min(position_ms, answer.audio_ms) <= event.heard_ms <= max(answer.audio_ms, position_ms):
        yield f"heard {event.heard_ms} ms of {answer.audio_ms}, at least {position_ms}"
    words, heard = answer.text.split(), event.heard_text.split()
    if heard != words[: len(heard)] or (event.outcome == "finished" and len(heard) != len(words)):
        yield f"heard {event.heard_text!r} of {answer.text!r}"
    if (event.outcome == "finished") != _finishes(book, step):
        yield f"{event.outcome} by {_type(step)}"


def _finishes(book: Book, step: Seen) -> bool:
    command = book.what_it_answers(step.input)
    return isinstance(step.input, inputs.PlaybackDone) and command is not None and command.name == "Speak"


def only_the_answer_ends_speaking(book: Book, step: Seen) -> Iterator[str]:
    """I-8: the end of the answer's own playback leads to LISTENING; the end of any other changes no phase."""
    if isinstance(step.input, inputs.PlaybackDone):
        to = [event.to_phase for event in step.said if isinstance(event, StateChanged)]
        if to != (["LISTENING"] if _finishes(book, step) else []):
            yield f"the end of {step.input.playback_id} in {book.phase} leads to {to}"


def timers_are_armed_once_and_withdrawn(book: Book, step: Seen) -> Iterator[str]:
    """I-9: a timer is armed where none of its name is, withdrawn where it is armed, and due in the future."""
    armed = {target: command.command_id for target, command in book.timers().items()}
    if isinstance(step.input, inputs.TimerFired) and (fired := book.what_it_answers(step.input)):
        armed.pop(fired.target, None)
        if step.input.observed_at_us < int(str(fired.payload["due_at_us"])):
            yield f"{fired.target} fires before it is due"
    for event in step.said:
        if not isinstance(event, CommandIssued):
            continue
        if event.retry_of:
            armed = {name: command_id for name, command_id in armed.items() if command_id != event.retry_of}
        if event.name == "StartTimer":
            if event.target in armed:
                yield f"{event.target} is armed twice"
            armed[event.target] = event.command_id
        if event.name == "CancelTimer" and armed.pop(event.target, "") != event.payload["command_id"]:
            yield f"{event.target} is withdrawn, and is not armed"


def no_timer_outlives_its_phase(book: Book, step: Seen) -> Iterator[str]:  # noqa: ARG001
    """I-9: a deadline is armed only in the phase that it is for; none outlives the session."""
    timers = book.timers()
    wrong = [name for name in timers if TIMER_OF.get(name, book.phase) != book.phase or book.phase == "ENDED"]
    if wrong:
        yield f"{wrong} armed in {book.phase}"
    if "intent_deadline" in timers and not book.is_outstanding("ClassifyIntent"):
        yield "intent_deadline without an intent to wait for"


def command_ids_follow_from_the_input(book: Book, step: Seen) -> Iterator[str]:
    """I-10: a command id is session, incarnation, number of the input, name and target; it is unique."""
    where = f"{step.input.session_id}/{step.input.incarnation}/{book.inputs + 1}"
    seen: set[str] = set()
    for event in step.said:
        if isinstance(event, CommandIssued):
            expected = f"{where}/{event.name}" + (f"/{event.target}" if event.target else "")
            if event.command_id != expected:
                yield f"command id {event.command_id!r}, {expected!r} is due"
            if event.command_id in seen or event.command_id in book.issued:
                yield f"command id {event.command_id!r} comes twice"
            seen.add(event.command_id)


def a_result_counts_while_outstanding(book: Book, step: Seen) -> Iterator[str]:
    """I-10: a result counts exactly if its command is outstanding and waits for it; so one last word counts."""
    if isinstance(step.input, Result):
        counts = book.what_it_answers(step.input) is not None
        if counts == _is_rejected(step):
            how = "rejected" if counts else "counted"
            yield f"{_type(step)} of {step.input.command_id} is {how}; it was {_fate(book, step.input)}"


def _fate(book: Book, event: Result) -> str:
    return "outstanding" if event.command_id in book.outstanding else book.closed.get(event.command_id, "never issued")


def nothing_after_the_end(book: Book, step: Seen) -> Iterator[str]:
    """I-11: ENDED is absorbing: whatever comes then is rejected."""
    if book.phase == "ENDED" and [type(event) for event in step.said] != [EventRejected]:
        yield f"{_type(step)} leads to {[type(event).__name__ for event in step.said]} after the end"


def nothing_left_at_the_end(book: Book, step: Seen) -> Iterator[str]:
    """I-11: with SESSION_ENDED every command is answered or withdrawn, and nothing runs any more."""
    if any(isinstance(event, SessionEnded) for event in step.said):
        if book.outstanding:
            yield f"outstanding at the end: {sorted(book.outstanding)}"
        if step.moment.running or step.moment.audible:
            yield f"running at the end: {step.moment.running} {step.moment.audible}"


def nobody_is_missed_who_is_there(book: Book, step: Seen) -> Iterator[str]:
    """I-11: a session does not end as abandoned while a client is connected, and said so to this owner."""
    abandoned = any(isinstance(event, SessionEnded) and event.reason == "client_gone" for event in step.said)
    if abandoned and step.client_id in book.connected:
        yield f"{step.client_id} is connected, and is hung up on"


def a_rejection_is_all_there_is(book: Book, step: Seen) -> Iterator[str]:  # noqa: ARG001
    """I-12: an input that is rejected leads to nothing else, and the reason is named."""
    rejected = [event.reason for event in step.said if isinstance(event, EventRejected)]
    if rejected and (len(step.said) != 1 or not all(rejected)):
        yield f"rejected ({rejected}) among {len(step.said)} events"


def a_new_owner_asks_again(book: Book, step: Seen) -> Iterator[str]:
    """I-14: after SESSION_RESUMED nothing waits for another incarnation; what is asked again keeps its key."""
    retries = [event for event in step.said if isinstance(event, CommandIssued) and event.retry_of]
    for event in retries:
        old = book.outstanding.get(event.retry_of)
        if old is None or old.name != event.name or old.idempotency_key != event.idempotency_key:
            yield f"{event.command_id} is a retry of {event.retry_of}, which is {old and old.name}"
    if not isinstance(step.input, inputs.SessionResumed) or book.phase == "ENDED":
        return
    stopped = {event.target for event in step.said if isinstance(event, CommandIssued) and event.name == "StopPlayback"}
    settled = {event.retry_of for event in retries}
    for command in book.outstanding.values():
        forgotten = command.command_id not in settled and not (command.name in PLAYS and command.target in stopped)
        if forgotten and command.incarnation != step.input.incarnation:
            yield f"{command.command_id} waits for an owner that is gone"


def causes_make_a_line(book: Book, step: Seen) -> Iterator[str]:
    """I-18: what is derived is caused by its input, a result that counts by its command, another input by nothing."""
    command = book.what_it_answers(step.input)
    due = command.event_id if command is not None else ""
    if step.input.cause != due:
        yield f"{_type(step)} is caused by {step.input.cause!r}, {due!r} is due"
    for event in step.said:
        if event.cause != step.input.event_id:
            yield f"version {event.version} is caused by {event.cause!r}, not by its input"
        if (event.session_id, event.incarnation) != (step.input.session_id, step.input.incarnation):
            yield f"version {event.version} is of another session or incarnation"


def the_microphone_follows_the_phase(book: Book, step: Seen) -> Iterator[str]:
    """A handler that the session knows has the microphone setting of the phase."""
    moment = step.moment
    if moment.handler_id and moment.handler_id == book.handler_id and moment.microphone != MICROPHONE[book.phase]:
        yield f"the microphone is {moment.microphone} in {book.phase}"


def _is_rejected(step: Seen) -> bool:
    return any(isinstance(event, EventRejected) for event in step.said)


def _type(step: Seen) -> str:
    return str(step.input.type)  # type: ignore[attr-defined]


BEFORE: tuple[tuple[str, Checker], ...] = (
    ("I-1", numbers_count_up),
    ("I-4", turns_follow_each_other),
    ("I-5", each_utterance_counts_once),
    ("I-7", an_interruption_stops_everything),
    ("I-8", an_answer_ends_as_it_was_heard),
    ("I-8", only_the_answer_ends_speaking),
    ("I-9", timers_are_armed_once_and_withdrawn),
    ("I-10", command_ids_follow_from_the_input),
    ("I-10", a_result_counts_while_outstanding),
    ("I-11", nothing_after_the_end),
    ("I-11", nobody_is_missed_who_is_there),
    ("I-12", a_rejection_is_all_there_is),
    ("I-14", a_new_owner_asks_again),
    ("I-18", causes_make_a_line),
)
AFTER: tuple[tuple[str, Checker], ...] = (
    ("I-4", one_current_task),
    ("I-4", work_fits_the_phase),
    ("I-6", something_is_always_awaited),
    ("I-6", no_phase_outlasts_its_deadline),
    ("I-7", silence_outside_of_speaking),
    ("I-9", no_timer_outlives_its_phase),
    ("I-11", nothing_left_at_the_end),
    ("microphone", the_microphone_follows_the_phase),
)
"""What must hold before a step is read into the book, and what after it."""
