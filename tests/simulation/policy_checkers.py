"""The invariants of the policy's features: guesses, fillers, announcements, endings. See checkers.py."""

from collections.abc import Iterator

from events import inputs
from events.derived import AnswerEnded, CommandIssued, ProcessingComplete, SessionEnded, TurnStarted
from orchestrator.simulation.steps import Seen, plain, type_of
from orchestrator.simulation.words import intent_of
from tests.simulation import floor_rules
from tests.simulation.log_book import Book, Checker, Turn

QUIET_MS = 45_000
"""Longest playback of a farewell and of the turn before it: a bound for the texts that the simulation speaks."""
ENDINGS = ("time_limit", "user_away", "goodbye", "too_many_failures")


def guesses_are_made_while_listening(book: Book, step: Seen) -> Iterator[str]:
    """Guess: early questions are asked only in LISTENING, about the words understood so far, at most `tries` times."""
    rules = book.policy.speculation
    for event in _commands(step, "AnswerQuestion", "ClassifyIntent"):
        number = event.payload["speculation"]
        if event.retry_of or not number:
            continue
        if book.phase != "LISTENING" or any(isinstance(other, TurnStarted) for other in step.said):
            yield f"guess {number} in {book.phase}"
        if number != book.guesses + 1 or int(str(number)) > rules.tries:
            yield f"guess {number} after {book.guesses}, {rules.tries} are allowed"
        partial = step.input.text if isinstance(step.input, inputs.SttPartial) else book.user.partial
        if plain(str(event.payload["text"])) != plain(partial):
            yield f"a guess about {event.payload['text']!r}, {partial!r} is understood"
        is_old = _is_timer(step, "stable") and step.input.at_us - book.user.partial_us >= rules.stable_ms * 1000 > 0
        is_over = isinstance(step.input, inputs.SpeechStopped) or not book.user.is_speaking
        if not is_old and not is_over and not getattr(step.input, "is_complete", False):
            yield f"a guess about words that may change, by {type_of(step.input)}"
        if book.guess is not None and plain(book.guess.text) == plain(partial):
            yield f"a second guess about {partial!r}"


def a_guess_counts_for_its_words(book: Book, step: Seen) -> Iterator[str]:
    """Guess: a turn adopts the guess about exactly its words, and no other."""
    for event in step.said:
        if isinstance(event, TurnStarted):
            fits = book.guess is not None and plain(book.guess.text) == plain(event.text)
            due = book.guess.number if book.guess is not None and fits else 0
            if event.speculation != due:
                yield f"{event.text!r} adopts guess {event.speculation}, {due} is due ({book.guess})"


def an_answer_is_to_its_question(book: Book, step: Seen) -> Iterator[str]:
    """Answer: the agent decides on and speaks the services' results for the words of this turn."""
    turn = _turn(book, step)
    for event in step.said:
        if isinstance(event, ProcessingComplete) and turn is not None:
            yield from _decided(book, turn, event)
            turn.processed = event
    for command in _commands(step, "Speak"):
        if command.retry_of or not command.target.startswith("answer-"):
            continue
        done = turn.processed if turn is not None else None
        says = "".join(str(c.payload["text"]) for c in _commands(step, "Speak", "SpeakMore"))
        comes_in_texts = bool(book.texts) or isinstance(step.input, inputs.AnswerText)
        if done is not None and comes_in_texts:  # more of them may have come since it was decided
            says = says[: len(done.answer)]
        if done is None or (says, command.payload["ends"]) != (done.answer, done.ends):
            yield f"{command.target} says {command.payload['text']!r}, decided is {done and done.answer!r}"


def _decided(book: Book, turn: Turn, event: ProcessingComplete) -> Iterator[str]:
    fallback = book.policy.fallback
    goodbye = book.policy.goodbye.intent
    if event.fallback:
        is_last = bool(fallback.failures) and book.answer_failures + 1 >= fallback.failures
        answer, ends = (fallback.goodbye, "too_many_failures") if is_last else (fallback.answer, "")
        if event.answer != answer:
            yield f"the fallback is {event.answer!r}"
    else:
        ends = "goodbye" if goodbye and event.intent == goodbye else ""
        if f" {' '.join(plain(turn.text))} " not in f" {' '.join(plain(event.answer))} ":
            yield f"{event.answer!r} is no answer to {turn.text!r}"
    if event.ends != ends:
        yield f"it ends as {event.ends!r}, {ends!r} is due"
    if event.intent not in ("", "" if book.policy.intent.skip else intent_of(turn.text)):
        yield f"{event.intent!r} is not what {turn.text!r} means"


