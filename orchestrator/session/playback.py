"""Folds events into the playback in the state: its texts, its audio, and the position that the user has heard."""

from events import derived, inputs
from orchestrator.session.heard import heard_ms
from orchestrator.session.state import Playback, State


def chunk_ready(state: State, event: inputs.TtsChunkReady) -> None:
    if (p := state.playback) and p.playback_id == event.playback_id and event.index >= p.next_chunk:
        last_ms = p.words[-1][0] if p.words else -1  # a retry synthesises some words again
        words = tuple((word.at_ms, word.text) for word in event.words if word.at_ms > last_ms)
        if p.ends_at:
            p = _text_spoken(p, event)
        state.playback = p.replace(chunks=p.chunks + 1, audio_ms=p.audio_ms + event.duration_ms, words=p.words + words)


def _text_spoken(p: Playback, event: inputs.TtsChunkReady) -> Playback:
    """Record where in the audio the speech of the chunk's text begins. If the user had heard all audio before this
    chunk, the heard position stood still: it advances again from now on.
    """
    begun = (p.audio_ms,) * (min(event.text_index + 1, len(p.ends_at)) - len(p.begins_ms))
    if p.position_at_us and heard_ms(p, event.at_us) == p.audio_ms:
        p = p.replace(position_ms=p.audio_ms, position_at_us=event.at_us)
    return p.replace(begins_ms=p.begins_ms + begun, next_chunk=event.index + 1)


def synthesis_complete(state: State, event: inputs.TtsComplete) -> None:
    if (p := state.playback) and p.playback_id == event.playback_id:
        state.playback = p.replace(total_ms=event.duration_ms)


def started(state: State, event: inputs.PlaybackStarted) -> None:
    """Fold PLAYBACK_STARTED: record when the playback began. From this time on, the heard position advances.

    If the answer comes in texts, and no audio chunk has come yet, the client shows the answer as text: set `is_shown`.
    If a media connection follows, the rest of the answer is spoken, and a second PLAYBACK_STARTED comes: end
    `is_shown`.
    """
    p = state.playback
    if p is None or p.playback_id != event.playback_id:
        return
    is_first = not p.position_at_us and not p.is_paused
    if is_first or (p.is_shown and p.next_chunk):
        state.playback = p.replace(position_at_us=event.at_us, is_shown=bool(p.ends_at) and not p.next_chunk)


def progress(state: State, event: inputs.PlaybackProgress) -> None:
    if (
        (p := state.playback)
        and p.playback_id == event.playback_id
        and (event.position_ms > p.position_ms or (event.position_ms == p.position_ms and not p.position_at_us))
    ):  # while the heard position advances, a repeated position would set it back
        moves = not p.is_paused
        state.playback = p.replace(position_ms=event.position_ms, position_at_us=event.at_us if moves else 0)


def done(state: State, event: inputs.PlaybackDone) -> None:
    if (p := state.playback) and p.playback_id == event.playback_id:
        state.speech_failures = 0


def speaking_begins(state: State, event: derived.CommandIssued) -> None:
    """Fold COMMAND_ISSUED of a Speak: add the playback to the state. If the Speak is a retry, the state has the
    playback already: forget its audio after `from_ms`, the position up to which the user has heard it. This audio is
    synthesised again.
    """
    if (p := state.playback) is None:
        text, is_open = str(event.payload["text"]), bool(event.payload.get("is_open"))
        ends_at = (len(text),) if is_open else ()
        state.playback = Playback(event.target, text, str(event.payload["ends"]), is_open=is_open, ends_at=ends_at)
    else:
        from_ms = int(str(event.payload["from_ms"]))
        state.playback = p.replace(
            audio_ms=from_ms, position_ms=from_ms, position_at_us=0, paused_at_us=None, next_chunk=0
        )


def speaking_goes_on(state: State, event: derived.CommandIssued) -> None:
    p, text = state.playback, str(event.payload["text"])
    assert p is not None, "what goes on has begun"
    if text and event.payload["index"] == len(p.ends_at):
        p = p.replace(text=p.text + text, ends_at=(*p.ends_at, len(p.text) + len(text)))
    state.playback = p.replace(is_open=p.is_open and not event.payload["is_last"])


def paused(state: State, event: derived.CommandIssued) -> None:  # noqa: ARG001
    if (p := state.playback) is not None:
        heard = heard_ms(p, state.at_us)
        state.playback = p.replace(position_ms=heard, position_at_us=0, paused_at_us=state.at_us)


def resumed(state: State, event: derived.CommandIssued) -> None:  # noqa: ARG001
    if (p := state.playback) is not None:
        state.playback = p.replace(position_at_us=state.at_us if p.audio_ms else 0, paused_at_us=None)


def answer_ended(state: State, event: derived.AnswerEnded) -> None:  # noqa: ARG001
    state.playback = None
