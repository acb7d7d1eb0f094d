"""Folds events into the playback in the state: its texts, its audio, and the position that the user has heard."""

from events import derived, inputs
from orchestrator.session.heard import heard_ms
from orchestrator.session.state import Playback, State


def chunk_ready(state: State, event: inputs.TtsChunkReady) -> None:
    if (p := state.playback) and p.playback_id == event.playback_id and event.index >= p.next_chunk:
        last_ms = p.words[-1][0] if p.words else -1  # speech that is made anew repeats some
        words = tuple((word.at_ms, word.text) for word in event.words if word.at_ms > last_ms)
        if p.ends_at:
            p = _text_spoken(p, event)
        state.playback = p.but(chunks=p.chunks + 1, audio_ms=p.audio_ms + event.duration_ms, words=p.words + words)


def _text_spoken(p: Playback, event: inputs.TtsChunkReady) -> Playback:
    """Note where in the audio the speech of the chunk's text begins. If the user had heard all audio so far, the heard
    position advances again from the time of this chunk.
    """
    begun = (p.audio_ms,) * (min(event.text_index + 1, len(p.ends_at)) - len(p.begins_ms))
    if p.position_at_us and heard_ms(p, event.at_us) == p.audio_ms:
        p = p.but(position_ms=p.audio_ms, position_at_us=event.at_us)
    return p.but(begins_ms=p.begins_ms + begun, next_chunk=event.index + 1)


def synthesis_complete(state: State, event: inputs.TtsComplete) -> None:
    if (p := state.playback) and p.playback_id == event.playback_id:
        state.playback = p.but(total_ms=event.duration_ms)


def started(state: State, event: inputs.PlaybackStarted) -> None:
    """Note when playback began. An answer in texts that starts before any chunk of speech is shown, not spoken. If a
    media connection follows, the rest of a shown answer is spoken: that start is noted, too.
    """
    p = state.playback
    if p is None or p.playback_id != event.playback_id:
        return
    is_first = not p.position_at_us and not p.is_paused
    if is_first or (p.is_shown and p.next_chunk):
        state.playback = p.but(position_at_us=event.at_us, is_shown=bool(p.ends_at) and not p.next_chunk)


def progress(state: State, event: inputs.PlaybackProgress) -> None:
    if (
        (p := state.playback)
        and p.playback_id == event.playback_id
        and (event.position_ms > p.position_ms or (event.position_ms == p.position_ms and not p.position_at_us))
    ):  # while the playback's clock runs, a repeated position would only set it back
        moves = not p.is_paused
        state.playback = p.but(position_ms=event.position_ms, position_at_us=event.at_us if moves else 0)


def done(state: State, event: inputs.PlaybackDone) -> None:
    if (p := state.playback) and p.playback_id == event.playback_id:
        state.speech_failures = 0


def speaking_begins(state: State, event: derived.CommandIssued) -> None:
    """Fold CommandIssued of a Speak: the state has a new playback. Of a retry: the playback it has begins again at the
    position up to which the user has heard it, and audio after that position will be synthesised once more.
    """
    if (p := state.playback) is None:
        text, is_open = str(event.payload["text"]), bool(event.payload.get("is_open"))
        ends_at = (len(text),) if is_open else ()
        state.playback = Playback(event.target, text, str(event.payload["ends"]), is_open=is_open, ends_at=ends_at)
    else:
        from_ms = int(str(event.payload["from_ms"]))
        state.playback = p.but(audio_ms=from_ms, position_ms=from_ms, position_at_us=0, paused_at_us=None, next_chunk=0)


def speaking_goes_on(state: State, event: derived.CommandIssued) -> None:
    p, text = state.playback, str(event.payload["text"])
    assert p is not None, "what goes on has begun"
    if text and event.payload["index"] == len(p.ends_at):
        p = p.but(text=p.text + text, ends_at=(*p.ends_at, len(p.text) + len(text)))
    state.playback = p.but(is_open=p.is_open and not event.payload["is_last"])


def paused(state: State, event: derived.CommandIssued) -> None:  # noqa: ARG001
    if (p := state.playback) is not None:
        heard = heard_ms(p, state.at_us)
        state.playback = p.but(position_ms=heard, position_at_us=0, paused_at_us=state.at_us)


def resumed(state: State, event: derived.CommandIssued) -> None:  # noqa: ARG001
    if (p := state.playback) is not None:
        state.playback = p.but(position_at_us=state.at_us if p.audio_ms else 0, paused_at_us=None)


def answer_ended(state: State, event: derived.AnswerEnded) -> None:  # noqa: ARG001
    state.playback = None
