"""Prints a conversation for reading: the words of the user and of the agent, with interruptions."""

from collections.abc import Iterable, Iterator

from events.derived import AnswerEnded, CommandIssued, TurnEnded, TurnStarted
from events.envelope import Event


def transcript(events: Iterable[Event]) -> Iterator[str]:
    """One line for each turn of the user and each answer of the agent. Unheard words of an answer stand in brackets."""
    texts: dict[tuple[str, str], str] = {}
    lines: list[str] = []
    began: dict[str, int] = {}
    """Session → the line of its current turn."""
    for event in events:
        session_id = event.session_id
        match event:
            case TurnStarted():
                began[session_id] = len(lines)
                lines.append(f"[{session_id}] user: {event.text}")
            case TurnEnded(outcome="merged"):  # the next turn repeats these words and adds later ones
                lines[began[session_id]] = ""
            case CommandIssued(name="Speak"):
                texts[session_id, event.target] = str(event.payload.get("text", ""))
            case AnswerEnded():
                lines.append(f"[{session_id}] agent: {_heard(event, texts.get((session_id, event.playback_id), ''))}")
    return (line for line in lines if line)


def _heard(ended: AnswerEnded, text: str) -> str:
    heard = ended.heard_text
    if ended.outcome == "finished":
        return text or heard
    rest = unheard(text, heard)
    return " ".join(part for part in (heard, f"[{ended.outcome}; not heard: {rest}]" if rest else "") if part)


def unheard(text: str, heard: str) -> str:
    """The rest of an answer after the words that the user heard.

    >>> unheard("We open at ten.", "We open")
    'at ten.'
    """
    return text.removeprefix(heard).strip() if text.startswith(heard) else text