def a_filler_has_its_time(book: Book, step: Seen) -> Iterator[str]:
    """Filler: begins in THINKING, after its delay, before the answer is decided; about a tool, while a call is open."""
    for event in _commands(step, "PlayFiller"):
        is_about_a_tool = event.target.startswith("tool-")
        turn, rules = _turn(book, step), book.policy.tools if is_about_a_tool else book.policy.filler
        if is_about_a_tool and not book.is_outstanding("RunTool"):
            yield f"{event.target} begins, and no tool runs"
        if turn is None or turn.processed is not None or any(isinstance(e, ProcessingComplete) for e in step.said):
            yield f"{event.target} begins when the answer is there"
        elif (due_us := _due_us(book, step, "filler", "tool_filler") - turn.at_us) < rules.delay_ms * 1000:
            yield f"{event.target} begins {due_us} us after the turn"
        if event.payload["text"] != rules.text:
            yield f"the filler says {event.payload['text']!r}"


def what_is_said_unasked_is_due(book: Book, step: Seen) -> Iterator[str]:
    """Unasked: greeting, prompts, apology and farewell have the policy's texts, and come only when they are due."""
    policy = book.policy
    for event in _commands(step, "Speak"):
        kind, text, ends = event.target.partition("-")[0], event.payload["text"], event.payload["ends"]
        if event.retry_of or kind == "answer":
            continue
        unheard = book.hearing_failures + getattr(step.input, "is_utterance_lost", False)
        is_the_last = unheard and policy.fallback.failures and unheard >= policy.fallback.failures
        if kind == "unheard" and (not unheard or is_the_last):
            yield f"asks again after {unheard} failures of {policy.fallback.failures}"
        if ends == "too_many_failures" and is_the_last and text == policy.fallback.goodbye:
            continue
        due = {
            "unheard": (policy.fallback.unheard, ""),
            "greeting": (policy.greeting.text, ""),
            "away": (policy.away.text, ""),
            "farewell": (policy.goodbye.text, "user_away" if _is_away(step) else "time_limit"),
        }.get(kind)
        if (text, ends) != due:
            yield f"{event.target} says {text!r} and ends as {ends!r}"
        if kind == "greeting" and book.turns:
            yield "a greeting in the middle"
        if kind == "away" and book.prompts >= policy.away.prompts:
            yield f"prompt {book.prompts + 1} of {policy.away.prompts}"
        if ends == "user_away" and book.prompts < policy.away.prompts:
            yield f"a farewell after {book.prompts} prompts of {policy.away.prompts}"
        if ends == "time_limit" and not book.limits and not _is_timer(step, "session_limit"):
            yield "a farewell before its time"


def a_silent_user_is_missed(book: Book, step: Seen) -> Iterator[str]:
    """Unasked: in a call, the `away` timer is armed while the user is silent in LISTENING."""
    timers = book.timers
    is_busy = book.user.is_speaking or any(name in timers for name in ("endpoint", "stt_deadline", "greeting"))
    if book.phase == "LISTENING" and book.policy.away.text and book.handler_id and not is_busy and "away" not in timers:
        yield f"nobody asks whether the user is there, only {sorted(timers)} are armed"


def an_utterance_is_waited_for(book: Book, step: Seen) -> Iterator[str]:
    """Endpoint: after speech, and while new words arrive, the timer `endpoint` is armed; then `stt_deadline`."""
    timers, user = book.timers, book.user
    if book.phase in ("NEW", "IDLE", "ENDED"):
        return
    if isinstance(step.input, inputs.SpeechStopped) and "endpoint" not in timers:
        yield "speech stops, and nobody waits for its end"
    is_new = isinstance(step.input, inputs.SttPartial) and not book.is_old(step.input)
    if is_new and user.is_speaking and "endpoint" not in timers:
        yield "words come, and nobody watches over them"
    if any(_commands(step, "FinishUtterance")) and "stt_deadline" not in timers:
        yield "a final is awaited without a deadline"


