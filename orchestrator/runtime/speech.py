"""The Speak effect: synthesis, playback and the events about them. Without a handler the answer is shown as text."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

from events.inputs import PlaybackDone, PlaybackProgress, PlaybackStarted, SpokenWord, TtsChunkReady, TtsComplete
from orchestrator.runtime.live_session import Handler, LiveSession
from orchestrator.services.ports import SpeechChunk
from orchestrator.session.commands import PlayFiller, Speak

# What an event can carry (events/): a synthesiser that says more, or a time that cannot be, costs nobody the answer.
_MOST_WORDS = 500
_LONGEST_WORD = 500
_LATEST_MS = 24 * 3600 * 1000


Say = Callable[..., None]
"""Reports an event of a stage: its type and its own fields, without those that all of the stage have."""


async def speak(
    live: LiveSession, command: Speak | PlayFiller, chunks: AsyncGenerator[SpeechChunk, None], say: Say
) -> None:
    """Speak until everything was played. Raises ServiceError; cancelled when somebody interrupts.

    Where nobody is connected (a new owner speaks on, and the client is on its way to it) it waits for whoever comes
    first; the core's `tts_deadline` ends a wait in vain. A client that was in a call comes with its WebSocket first,
    and its call follows: that is waited for, too.
    """
    say = partial(say, playback_id=command.playback_id)
    await live.somebody_is_connected()
    if live.handler is not None:
        await _aloud(live.handler, command, chunks, say)
    else:
        assert live.client is not None, "somebody is connected"
        say(PlaybackStarted)
        await live.client.show_reply(command.playback_id, command.text)
        say(PlaybackDone, confirmed_by="client", position_ms=0)


async def _aloud(
    handler: Handler, command: Speak | PlayFiller, chunks: AsyncGenerator[SpeechChunk, None], say: Say
) -> None:
    """Read the synthesis at most half a second ahead of playback (the handler's write waits), then wait for its end."""
    skip_ms = command.from_ms if isinstance(command, Speak) else 0
    playback = handler.play(
        command.playback_id,
        on_started=lambda: say(PlaybackStarted),
        on_progress=lambda position_ms: say(PlaybackProgress, position_ms=skip_ms + position_ms),
    )
    count = duration_ms = 0
    async with aclosing(chunks):
        async for chunk in chunks:
            duration_ms += chunk.duration_ms
            if duration_ms <= skip_ms:
                continue  # heard before the session changed its owner
            say(TtsChunkReady, duration_ms=chunk.duration_ms, index=count, words=_words(chunk))
            count += 1
            await playback.write(chunk)
    say(TtsComplete, chunks=count, duration_ms=duration_ms)
    end = await playback.finish()
    say(PlaybackDone, confirmed_by=end.confirmed_by, position_ms=skip_ms + end.position_ms)


def _words(chunk: SpeechChunk) -> tuple[SpokenWord, ...]:
    """The words that begin in a chunk, as an event can carry them."""
    return tuple(
        SpokenWord(at_ms=min(max(word.at_ms, 0), _LATEST_MS), text=word.text[:_LONGEST_WORD])
        for word in chunk.words[:_MOST_WORDS]
    )
