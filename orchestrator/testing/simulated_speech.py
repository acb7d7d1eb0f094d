"""The simulated Speak effect: synthesis somewhat ahead of playback, positions, and an end that is confirmed."""

from collections.abc import Callable
from itertools import accumulate

from events.inputs import PlaybackDone, PlaybackProgress, PlaybackStarted, SpokenWord, TtsChunkReady, TtsComplete
from orchestrator.testing.simulated_effects import Effects, Running
from orchestrator.testing.simulated_player import BEGINS_AFTER_US, Track
from orchestrator.testing.simulated_surroundings import Surroundings

CHUNK_MS = (150, 1_600)
PROGRESS_US = 1_000_000
LENGTHS = (0, 1, 2, 4, 4, 6, 6, 8, 10)


def shown(effects: Effects, running: Running) -> None:
    """The answer is shown as text: it has been heard at once."""
    target = running.issued.target
    effects.report(running, "player", PlaybackStarted, playback_id=target)
    effects.later(
        running,
        1_000,
        lambda: effects.finish(running, "player", PlaybackDone, playback_id=target, confirmed_by="client"),
    )


class Aloud:
    """One playback over a handler. The same text always sounds the same."""

    def __init__(self, effects: Effects, running: Running, track: Track, from_ms: int) -> None:
        self._effects = effects
        self._running = running
        self._track = track
        self._world = effects.world
        self._id = running.issued.target
        self._skip_ms = from_ms
        text = str(running.issued.payload["text"])
        self._chunks_ms = _script(effects.world, text)
        total_ms, words = sum(self._chunks_ms), text.split()
        self._words = [(total_ms * index // len(words), word) for index, word in enumerate(words)]
        self._starts_ms = [0, *accumulate(self._chunks_ms)]
        self._count = 0
        self._complete = False

    def begin(self) -> None:
        """The first chunk takes longest, or never comes."""
        self._world.plays(self._id, self._track, self._skip_ms)
        if not self._world.happens("lost_results"):
            self._effects.later(self._running, self._effects.takes_us("first chunk", 400_000), self._next_chunk, 0)

    def _next_chunk(self, index: int) -> None:
        effects = self._effects
        if index == len(self._chunks_ms):
            self._made()
        elif self._world.happens("failures", 0.3):
            effects.fail(self._running, "the synthesiser broke")
        else:
            if self._starts_ms[index + 1] > self._skip_ms:
                self._chunk(index)
            effects.later(self._running, effects.takes_us("chunk", 100_000), self._when_there_is_room, index + 1)

    def _when_there_is_room(self, index: int) -> None:
        self._track.when_left(self._world.ahead_us, lambda: self._unless_over(self._next_chunk, index))

    def _chunk(self, index: int) -> None:
        starts_ms, ends_ms = self._starts_ms[index], self._starts_ms[index + 1]
        words = [SpokenWord(at_ms=at_ms, text=word) for at_ms, word in self._words if starts_ms <= at_ms < ends_ms]
        self._effects.report(
            self._running,
            "player",
            TtsChunkReady,
            duration_ms=ends_ms - starts_ms,
            index=self._count,
            playback_id=self._id,
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


def _script(world: Surroundings, text: str) -> list[int]:
    """How long the chunks of a text are, in milliseconds."""
    if text not in world.scripts:
        chance = world.chance(f"script {text}")
        world.scripts[text] = [chance.randrange(*CHUNK_MS) for _ in range(chance.choice(LENGTHS))]
    return world.scripts[text]
