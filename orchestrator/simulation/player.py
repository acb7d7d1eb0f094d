"""Plays the audio of one playback in virtual time: written, played, paused, resumed, stopped."""

from collections.abc import Callable

from orchestrator.simulation.virtual_time import VirtualTime

BEGINS_AFTER_US = 20_000


class Track:
    """The audio of one playback. While it is paused, its position does not advance."""

    def __init__(self, time: VirtualTime) -> None:
        self.paused = False
        self.over = False
        self.gaps_us = 0
        """Total time without audio to play, between writes."""
        self._time = time
        self._written_us = 0
        self._position_us = 0
        self._at_us = 0
        self._waiting: list[Callable[[], None]] = []

    @property
    def is_audible(self) -> bool:
        now_us = self._time.now_us
        playing = bool(self._written_us) and not self.paused and not self.over and now_us >= self._at_us
        return playing and self.position_us() < self._written_us

    @property
    def is_drained(self) -> bool:
        """Whether all written audio has been heard."""
        return self.position_us() == self._written_us

    def position_us(self) -> int:
        """The heard position."""
        if self.paused or self.over or self._time.now_us <= self._at_us:
            return self._position_us
        return min(self._written_us, self._position_us + self._time.now_us - self._at_us)

    def left_us(self) -> int:
        """Time until all written audio has been played, while it is not paused."""
        return self._written_us - self.position_us() + max(0, self._at_us - self._time.now_us)

    def write(self, audio_ms: int) -> None:
        """Add audio. The first audio is heard after BEGINS_AFTER_US."""
        now_us = self._time.now_us
        if not self._written_us:
            self._at_us = now_us + BEGINS_AFTER_US
        else:
            if not self.paused:
                self.gaps_us += max(0, now_us - self._at_us - (self._written_us - self._position_us))
            self._note()
        self._written_us += audio_ms * 1000

    def pause(self) -> None:
        self._note()
        self.paused = True

    def resume(self) -> None:
        """Continue from the paused position, and run the callbacks that wait for this."""
        if self.paused:
            self.paused = False
            self._at_us = self._time.now_us
            waiting, self._waiting = self._waiting, []
            for go_on in waiting:
                go_on()

    def stop(self) -> None:
        """Stop for ever."""
        self._note()
        self.over = True

    def when_left(self, at_most_us: int, do: Callable[[], None]) -> None:
        """Call `do` as soon as at most `at_most_us` of the written audio is left to play; not while it is paused."""
        left_us = self.left_us()
        if self.over:
            return
        if left_us <= at_most_us:
            do()
        elif self.paused:
            self._waiting.append(lambda: self.when_left(at_most_us, do))
        else:
            self._time.after(left_us - at_most_us, self.when_left, at_most_us, do)

    def unless_paused(self, do: Callable[[], None]) -> None:
        """Call `do` now or, while it is paused, when it is resumed."""
        if self.paused:
            self._waiting.append(lambda: self.unless_paused(do))
        else:
            do()

    def _note(self) -> None:
        self._position_us = self.position_us()
        self._at_us = max(self._at_us, self._time.now_us)
