"""The simulated Speak effect: synthesis ahead of playback, progress reports, and the confirmation of the end."""

from collections.abc import Callable
from itertools import accumulate

from events.inputs import PlaybackDone, PlaybackProgress, PlaybackStarted, SpokenWord, TtsChunkReady, TtsComplete
from orchestrator.simulation.context import SimulationContext
from orchestrator.simulation.effects import Running, SimulatedEffects
from orchestrator.simulation.playback_texts import PlaybackTexts
from orchestrator.simulation.player import BEGINS_AFTER_US, Track

CHUNK_MS = (150, 1_600)
PROGRESS_US = 1_000_000
LENGTHS = (0, 1, 2, 4, 4, 6, 6, 8, 10)


def shown(effects: SimulatedEffects, running: Running, texts: PlaybackTexts) -> None:
    """Show the answer as text. It counts as heard a millisecond after its last text."""
    target = running.issued.target
    effects.report(running, "player", PlaybackStarted, playback_id=target)

    def end_if_complete() -> None:
        if texts.is_complete:
            effects.later(
                running,
                1_000,
                lambda: effects.finish(running, "player", PlaybackDone, playback_id=target, confirmed_by="client"),
            )

    texts.more = end_if_complete
    end_if_complete()


class Aloud:
    """One audible playback over a handler, text after text. The same text always has the same chunks."""

    def __init__(
        self, effects: SimulatedEffects, running: Running, track: Track, texts: PlaybackTexts, from_ms: int
    ) -> None:
        self._effects = effects
        self._running = running
        self._track = track
        self._world = effects.world
        self._id = running.issued.target
        self._skip_ms = from_ms
        self._texts = texts
        self._is_whole = texts.is_complete and len(texts.queue) == 1 and not texts.queue[0][0]
        """Whether the answer is one text. Only such an answer may have no sound at all."""
        self._text = 0
        """The number of the text that is being synthesised."""
        self._chunks_ms: list[int] = []
        self._words: list[tuple[int, str]] = []
        self._starts_ms = [texts.begins_ms]
        self._count = 0
        self._complete = False

    def begin(self) -> None:
        """Start synthesis. The first chunk takes longest, or never comes by the fault `lost_results`."""
        self._world.plays(self._id, self._track, self._skip_ms)
        if not self._world.happens("lost_results"):
            self._next_text()

    def _next_text(self) -> None:
        """Begin the next text, wait for it, or end the synthesis after the last one."""
        self._texts.more = lambda: None
        if self._texts.queue:
            self._text, text = self._texts.queue.popleft()
            self._chunks_ms = _script(self._world, text, least=not self._is_whole)
            begins_ms, total_ms, words = self._starts_ms[-1], sum(self._chunks_ms), text.split()
            self._words = [(begins_ms + total_ms * index // len(words), word) for index, word in enumerate(words)]
            self._starts_ms = [begins_ms, *(begins_ms + ms for ms in accumulate(self._chunks_ms))]
            self._effects.later(self._running, self._effects.takes_us("first chunk", 400_000), self._next_chunk, 0)
        elif self._texts.is_complete:
            self._made()
        else:
            self._texts.more = lambda: self._unless_over(self._next_text)

    def _next_chunk(self, index: int) -> None:
        effects = self._effects
        if index == len(self._chunks_ms):
            self._next_text()
        elif self._world.happens("failures", 0.3):
            effects.fail(self._running, "the synthesiser broke")
        else:
            if self._starts_ms[index + 1] > self._skip_ms:
                self._chunk(max(self._starts_ms[index], self._skip_ms), self._starts_ms[index + 1])
            effects.later(self._running, effects.takes_us("chunk", 100_000), self._when_there_is_room, index + 1)

    def _when_there_is_room(self, index: int) -> None:
        self._track.when_left(self._world.ahead_us, lambda: self._unless_over(self._next_chunk, index))

    def _chunk(self, starts_ms: int, ends_ms: int) -> None:
        words = [SpokenWord(at_ms=at_ms, text=word) for at_ms, word in self._words if starts_ms <= at_ms < ends_ms]
        self._effects.report(
            self._running,
            "player",
            TtsChunkReady,
            duration_ms=ends_ms - starts_ms,
            index=self._count,
            playback_id=self._id,
            text_index=self._text,
            words=tuple(words) if self._world.tells_words else (),
        )
        self._track.write(ends_ms - starts_ms)
        if self._count == 0:
            self._effects.later(self._running, BEGINS_AFTER_US, self._started)
        self._count += 1

    def _started(self) -> None:
        self._track.unless_paused(lambda: self._unless_over(self._has_started))

    def _has_started(self) -> None:
        self._effects.report(self._running, "player", PlaybackStarted, playback_id=self._id)
        self._effects.later(self._running, PROGRESS_US, self._progress)

    def _progress(self) -> None:
        self._track.unless_paused(lambda: self._unless_over(self._has_come_further))

    def _has_come_further(self) -> None:
        if not self._track.is_drained:
            position_ms = self._skip_ms + self._track.position_us() // 1000
            about = {"playback_id": self._id, "position_ms": position_ms}
            self._effects.report(self._running, "player", PlaybackProgress, **about)
        elif self._complete:
            return
        self._effects.later(self._running, PROGRESS_US, self._progress)

    def _made(self) -> None:
        self._complete = True
        self._effects.report(
            self._running,
            "player",
            TtsComplete,
            chunks=self._count,
            duration_ms=self._starts_ms[-1],
            playback_id=self._id,
        )
        self._track.when_left(0, lambda: self._unless_over(self._drained))

    def _drained(self) -> None:
        confirmed_by, after_us = "client", self._world.chance("confirmation").randrange(40_000, 300_000)
        if not self._count:
            confirmed_by, after_us = "timer", 1_000
        elif self._world.happens("lost_confirmations", 1.5):
            if self._world.chance("confirmation").random() < 0.7:
                return
            confirmed_by, after_us = "timer", 1_500_000
        self._effects.later(self._running, after_us, self._finish, confirmed_by)

    def _finish(self, confirmed_by: str) -> None:
        self._track.stop()
        self._effects.finish(
            self._running,
            "player",
            PlaybackDone,
            confirmed_by=confirmed_by,
            playback_id=self._id,
            position_ms=max(self._skip_ms, self._starts_ms[-1]),
        )

    def _unless_over(self, do: Callable[..., None], *args: object) -> None:
        if not self._running.over:
            do(*args)


def _script(world: SimulationContext, text: str, least: int) -> list[int]:
    """The lengths of a text's chunks in milliseconds, at least `least` of them."""
    if text not in world.scripts:
        chance = world.chance(f"script {text}")
        world.scripts[text] = [chance.randrange(*CHUNK_MS) for _ in range(max(least, chance.choice(LENGTHS)))]
    return world.scripts[text]
