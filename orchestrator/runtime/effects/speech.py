"""The Speak effect: synthesis, playback and their events. Without a handler, the answer is shown as text."""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from events.inputs import PlaybackDone, PlaybackProgress, PlaybackStarted, SpokenWord, TtsChunkReady, TtsComplete
from orchestrator.runtime.effects.script import Script
from orchestrator.runtime.effects.synthesis import Synthesize, speech_of
from orchestrator.runtime.live_session import Client, Handler, LiveSession
from orchestrator.services.failures import ListenerGone
from orchestrator.services.ports import SpeechChunk
from orchestrator.services.ports import SpokenWord as Word
from orchestrator.session.commands import PlayFiller, Speak

# Limits of the fields of events (events/). Values beyond a limit are cut to it, so that the answer is still spoken.
_MOST_WORDS = 500
_LONGEST_WORD = 500
_LATEST_MS = 24 * 3600 * 1000

Say = Callable[..., None]
"""Reports an event of a stage: `say(EventType, field=value)`. Session, command id and elapsed time are added."""


async def speak(
    live: LiveSession, command: Speak | PlayFiller, script: Script, synthesize: Synthesize, say: Say
) -> None:
    """Speak the texts of a script (the queue of texts of one playback), or show them if only a client is connected.
    Returns when all texts are played or shown. A barge-in cancels this coroutine.

    - With a handler: speaks. Raises ListenerGone when the media connection ends. Another event, HANDLER_DETACHED,
      reports that end; the reducer then issues a new Speak command from the heard position.
    - With a client alone: shows text. If a handler is being connected, or was lost, first waits for a handler, at most
      CALL_FOLLOWS_S. If a handler connects before the last text is shown, speaks the remaining texts.
    - With neither: waits for a handler or a client. This happens after a lost connection, or after a takeover.

    Raises ServiceError if the synthesis fails.
    """
    say = partial(say, playback_id=command.playback_id)
    await live.somebody_is_connected()
    if live.handler is None and await _is_shown(live, command, script, say):
        say(PlaybackDone, confirmed_by="client", position_ms=0)
        return
    assert live.handler is not None, "an answer that was not shown to its end goes on in a call"
    await _aloud(live.handler, command, script, synthesize, say)


async def _is_shown(live: LiveSession, command: Speak | PlayFiller, script: Script, say: Say) -> bool:
    """Show the texts of a script to the client, one by one. Returns True when all were shown; False if a handler
    connected before that, so that the remaining texts must be spoken.
    """
    gone: Client | None = None
    started = False
    while True:
        await live.somebody_is_connected(gone)
        if live.handler is not None:
            return False
        if (text := await script.next()) is None:
            return True
        if live.handler is not None or (client := live.client) is None:
            continue
        if gone is client or not started:
            say(PlaybackStarted)
            started = True
        try:
            await client.show_reply(command.playback_id, text[1])
        except ListenerGone:  # the client disconnected before the text was sent
            gone, started = client, False
        else:
            script.take()
            gone = None


async def _aloud(
    handler: Handler, command: Speak | PlayFiller, script: Script, synthesize: Synthesize, say: Say
) -> None:
    """Synthesise the texts of a script and play them through the handler. Each chunk of speech is reported, then
    written to the playback; writing waits while about a second of audio is queued. Returns when the playback has ended.

    A Speak command that continues an answer (after a lost connection or a takeover) has `from_ms`: the user has heard
    the audio before that position, so it is skipped, exact to the sample. If synthesis fails, the speech made before
    the failure is still played; then the error is raised.
    """
    skip_ms, begins_ms = (command.from_ms, command.begins_ms) if isinstance(command, Speak) else (0, 0)
    playback = handler.play(
        command.playback_id,
        on_started=lambda: say(PlaybackStarted),
        on_progress=lambda position_ms: say(PlaybackProgress, position_ms=skip_ms + position_ms),
    )
    count, end_us, current = 0, begins_ms * 1000, -1
    words: list[Word] = []
    try:
        async with aclosing(speech_of(script, synthesize)) as speech:
            async for index, chunk in speech:
                if index != current:
                    current, begins_ms = index, end_us // 1000
                begin_us, end_us = end_us, end_us + chunk.duration_us
                if skip_ms and end_us <= skip_ms * 1000:
                    continue  # heard before the connection or the owner changed
                words += (replace(word, at_ms=word.at_ms + begins_ms) for word in chunk.words)
                if duration_ms := end_us // 1000 - max(begin_us // 1000, skip_ms):  # an empty chunk gets no event
                    say(TtsChunkReady, duration_ms=duration_ms, index=count, text_index=index, words=_as_said(words))
                    count += 1
                    words = []
                await playback.write(_without(chunk, skip_ms * 1000 - begin_us))
    except ListenerGone:
        raise
    except Exception:
        await playback.finish()
        raise
    say(TtsComplete, chunks=count, duration_ms=end_us // 1000)
    end = await playback.finish()
    say(PlaybackDone, confirmed_by=end.confirmed_by, position_ms=skip_ms + end.position_ms)


def _without(chunk: SpeechChunk, us: int) -> SpeechChunk:
    """Return the chunk without the first `us` microseconds of its audio."""
    skipped = 2 * (max(0, us) * chunk.sample_rate_hz // 1_000_000)
    return replace(chunk, pcm=chunk.pcm[skipped:]) if skipped else chunk


def _as_said(words: list[Word]) -> tuple[SpokenWord, ...]:
    """Convert words for the field `words` of TTS_CHUNK_READY. Leaves out the words after the first _MOST_WORDS, cuts
    each word to _LONGEST_WORD characters, sets a time below 0 to 0, and sets a time above _LATEST_MS to _LATEST_MS.
    """
    return tuple(
        SpokenWord(at_ms=min(max(word.at_ms, 0), _LATEST_MS), text=word.text[:_LONGEST_WORD])
        for word in words[:_MOST_WORDS]
    )
