"""The simulated Speak effect: synthesis somewhat ahead of playback, positions, and an end that is confirmed."""

from typing import TYPE_CHECKING

from events.inputs import PlaybackDone, PlaybackProgress, PlaybackStarted, TtsChunkReady, TtsComplete

if TYPE_CHECKING:
    from orchestrator.testing.simulated_handler import Handler
    from orchestrator.testing.simulated_owner import Owner, Running

PROGRESS_US = 1_000_000
PATIENCE_US = 2_500_000
LENGTHS = (0, 1, 2, 4, 4, 6, 6, 8, 12)


def speak(owner: "Owner", running: "Running", from_ms: int) -> None:
    """Aloud where there is a handler; else as text; else it fails, at once or after a while."""
    if owner.handler is not None:
        _Aloud(owner, running, owner.handler, from_ms).begin()
    elif owner.client_id:
        target = running.issued.target
        owner.report(running, "player", PlaybackStarted, playback_id=target)
        owner.later(
            running,
            1_000,
            lambda: owner.finish(running, "player", PlaybackDone, playback_id=target, confirmed_by="client"),
        )
    elif owner.world.patient and owner.world.time.now_us < running.started_us + PATIENCE_US:
        owner.later(running, 100_000, speak, owner, running, from_ms)
    else:
        owner.later(running, 1_000, owner.fail, running, "nobody is connected who could hear the answer")


class _Aloud:
    """One playback over a handler."""

    def __init__(self, owner: "Owner", running: "Running", handler: "Handler", from_ms: int) -> None:
        self._owner = owner
        self._running = running
        self._handler = handler
        self._id = running.issued.target
        self._skip_ms = from_ms
        self._chunks_ms = self._script()
        self._made_ms = 0
        self._count = 0
        self._starts_us = 0
        self._ends_us = 0

    def begin(self) -> None:
        """The first chunk takes longest, or never comes."""
        world, owner = self._owner.world, self._owner
        if not world.happens(world.faults.lost_results):
            owner.later(self._running, owner.takes_us(400_000), self._next_chunk, 0)

    def _script(self) -> list[int]:
        world = self._owner.world
        if self._id not in world.scripts:
            chance = world.chance
            world.scripts[self._id] = [chance.randrange(100, 900) for _ in range(chance.choice(LENGTHS))]
        return world.scripts[self._id]

    def _next_chunk(self, index: int) -> None:
        owner, world = self._owner, self._owner.world
        if index == len(self._chunks_ms):
            self._complete()
        elif world.happens(world.faults.failures / 3):
            owner.fail(self._running, "the synthesiser broke")
        else:
            self._made_ms += self._chunks_ms[index]
            if self._made_ms > self._skip_ms:
                self._chunk(self._chunks_ms[index])
            wait_us = max(owner.takes_us(100_000), self._ends_us - world.ahead_us - world.time.now_us)
            owner.later(self._running, wait_us, self._next_chunk, index + 1)

    def _chunk(self, duration_ms: int) -> None:
        owner = self._owner
        owner.report(
            self._running,
            "player",
            TtsChunkReady,
            duration_ms=duration_ms,
            index=self._count,
            playback_id=self._id,
        )
        self._ends_us = self._handler.write(self._id, duration_ms)
        if self._count == 0:
            owner.later(self._running, 20_000, self._started)
        self._count += 1

    def _started(self) -> None:
        self._starts_us = self._owner.world.time.now_us
        self._owner.report(self._running, "player", PlaybackStarted, playback_id=self._id)
        self._owner.later(self._running, PROGRESS_US, self._progress)

    def _progress(self) -> None:
        now_us = self._owner.world.time.now_us
        if now_us < self._ends_us:
            position_ms = self._skip_ms + (now_us - self._starts_us) // 1000
            self._owner.report(self._running, "player", PlaybackProgress, playback_id=self._id, position_ms=position_ms)
            self._owner.later(self._running, PROGRESS_US, self._progress)

    def _complete(self) -> None:
        owner, world = self._owner, self._owner.world
        owner.report(
            self._running,
            "player",
            TtsComplete,
            chunks=self._count,
            duration_ms=self._made_ms,
            playback_id=self._id,
        )
        confirmed_by, after_us = "client", world.chance.randrange(40_000, 300_000)
        if not self._count:
            confirmed_by, after_us = "timer", 1_000
        elif world.happens(1.5 * world.faults.lost_confirmations):
            if world.chance.random() < 0.7:
                return
            confirmed_by, after_us = "timer", 1_500_000
        owner.later(self._running, max(0, self._ends_us - world.time.now_us) + after_us, self._finish, confirmed_by)

    def _finish(self, confirmed_by: str) -> None:
        self._handler.stop(self._id)
        self._owner.finish(
            self._running,
            "player",
            PlaybackDone,
            confirmed_by=confirmed_by,
            playback_id=self._id,
            position_ms=max(self._skip_ms, self._made_ms),
        )
