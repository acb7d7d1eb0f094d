"""A conversation as a Mermaid sequence diagram, for issues and documents."""

from collections.abc import Iterable, Iterator

from events.derived import CommandIssued, StateChanged
from events.envelope import Event, Input
from events.inputs import TimerFired, TtsChunkReady
from orchestrator.replay.words import name, payload

TO = {
    "SetMicrophone": "Client",
    "ClearText": "Client",
    "FinishUtterance": "Speech",
    "ClassifyIntent": "Services",
    "AnswerQuestion": "Services",
    "CancelStage": "Services",
    "CancelTask": "Services",
    "Speak": "Player",
    "PlayFiller": "Player",
    "StopPlayback": "Player",
    "PausePlayback": "Player",
    "ResumePlayback": "Player",
    "CloseSession": "Client",
}
FROM = {
    **dict.fromkeys(("SPEECH_STARTED", "SPEECH_STOPPED", "STT_PARTIAL", "STT_FINAL"), "Speech"),
    **dict.fromkeys(("INTENT_RESOLVED", "RAG_ANSWERED", "SERVICE_FAILED"), "Services"),
    **dict.fromkeys(("TTS_COMPLETE", "PLAYBACK_STARTED", "PLAYBACK_PROGRESS", "PLAYBACK_DONE"), "Player"),
}
LONGEST = 40


def mermaid(events: Iterable[Event]) -> Iterator[str]:
    """The lines of the diagram. Timers and chunks of audio are left out: they would hide the conversation."""
    yield "sequenceDiagram"
    yield from (f"    participant {who}" for who in ("Client", "Speech", "Session", "Services", "Player"))
    for event in events:
        if isinstance(event, StateChanged):
            yield f"    Note over Session: {event.to_phase}{f' ({event.reason})' if event.reason else ''}"
        elif isinstance(event, CommandIssued):
            if event.name in TO:
                yield f"    Session->>{TO[event.name]}: {event.name}{_about(event)}"
        elif isinstance(event, Input) and not isinstance(event, TimerFired | TtsChunkReady):
            yield f"    {FROM.get(name(event), 'Client')}->>Session: {name(event)}{_about(event)}"


def _about(event: Event) -> str:
    """The text of an event, without what Mermaid would take for its own."""
    said = payload(event)
    text = str(said.get("text") or said.get("answer") or said.get("intent") or said.get("setting") or "")
    plain = "".join(letter if letter.isalnum() or letter in " .,?!'-" else " " for letter in text)
    return f" {plain[:LONGEST]}{'…' if len(plain) > LONGEST else ''}" if plain.strip() else ""
