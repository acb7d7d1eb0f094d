"""The media connection of a simulated session: what can be heard of the agent, and a microphone with speech-to-text."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from events.envelope import Input
from events.inputs import SpeechStarted, SpeechStopped, SttFinal, SttPartial

if TYPE_CHECKING:
    from orchestrator.testing.simulated_owner import Owner

WATCHDOG_US = 2_000_000
STOP_NOTICED_US = 250_000


class Handler:
    """Plays, and turns what the user says into events. Nothing of it is said once it is closed."""

    def __init__(self, owner: "Owner", handler_id: str) -> None:
        self.owner = owner
        self.handler_id = handler_id
        self.microphone = "open"
        self.playing: dict[str, tuple[int, int]] = {}
        """Playback → from when to when its audio lasts, as far as it is written."""
        self.speaking = False
        self._closed = False
        self._utterance: list[str] | None = None
        self._spoken = 0

    def audible(self) -> tuple[str, ...]:
        now_us = self.owner.world.time.now_us
        return tuple(name for name, (starts_us, ends_us) in self.playing.items() if starts_us <= now_us < ends_us)

    def write(self, playback_id: str, audio_ms: int) -> int:
        """Add audio to a playback; returns when it will have been played."""
        now_us = self.owner.world.time.now_us
        starts_us, ends_us = self.playing.get(playback_id, (now_us + 20_000, now_us + 20_000))
        ends_us = max(ends_us, now_us) + audio_ms * 1000
        self.playing[playback_id] = (starts_us, ends_us)
        return ends_us

    def stop(self, playback_id: str) -> None:
        self.playing.pop(playback_id, None)

    def close(self) -> None:
        self._closed = True

    def set_microphone(self, setting: str) -> None:
        self.microphone = setting
        if setting == "closed":
            self._utterance = None

    def hear(self, words: list[str], pauses_us: list[int]) -> None:
        """The user says these words, with pauses between some of them; without words it is noise."""
        if self.speaking or self.microphone == "closed":
            return
        self.speaking = True
        self._spoken += 1
        self._say(SpeechStarted, media_ms=self.owner.world.time.now_us // 1000)
        if self._utterance is None:
            self._utterance = []
        self._go_on(list(words), list(pauses_us))

    def finish_utterance(self) -> None:
        """The recogniser gives its final soon; who goes on speaking begins another utterance."""
        if self._utterance is None:
            return
        text = " ".join(self._utterance)
        self._utterance = [] if self.speaking else None
        self._later(self.owner.takes_us(300_000), self._say_final, text)

    def _go_on(self, words: list[str], pauses_us: list[int]) -> None:
        chance = self.owner.world.chance
        if words:
            self._later(chance.randrange(100_000, 300_000), self._word, words, pauses_us)
        else:
            self._later(chance.randrange(50_000, STOP_NOTICED_US), self._stop, words, pauses_us)

    def _word(self, words: list[str], pauses_us: list[int]) -> None:
        if self._utterance is not None:
            self._utterance.append(words.pop(0))
            if self.owner.world.chance.random() < 0.3:
                self._say(SttPartial, text=" ".join(self._utterance))
        if words and pauses_us and self.owner.world.chance.random() < 0.5:
            self._later(STOP_NOTICED_US, self._stop, words, pauses_us)
        elif self._utterance is not None:
            self._go_on(words, pauses_us)
        else:
            self._stop([], [])

    def _stop(self, words: list[str], pauses_us: list[int]) -> None:
        self.speaking = False
        self._say(SpeechStopped, duration_ms=500, media_ms=self.owner.world.time.now_us // 1000)
        if words:
            self._later(pauses_us.pop(0), self.hear, words, pauses_us)
        else:
            self._later(WATCHDOG_US, self._finish_unasked, self._spoken)

    def _finish_unasked(self, spoken: int) -> None:
        if spoken == self._spoken:
            self.finish_utterance()

    def _say_final(self, text: str) -> None:
        self._say(SttFinal, text=text)

    def _later(self, delay_us: int, do: Callable[..., None], *args: Any) -> None:
        def go_on() -> None:
            if not self._closed:
                do(*args)

        self.owner.world.time.after(delay_us, go_on)

    def _say(self, kind: type[Input], **fields: Any) -> None:
        self.owner.world.say(self.owner.node, "media", kind, handler_id=self.handler_id, **fields)
