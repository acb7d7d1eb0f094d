"""Prints a conversation for reading: the words of the user and of the agent, with interruptions."""

from collections.abc import Iterable, Iterator

from events.derived import AnswerEnded, CommandIssued, TurnEnded, TurnStarted
from events.envelope import Event
from orchestrator.safe_text import one_line


def transcript(events: Iterable[Event]) -> Iterator[str]:
    """Return a line for each turn of the user and each answer of the agent. Words that the user did not hear are in
    brackets.
    """
    texts: dict[tuple[str, str], dict[int, str]] = {}
    """(session id, playback id) → index → text of the answer. An answer in one text has only index 0."""
    lines: list[str] = []
    began: dict[str, int] = {}
    """Session id → index in `lines` of the user's words that began the latest turn."""
    for event in events:
        session_id = event.session_id
        match event:
            case TurnStarted():
                began[session_id] = len(lines)
                lines.append(f"[{session_id}] user: {event.text}")
            case TurnEnded(outcome="merged"):  # the next turn repeats these words and adds later ones
                if session_id in began:  # false if the log begins within the turn
                    lines[began[session_id]] = ""
            case CommandIssued(name="Speak" | "SpeakMore", payload=said):
                known = texts.setdefault((session_id, str(said["playback_id"])), {})
                known[int(str(said.get("index", 0)))] = str(said["text"])
            case AnswerEnded():
                known = texts.get((session_id, event.playback_id), {})
                text = "".join(known[index] for index in sorted(known))
                lines.append(f"[{session_id}] agent: {_heard(event, text)}")
    return (one_line(line) for line in lines if line)


def _heard(ended: AnswerEnded, text: str) -> str:
    heard = ended.heard_text
    if ended.outcome == "finished":
        return text or heard
    rest = unheard(text, heard)
    return " ".join(part for part in (heard, f"[{ended.outcome}; not heard: {rest}]" if rest else "") if part)


def unheard(text: str, heard: str) -> str:
    """Return the rest of an answer, after the words that the user heard.

    >>> unheard("We open at ten.", "We open")
    'at ten.'
    """
    return text.removeprefix(heard).strip() if text.startswith(heard) else text
