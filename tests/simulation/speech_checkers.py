"""The invariants of the agent's speech, and of who has the floor. See checkers.py."""

from collections.abc import Iterator

from events import derived, inputs
from events.derived import AnswerEnded, StateChanged, TurnEnded
from orchestrator.simulation.steps import HeardPosition, Seen, type_of
from tests.simulation import floor_rules
from tests.simulation.log_book import PLAYS, STAGES, Answer, Book, Checker, node_of

RESUMES_ANYWAY = inputs.TimerFired | inputs.SessionResumed | inputs.HandlerDetached
TOLERANCE_MS = 60
"""Tolerated error of a position, from message latency and rounding."""


def an_interruption_stops_everything(book: Book, step: Seen) -> Iterator[str]:
    """I-7: an interruption stops playback, cancels the task, ends the turn, keeps the words, and requests nothing."""
    starts_over = book.phase == "THINKING" and bool(floor_rules.words_that_open_a_turn(book, step.input))
    interruptions = [event for event in step.said if isinstance(event, derived.UserInterrupted)]
    due = floor_rules.takes_the_floor(book, step.input)
    if due is not None and [due] != [bool(interruptions)]:
        yield f"{'not ' if due else ''}interrupted by {type_of(step.input)} in {book.phase}"
    for event in interruptions:
        words = step.input.text.strip() if isinstance(step.input, inputs.SttFinal) else ""
        if event.text != words:
            yield f"{event.text!r} is held, {words!r} was said"
    if interruptions or starts_over:
        yield from _stops(book, step, bool(interruptions))


def _stops(book: Book, step: Seen, is_interrupted: bool) -> Iterator[str]:
    names = [command.name for command in step.commands]
    playing = {command.target for command in book.outstanding.values() if command.name in PLAYS}
    stopped = {command.target for command in step.commands if command.name == "StopPlayback"}
    if playing - stopped:
        yield f"no StopPlayback of {sorted(playing - stopped)}"
    if names.count("CancelTask") != (book.turn is not None):
        yield f"{names.count('CancelTask')} CancelTask"
    outcome = [event.outcome for event in step.said if isinstance(event, TurnEnded)]
    if outcome != _outcome(book, step, is_interrupted):
        yield f"the turn ends as {outcome}"
    if is_interrupted and any(name in STAGES for name in names):
        yield "something is asked for in the moment of the interruption"


def _outcome(book: Book, step: Seen, is_interrupted: bool) -> list[str]:
    """The due outcome of the open turn, in a list; empty: no turn is open."""
    if book.turn is None:
        return []
    if is_interrupted:
        return ["interrupted"]
    via = step.input.via if isinstance(step.input, inputs.SttFinal) else "speech"
    merges = book.policy.thinking.more_words == "merge" and book.turn.via == via == "speech"
    return ["merged" if merges else "superseded"]


def silence_outside_of_speaking(book: Book, step: Seen) -> Iterator[str]:
    """I-7: the agent is audible only with the current playback in SPEAKING, or with a filler in THINKING."""
    answer = (book.answer.playback_id,) if book.answer else ()
    fillers = (f"filler-{book.turns}", f"tool-{book.turns}")
    allowed = {"SPEAKING": answer, "THINKING": fillers}.get(book.phase, ())
    wrong = [name for name in step.moment.audible if name not in allowed]
    if wrong:
        yield f"{wrong} can be heard in {book.phase} of turn {book.turns}"


def one_voice(book: Book, step: Seen) -> Iterator[str]:
    """I-7: two playbacks are never audible, or outstanding, at once."""
    asked = [command.target for command in book.outstanding.values() if command.name in PLAYS]
    for voices in (step.moment.audible, asked):
        if len(voices) > 1:
            yield f"{list(voices)} at once in {book.phase}"


def an_answer_ends_as_it_was_heard(book: Book, step: Seen) -> Iterator[str]:
    """I-8: a step that leaves SPEAKING ends the answer once, with the number of its chunks and a possible position."""
    ended = [event for event in step.said if isinstance(event, AnswerEnded)]
    left = any(isinstance(event, StateChanged) and event.from_phase == "SPEAKING" for event in step.said)
    if len(ended) != left:
        yield f"{len(ended)} answers end in a step that {'leaves' if left else 'does not leave'} SPEAKING"
    for event in ended:
        if book.answer is None or book.answer.playback_id != event.playback_id:
            yield f"{event.playback_id} ends, {book.answer and book.answer.playback_id} was playing"
        else:
            yield from _ends(book, book.answer, step, event)


