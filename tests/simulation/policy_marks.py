"""Marks of what policies lead to: pausing and going on, backchannels, guesses, merged words, announcements, endings."""

from events import inputs
from events.derived import ProcessingComplete, TurnEnded, TurnStarted, UserInterrupted
from events.envelope import Event
from orchestrator.simulation.steps import plain
from tests.simulation.floor_rules import is_backchannel
from tests.simulation.mark_words import PHASES, Here, Predicate, fires, fires_in, outcomes

OF_A_GUESS = ("ClassifyIntent", "AnswerQuestion")


def _listens(here: Here) -> bool:
    """A backchannel in SPEAKING."""
    text, phrases = here.event.text, here.book.policy.interruption.backchannels
    return here.book.phase == "SPEAKING" and here.event.via == "speech" and is_backchannel(text, phrases)


def _takes_the_floor(*, is_paused: bool) -> Predicate:
    return lambda here: here.says(UserInterrupted) and here.is_paused == is_paused


def _adopted(*, outstanding: int) -> Predicate:
    """A guess is adopted while so many of its questions are open."""

    def holds(here: Here) -> bool:
        turn = here.turn_started
        asked = [command for command in here.book.outstanding.values() if command.name in OF_A_GUESS]
        return turn is not None and turn.speculation > 0 and len(asked) == outstanding

    return holds


def _merged(times: int) -> Predicate:
    return lambda here: here.book.merges == times - 1 and outcomes(here.said, TurnEnded) == ["merged"]


def _is_superseded(here: Here) -> bool:
    return outcomes(here.said, TurnEnded) == ["superseded"]


def _limit(phase: str) -> Predicate:
    return fires_in("session_limit", phase)


def _interrupts(kind: str) -> Predicate:
    """What the agent says unasked, and can be interrupted, is."""
    return lambda here: here.says(UserInterrupted) and here.answer.playback_id.startswith(kind)


def _last_words(ends: str) -> Predicate:
    return lambda here: here.answer.ends == ends and here.reason.startswith("these are the last words")


