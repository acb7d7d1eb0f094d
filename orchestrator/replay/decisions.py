"""Counts the decisions of a conversation, each under a short name, so that two runs can be compared."""

from collections import Counter
from collections.abc import Iterable
from statistics import median

from events import derived, inputs
from events.derived import CommandIssued
from events.envelope import Event


def decisions(events: Iterable[Event]) -> Counter[str]:
    """Count each decision of a log, such as `answer interrupted` or `PlayFiller`."""
    return Counter(decided for event in events if (decided := _decision(event)))


def changed(old: Counter[str], new: Counter[str]) -> dict[str, tuple[int, int]]:
    """Return decision → (count before, count after). Equal counts are left out. The largest decrease comes first."""
    names = sorted(old | new, key=lambda name: (new[name] - old[name], name))
    return {name: (old[name], new[name]) for name in names if old[name] != new[name]}


def waits_ms(events: Iterable[Event]) -> list[int]:
    """Return how long the user waited for each answer, in milliseconds: from the end of their speech, or from their
    typed text, to the first sound.
    """
    silent_us: dict[str, int] = {}
    waiting: dict[str, int] = {}
    found = []
    for event in events:
        match event:
            case inputs.SpeechStopped():
                silent_us[event.session_id] = event.at_us
            case derived.TurnStarted():
                since = silent_us.pop(event.session_id, event.at_us)
                waiting[event.session_id] = since if event.via == "speech" else event.at_us
            case inputs.PlaybackStarted() if event.playback_id.startswith("answer") and event.session_id in waiting:
                found.append((event.at_us - waiting.pop(event.session_id)) // 1_000)
    return found


def typical_ms(waits: list[int]) -> int | None:
    return round(median(waits)) if waits else None


def _decision(event: Event) -> str:
    match event:
        case derived.UserInterrupted():
            return f"interrupted by {event.reason}"
        case derived.AnswerEnded():
            return f"answer {event.outcome}"
        case derived.TurnEnded():
            return f"turn {event.outcome}"
        case derived.SessionEnded():
            return f"session ended: {event.reason}"
        case derived.EventRejected() if not event.reason.startswith(("stale", "the session has ended")):
            return f"rejected: {event.reason}"
        case CommandIssued(name="PausePlayback" | "ResumePlayback" | "PlayFiller" | "FinishUtterance"):
            return event.name
        case _:
            return ""