def _ends(book: Book, answer: Answer, step: Seen, event: AnswerEnded) -> Iterator[str]:
    if event.chunks != answer.chunks:
        yield f"{event.chunks} chunks where {answer.chunks} came"
    finishes = _finishes(book, step)
    position_ms = max(answer.position_ms, getattr(step.input, "position_ms", 0) if finishes else 0)
    told_ms = step.input.position_ms if isinstance(step.input, inputs.BargeIn) and not finishes else 0
    at_least_ms = 0 if told_ms else min(position_ms, answer.audio_ms)
    if not at_least_ms <= event.heard_ms <= max(answer.audio_ms, position_ms, answer.from_ms):
        yield f"heard {event.heard_ms} ms of {answer.audio_ms}, at least {position_ms}"
    names_it = event.playback_id == getattr(step.input, "playback_id", "")
    if told_ms and names_it and event.heard_ms > told_ms:
        yield f"heard {event.heard_ms} ms, {told_ms} says who heard it"
    words, heard = answer.text.split(), event.heard_text.split()
    if heard != words[: len(heard)] or (event.outcome == "finished" and len(heard) != len(words)):
        yield f"heard {event.heard_text!r} of {answer.text!r}"
    if (event.outcome == "finished") != finishes:
        yield f"{event.outcome} by {type_of(step.input)}"


def what_was_heard_was_played(book: Book, step: Seen) -> Iterator[str]:
    """I-8: when an answer is cut off, the recorded position and words match the player's true position."""
    ended = [event for event in step.said if isinstance(event, AnswerEnded) and event.outcome != "finished"]
    answer = book.answer
    told_by_another = isinstance(step.input, inputs.BargeIn) and step.input.source != "browser"
    if not ended or answer is None or told_by_another:
        return
    event, truth = ended[0], step.heard or HeardPosition(0, 0)
    wrong_ms = abs(event.heard_ms - truth.position_ms) - truth.doubt_ms - TOLERANCE_MS
    if wrong_ms > 0:
        yield f"heard {event.heard_ms} ms, the player is at {truth.position_ms} give or take {truth.doubt_ms}"
    fewest, most = _words_heard(answer, truth)
    count = len(event.heard_text.split())
    if not fewest <= count <= most:
        yield f"heard {count} words at {truth.position_ms} ms give or take {truth.doubt_ms}, {fewest} to {most} are due"


def _words_heard(answer: Answer, truth: HeardPosition) -> tuple[int, int]:
    """The fewest and the most words that the user can have heard at a true position."""
    error_ms = truth.doubt_ms + TOLERANCE_MS
    early_ms, late_ms = truth.position_ms - error_ms, truth.position_ms + error_ms
    count = len(answer.text.split())
    if answer.is_shown:
        return count, count
    if answer.words:
        begins_ms = sorted(dict(answer.words))
        return sum(at_ms <= early_ms for at_ms in begins_ms[1:]), sum(at_ms <= late_ms for at_ms in begins_ms)
    if not answer.audio_ms:
        return 0, 0
    if answer.texts:
        return _words_of_texts(answer, early_ms, late_ms)
    fewest = count * early_ms // max(answer.audio_ms, answer.total_ms) if answer.complete else 0
    return fewest, count * late_ms // answer.audio_ms + 1