_INTERRUPTS: dict[str, Predicate] = {
    f"{kind} interrupted": _interrupts(kind) for kind in ("greeting", "away", "farewell")
} | {"goodbye interrupted": lambda here: here.says(UserInterrupted) and here.answer.ends == "goodbye"}
_TURN: dict[str, Predicate] = {
    "guess adopted with its answer": _adopted(outstanding=0),
    "guess adopted half answered": _adopted(outstanding=1),
    "guess adopted unanswered": _adopted(outstanding=2),
    "guess dropped for other words": lambda here: (
        here.book.guess is not None and here.turn_started is not None and not here.turn_started.speculation
    ),
    "from LISTENING to SPEAKING at once": lambda here: here.says(TurnStarted) and here.moves_to("SPEAKING"),
}
_FINAL: dict[str, Predicate] = {
    **_INTERRUPTS,
    **_TURN,
    "backchannel over the answer": lambda here: _listens(here) and here.rejected,
    "the answer goes on after a backchannel": lambda here: _listens(here) and here.does("ResumePlayback"),
    "backchannel at the end of the answer counts": lambda here: _listens(here) and here.says(UserInterrupted),
    "backchannel opens a turn": lambda here: here.book.phase == "LISTENING" and here.event.text.lower() == "yeah",
    "too few words to interrupt": lambda here: here.reason.startswith("too few words"),
    "cough over the answer": lambda here: (
        here.book.phase == "SPEAKING" and not plain(here.event.text) and here.does("ResumePlayback")
    ),
    "final interrupts a paused answer": _takes_the_floor(is_paused=True),
    "final interrupts without a pause": _takes_the_floor(is_paused=False),
    "merged once": _merged(1),
    "merged twice": _merged(2),
    "superseded by typing": lambda here: here.event.via == "text" and _is_superseded(here),
    "superseded by speech": lambda here: here.event.via == "speech" and _is_superseded(here),
    "repeated final rejected": lambda here: here.reason.startswith("another producer"),
    "repeated final is what was awaited": lambda here: here.book.repeats(here.event) and not here.rejected,
    "typed words that were just said": lambda here: (
        here.event.via == "text"
        and here.book.user.said is not None
        and here.book.user.said[0] == plain(here.event.text) != []
        and not here.rejected
    ),
    "repeated final too late": lambda here: (
        here.book.user.said is not None
        and here.book.user.said[0] == plain(here.event.text) != []
        and here.book.user.said[1] != here.event.producer
        and not here.book.repeats(here.event)
        and not here.rejected
    ),
    "farewell not interruptible: time_limit": _last_words("time_limit"),
    "farewell not interruptible: too_many_failures": _last_words("too_many_failures"),
    "user speaks before the greeting": lambda here: "greeting" in here.book.timers and here.says(TurnStarted),
}
_PARTIAL: dict[str, Predicate] = {
    "interruption confirmed by words while paused": _takes_the_floor(is_paused=True),
    "interruption confirmed by words": _takes_the_floor(is_paused=False),
    "words complete: asked at once": lambda here: here.event.is_complete and here.does("AnswerQuestion"),
    "words complete: the endpoint is nearer": lambda here: (
        here.event.is_complete and here.does("StartTimer", "endpoint")
    ),
    "words after the speech": lambda here: (
        here.book.phase == "LISTENING" and not here.book.user.is_speaking and "endpoint" in here.book.timers
    ),
}
_BARGE_IN: dict[str, Predicate] = {
    **_INTERRUPTS,
    "barge-in while paused": _takes_the_floor(is_paused=True),
    "barge-in with a position": lambda here: here.says(UserInterrupted) and here.event.position_ms > 0,
}
_SPEECH: dict[str, Predicate] = {
    **_INTERRUPTS,
    "paused before the first chunk": lambda here: here.does("PausePlayback") and not here.answer.chunks,
    "paused in the middle": lambda here: here.does("PausePlayback") and here.answer.position_ms > 0,
    "paused after synthesis": lambda here: here.does("PausePlayback") and here.answer.complete,
    "second sound while paused": lambda here: here.is_paused,
    "filler stopped by speech": lambda here: here.stops("filler"),
    "the user is there after a prompt": lambda here: here.book.phase == "LISTENING" and here.book.prompts > 0,
    "the user goes on while the agent thinks": lambda here: here.book.phase == "THINKING",
}
_STOPPED: dict[str, Predicate] = {
    "asked when speech stops": lambda here: here.does("AnswerQuestion"),
    "tries exhausted": lambda here: (
        here.book.phase == "LISTENING" and 0 < here.book.policy.speculation.tries <= here.book.guesses
    ),
    "guess asked anew": lambda here: here.does("CancelStage") and here.does("AnswerQuestion"),
    "early endpoint by phrase": lambda here: (
        here.book.policy.endpointing.phrases != () and plain(here.book.user.partial)[-1:] == ["please"]
    ),
}
_TIMER: dict[str, Predicate] = {
    **_TURN,
    **{f"time limit in {phase}": _limit(phase) for phase in PHASES},
    "time limit while the user speaks": lambda here: (
        here.event.target == "session_limit" and here.does("StartTimer", "session_limit")
    ),
    "time limit: farewell after all": lambda here: here.book.limits > 0 and here.does("Speak", "farewell"),
    "interruption confirmed by duration": lambda here: (
        here.event.target == "barge_in" and here.says(UserInterrupted) and not here.is_paused
    ),
    "interruption confirmed by duration while paused": lambda here: (
        here.event.target == "barge_in" and here.says(UserInterrupted) and here.is_paused
    ),
    "long enough, but no words": lambda here: fires("barge_in")(here) and not here.says(UserInterrupted),
    "resumed after a false interruption": lambda here: (
        here.event.target == "false_interruption" and here.does("ResumePlayback")
    ),
    "resumed while the user makes sounds": lambda here: (
        here.event.target == "false_interruption" and here.does("ResumePlayback") and here.book.user.is_speaking
    ),
    "watchdog endpoint": lambda here: here.does("FinishUtterance") and here.book.user.is_speaking,
    "watchdog waits on": lambda here: fires("endpoint")(here) and here.does("StartTimer", "endpoint"),
    "endpoint after a caller's pauses": lambda here: (
        here.does("FinishUtterance")
        and not here.book.user.is_speaking
        and here.event.at_us - here.book.user.stopped_us > here.book.policy.endpointing.incomplete_ms * 1000 + 100_000
        and here.book.user.paused_us > here.book.policy.endpointing.incomplete_ms * 1000
    ),
    "early endpoint by stability": lambda here: (
        here.does("FinishUtterance")
        and not here.book.user.is_speaking
        and here.book.policy.endpointing.stable_ms > 0
        and here.event.at_us - here.book.user.stopped_us < here.book.policy.endpointing.incomplete_ms * 1000
    ),
    "asked when stable": lambda here: here.event.target == "stable" and here.does("AnswerQuestion"),
    "stable words have changed": lambda here: here.event.target == "stable" and here.does("StartTimer", "stable"),
    "final is missing, the partial counts": lambda here: here.event.target == "stt_deadline" and here.says(TurnStarted),
    "final is missing, and nothing was said": lambda here: (
        fires_in("stt_deadline", "LISTENING")(here) and not here.says(TurnStarted)
    ),
    "filler plays": lambda here: here.does("PlayFiller"),
    "filler kept back from a user who speaks": lambda here: fires("filler")(here) and not here.does("PlayFiller"),
    "greeting by timer": lambda here: here.does("Speak", "greeting"),
    "away prompt": lambda here: here.does("Speak", "away"),
    "away prompts unanswered": lambda here: here.event.target == "away" and here.does("Speak", "farewell"),
    "floor deadline": lambda here: here.event.target == "floor_deadline" and here.moves_to("SPEAKING"),
    "speech fails too often": lambda here: here.ends_as == "too_many_failures",
    "answers fail too often": lambda here: any(
        isinstance(event, ProcessingComplete) and event.ends == "too_many_failures" for event in here.said
    ),
    "session ends as time_limit before anybody came": lambda here: (
        here.book.phase == "IDLE" and here.ends_as == "time_limit"
    ),
}
_PLAYBACK_DONE: dict[str, Predicate] = {
    "playback ended while paused": lambda here: here.is_paused and not here.rejected and bool(here.answer.chunks),
    **{
        f"session ends as {reason}": lambda here, reason=reason: here.ends_as == reason  # type: ignore[misc]
        for reason in ("time_limit", "user_away", "goodbye", "too_many_failures")
    },
    "farewell follows the answer": lambda here: here.does("Speak", "farewell"),
}
_ANSWERED: dict[str, Predicate] = {
    "guess answered before the turn": lambda here: here.book.phase == "LISTENING" and not here.rejected,
    "answer waits for the user": lambda here: here.says(ProcessingComplete) and not here.moves_to("SPEAKING"),
    "filler skipped, the answer came first": lambda here: here.does("CancelTimer", "filler"),
    "filler stopped by the answer": lambda here: here.moves_to("SPEAKING") and here.stops("filler"),
}
ROWS: dict[type[Event], dict[str, Predicate]] = {
    inputs.BargeIn: _BARGE_IN,
    inputs.HandlerAttached: {"greeting by voice": lambda here: here.does("Speak", "greeting")},
    inputs.IntentResolved: {"guess understood before the turn": _ANSWERED["guess answered before the turn"]},
    inputs.PlaybackDone: _PLAYBACK_DONE,
    inputs.RagAnswered: _ANSWERED,
    inputs.ServiceFailed: {
        "guess failed": lambda here: here.book.phase == "LISTENING" and not here.rejected,
        "answers fail too often": _TIMER["answers fail too often"],
        "speech fails too often": _TIMER["speech fails too often"],
    },
    inputs.SessionResumed: {
        "taken over while paused": lambda here: here.is_paused and not here.rejected,
        "taken over with a guess": lambda here: here.does("CancelStage"),
        "taken over with a guess that was adopted": lambda here: any(
            command.retry_of and command.payload.get("speculation") for command in here.commands
        ),
        "taken over in an announcement": lambda here: here.book.turn is None and here.does("Speak"),
    },
    inputs.SpeechStarted: _SPEECH,
    inputs.SpeechStopped: _STOPPED,
    inputs.SttFinal: _FINAL,
    inputs.SttPartial: _PARTIAL,
    inputs.TimerFired: _TIMER,
}