def an_utterance_is_finished(book: Book, step: Seen) -> Iterator[str]:
    """Endpoint: an utterance is finished no earlier than after the policy's wait, and a pause that this caller made
    in it before.
    """
    user, rules = book.user, book.policy.endpointing
    for _ in _commands(step, "FinishUtterance"):
        waited_us, least_ms = step.input.at_us - user.partial_us, rules.watchdog_ms
        if not user.is_speaking:
            waited_us = _due_us(book, step, "endpoint") - user.stopped_us
            least_ms = min(rules.complete_ms, rules.incomplete_ms)
            if not (user.is_complete or rules.phrases or rules.stable_ms):
                least_ms = max(rules.incomplete_ms, min(rules.longest_ms, user.paused_us // 1000))
        if waited_us < least_ms * 1000:
            yield f"finished after {waited_us} us"


def a_farewell_is_the_end(book: Book, step: Seen) -> Iterator[str]:
    """End: the session ends after the last words, with their reason. Without last words such a reason ends it only by
    the time limit in IDLE.
    """
    ended = [event.reason for event in step.said if isinstance(event, SessionEnded)]
    over = [event.outcome for event in step.said if isinstance(event, AnswerEnded)]
    answer = book.answer
    due = ""
    if answer is not None and over in (["finished"], ["failed"]):
        failures = book.policy.fallback.failures
        too_many = over == ["failed"] and failures and book.speech_failures + 1 >= failures
        due = answer.ends or ("too_many_failures" if too_many else "")
        if over == ["finished"] and floor_rules.takes_up_the_conversation(book):
            due = ""
    if book.phase == "IDLE" and _is_timer(step, "session_limit") and book.what_it_answers(step.input):
        due = "time_limit"
    if due and ended != [due]:
        yield f"the last words ({due}) are over, and it ends as {ended}"
    is_asked = isinstance(step.input, inputs.SessionCloseRequested)
    if not due and not is_asked and any(reason in ENDINGS for reason in ended):
        yield f"it ends as {ended} without last words, by {type_of(step.input)}"


def a_conversation_ends_in_time(book: Book, step: Seen) -> Iterator[str]:
    """End: past its time limit the session listens only to a user who is still speaking, and not without limit. Speech
    to a user whose connection is lost waits until they return or the session ends.
    """
    if not book.limits or book.phase == "ENDED":
        return
    if book.phase == "LISTENING" and (book.limits > 1 or "session_limit" not in book.timers):
        yield "it listens after its time"
    if book.phase == "SPEAKING" and not book.client_id:
        return
    deadlines = book.policy.deadlines
    longest_ms = deadlines.answer_ms + deadlines.floor_ms + deadlines.stt_ms + deadlines.tts_ms + QUIET_MS
    late_us = step.now_us - max(book.limit_us, book.user.last_us) - longest_ms * 1000 - step.excused_us
    if late_us > 0:
        yield f"its time is over, the user is quiet, and it is still {book.phase}"


def _due_us(book: Book, step: Seen, *timers: str) -> int:
    """When one of the timers was due, if this step fires it; otherwise the time of the step. The two differ because a
    new owner's clock may be behind the old owner's clock.
    """
    command = book.what_it_answers(step.input)
    return int(str(command.payload["due_at_us"])) if command and command.target in timers else step.input.at_us


def _is_timer(step: Seen, target: str) -> bool:
    return isinstance(step.input, inputs.TimerFired) and step.input.target == target


def _is_away(step: Seen) -> bool:
    return _is_timer(step, "away")


def _turn(book: Book, step: Seen) -> Turn | None:
    """The turn that this step starts, or a copy of the open turn."""
    for event in step.said:
        if isinstance(event, TurnStarted):
            return Turn(event.text, event.via, event.at_us)
    turn = book.turn
    return Turn(turn.text, turn.via, turn.at_us, turn.processed) if turn is not None else None


def _commands(step: Seen, *names: str) -> Iterator[CommandIssued]:
    return (command for command in step.commands if command.name in names)


BEFORE: tuple[tuple[str, Checker], ...] = (
    ("guess", guesses_are_made_while_listening),
    ("guess", a_guess_counts_for_its_words),
    ("answer", an_answer_is_to_its_question),
    ("filler", a_filler_has_its_time),
    ("unasked", what_is_said_unasked_is_due),
    ("endpoint", an_utterance_is_finished),
    ("end", a_farewell_is_the_end),
)
AFTER: tuple[tuple[str, Checker], ...] = (
    ("unasked", a_silent_user_is_missed),
    ("endpoint", an_utterance_is_waited_for),
    ("end", a_conversation_ends_in_time),
)