def _words_of_texts(answer: Answer, early_ms: int, late_ms: int) -> tuple[int, int]:
    """As `_words_heard`, for an answer that comes in texts: a text before the position is heard to its end."""
    begun = [(len(text.split()), begins_ms) for text, begins_ms in answer.texts if begins_ms is not None]
    fewest = most = 0
    for number, (count, begins_ms) in enumerate(begun):
        is_made = number + 1 < len(begun) or answer.complete
        ends_ms = begun[number + 1][1] if number + 1 < len(begun) else max(answer.audio_ms, answer.total_ms)
        if early_ms > begins_ms and is_made:
            fewest += min(count, count * (early_ms - begins_ms) // max(1, ends_ms - begins_ms))
        if late_ms >= begins_ms:
            made_ms = max(1, min(ends_ms, answer.audio_ms) - begins_ms)
            most += min(count, count * (late_ms - begins_ms) // made_ms + 1)
    return fewest, most


def only_the_answer_ends_speaking(book: Book, step: Seen) -> Iterator[str]:
    """I-8: the end of the current playback leaves SPEAKING; the end of any other playback changes no phase."""
    if not isinstance(step.input, inputs.PlaybackDone):
        return
    to = [event.to_phase for event in step.said if isinstance(event, StateChanged)]
    due: list[str] = []
    if _finishes(book, step) and book.answer is not None:
        ends = book.answer.ends and not floor_rules.takes_up_the_conversation(book)
        due = ["ENDED"] if ends else ["LISTENING", "SPEAKING"] if book.limits else ["LISTENING"]
    if to != due:
        yield f"the end of {step.input.playback_id} in {book.phase} leads to {to}"


def _finishes(book: Book, step: Seen) -> bool:
    command = book.what_it_answers(step.input)
    return isinstance(step.input, inputs.PlaybackDone) and command is not None and command.name == "Speak"


def it_pauses_until_it_is_decided(book: Book, step: Seen) -> Iterator[str]:
    """Pause: speech over the agent pauses the playback if the policy says so, and a false interruption resumes it."""
    names = [command.name for command in step.commands]
    if ("PausePlayback" in names) != floor_rules.pauses(book, step.input):
        yield f"{'' if 'PausePlayback' in names else 'not '}paused by {type_of(step.input)} in {book.phase}"
    resumes = "ResumePlayback" in names
    if floor_rules.goes_on(book, step.input) and not resumes:
        yield f"not resumed by {type_of(step.input)}"
    if resumes and (book.answer is None or book.answer.paused_us is None):
        yield "resumed without a pause"
    if resumes and book.user.is_speaking and not isinstance(step.input, RESUMES_ANYWAY):
        says_words = isinstance(step.input, inputs.SttFinal) and bool(step.input.text.strip())
        if not says_words:
            yield "resumed over a user who is speaking"


def what_is_paused_is_silent(book: Book, step: Seen) -> Iterator[str]:
    """Pause: the player has paused exactly the playbacks that the session paused."""
    if step.moment.handler_id and step.moment.handler_id == book.handler_id and book.answer is not None:
        paused = book.answer.paused_us is not None
        if paused and book.answer.playback_id in step.moment.audible:
            yield f"{book.answer.playback_id} is paused and can be heard"
        if not paused and step.moment.paused:
            yield f"{step.moment.paused} is held for ever"


def a_pause_ends(book: Book, step: Seen) -> Iterator[str]:
    """Pause: a paused playback resumes or ends within a time limit, even if the user never stops making sounds."""
    if book.answer is None or book.answer.paused_us is None:
        return
    deadlines = book.policy.deadlines
    limit_ms = deadlines.floor_ms + book.policy.interruption.false_ms + deadlines.playback_grace_ms
    late_us = step.now_us - book.answer.paused_us - limit_ms * 1000 - step.excused_us
    if late_us > 0:
        yield f"{book.answer.playback_id} is paused, {late_us // 1000} ms too long"


def what_breaks_off_goes_on(book: Book, step: Seen) -> Iterator[str]:
    """Connection: when a call is lost in SPEAKING, the rest of the speech is requested again; a filler is not."""
    event = step.input
    if not isinstance(event, inputs.HandlerDetached) or node_of(event) != book.node:
        return
    if not book.handler_id or event.handler_id != book.handler_id:
        return
    asked = [command for command in step.commands if command.name in PLAYS]
    if book.phase != "SPEAKING" or book.answer is None:
        if asked:
            yield f"{asked[0].name} is asked for in {book.phase}"
        return
    if [command.name for command in asked] != ["Speak"] or not asked[0].retry_of:
        yield f"{book.answer.playback_id} breaks off for ever"
    elif not book.answer.position_ms <= int(str(asked[0].payload["from_ms"])) <= book.answer.audio_ms:
        yield f"goes on from {asked[0].payload['from_ms']} ms; {book.answer.position_ms} of {book.answer.audio_ms}"


def who_is_not_heard_is_told(book: Book, step: Seen) -> Iterator[str]:
    """Connection: when speech-to-text has lost an utterance, a quiet user is asked to repeat it. Not if its words have
    counted as a partial.
    """
    event = step.input
    is_lost = isinstance(event, inputs.HearingFailed) and event.is_utterance_lost and book.phase == "LISTENING"
    waits = book.user.is_speaking or "endpoint" in book.timers or "stt_deadline" in book.timers
    if is_lost and book.late_words(event.at_us):
        return
    if is_lost and not waits and book.policy.fallback.unheard and not any(c.name == "Speak" for c in step.commands):
        yield "nobody tells the user that they were not heard"


def the_agent_waits_for_the_user(book: Book, step: Seen) -> Iterator[str]:
    """Floor: the agent begins to speak only after the user's speech is over and understood, or at `floor_deadline`."""
    timers = book.timers
    waits = [name for name in ("endpoint", "stt_deadline") if name in timers]
    if not book.user.is_speaking and not waits:
        return
    by_deadline = isinstance(step.input, inputs.TimerFired) and step.input.target == "floor_deadline"
    for command in step.commands:
        if command.name in PLAYS and not command.retry_of and not by_deadline:
            in_time = command.name == "Speak" and command.payload["ends"] == "time_limit"
            if not in_time and (command.name == "Speak" or book.user.is_speaking):
                why = "the user is speaking" if book.user.is_speaking else f"{waits} is armed"
                yield f"{command.name} {command.target} begins while {why}"


BEFORE: tuple[tuple[str, Checker], ...] = (
    ("I-7", an_interruption_stops_everything),
    ("I-8", an_answer_ends_as_it_was_heard),
    ("I-8", what_was_heard_was_played),
    ("I-8", only_the_answer_ends_speaking),
    ("pause", it_pauses_until_it_is_decided),
    ("pause", a_pause_ends),
    ("connection", what_breaks_off_goes_on),
    ("connection", who_is_not_heard_is_told),
)
AFTER: tuple[tuple[str, Checker], ...] = (
    ("I-7", silence_outside_of_speaking),
    ("I-7", one_voice),
    ("pause", what_is_paused_is_silent),
    ("floor", the_agent_waits_for_the_user),
)
