"""The microphone of a simulated call, with voice activity detection and speech-to-text behind it."""

from collections.abc import Callable
from typing import Any
from unicodedata import normalize

from events.envelope import Input
from events.inputs import HearingFailed, SpeechStarted, SpeechStopped, SttFinal, SttPartial
from orchestrator.simulation.context import SimulationContext
from orchestrator.simulation.words import Speech

WATCHDOG_US = 2_000_000
CORRECTED_US = 150_000
GIVEN_UP_US = 5_000_000
SLOWLY = 16
"""A slow final takes up to 4.8 s: longer than the policy waits for it, and shorter than GIVEN_UP_US."""


class Ear:
    """Turns the user's speech into events, until it is closed."""

    def __init__(self, world: SimulationContext, node: str, handler_id: str) -> None:
        self.microphone = "open"
        self.speaking = False
        self._world = world
        self._node = node
        self._handler_id = handler_id
        self._closed = False
        self._words: list[str] | None = None
        """Words understood of the current utterance; None: there is no utterance."""
        self._is_revised = False
        self._onsets = 0

    def close(self) -> None:
        self._closed = True

    def set_microphone(self, setting: str) -> None:
        self.microphone = setting
        if setting == "closed":
            self._words = None

    def hear(self, speech: Speech, part: int = 0) -> None:
        """The user begins to speak, or goes on after a silence."""
        if self.speaking or self.microphone == "closed":
            return
        self.speaking = True
        self._onsets += 1
        self._say(SpeechStarted, media_ms=self._world.time.now_us // 1000)
        if self._words is None:
            self._words = []
        self._is_revised = speech.is_revised
        self._go_on(speech, part, 0)

    def finish_utterance(self) -> None:
        """Schedule the recogniser's final, or its failure. A user who goes on speaking begins another utterance."""
        if self._words is None:
            return
        words = list(self._words)
        self._words = [] if self.speaking else None
        if words and self._is_revised:
            words[-1] += "z"
        if self._world.happens("lost_results", 0.5):
            self._later(GIVEN_UP_US, self._fail, "no final within 5 s")
            return
        if self._world.happens("failures", 0.5):
            self._later(20_000, self._say_final, "")
            self._later(20_001, self._fail, "the recogniser broke")
            return
        if not (words or self._world.tells_noise):
            return
        chance = self._world.chance("recogniser")
        text = " ".join(words)
        if text and chance.random() < 0.3:
            text = f"{text[0].upper()}{text[1:]}."
        slowly = SLOWLY if self._world.happens("slowness", 0.5) else 1
        self._later(chance.randrange(30_000, 300_000) * slowly, self._say_final, text)
        if chance.random() < self._world.second_ear:
            self._world.time.after(chance.randrange(10_000, 4_000_000), self._say_elsewhere, text)

    def _go_on(self, speech: Speech, part: int, index: int) -> None:
        words = speech.parts[part]
        if index < len(words):
            self._later(words[index].after_us, self._understand, speech, part, index)
        else:
            self._later(speech.tails_us[part], self._stop, speech, part)

    def _understand(self, speech: Speech, part: int, index: int) -> None:
        if self._words is None:  # the microphone was closed
            self._stop(speech, len(speech.parts) - 1)
            return
        word = speech.parts[part][index]
        self._words.append(word.text)
        if word.is_told:
            is_last = part == len(speech.parts) - 1 and index == len(speech.parts[part]) - 1
            text = " ".join([*self._words[:-1], word.misheard or word.text])
            self._say(SttPartial, text=text, is_complete=speech.looks_complete and is_last)
            if word.misheard:
                self._later(CORRECTED_US, self._correct)
        self._go_on(speech, part, index + 1)

    def _correct(self) -> None:
        if self._words:
            self._say(SttPartial, text=" ".join(self._words))

    def _stop(self, speech: Speech, part: int) -> None:
        self.speaking = False
        self._say(SpeechStopped, duration_ms=500, media_ms=self._world.time.now_us // 1000)
        if part + 1 < len(speech.parts):
            self._later(speech.silences_us[part], self.hear, speech, part + 1)
        else:
            self._later(WATCHDOG_US, self._finish_unasked, self._onsets)

    def _finish_unasked(self, onsets: int) -> None:
        if onsets == self._onsets:
            self.finish_utterance()

    def _fail(self, error: str) -> None:
        """Report HEARING_FAILED. A new recogniser takes over at once."""
        self._say(HearingFailed, error=error, is_utterance_lost=True)

    def _say_final(self, text: str) -> None:
        self._world.understood = text
        self._say(SttFinal, text=self._world.written(text))

    def _say_elsewhere(self, text: str) -> None:
        """An outside service reports the same final."""
        self._world.say("outside", "stt", SttFinal, text=self._world.written(text.lower()))

    def _later(self, delay_us: int, do: Callable[..., None], *args: Any) -> None:
        def go_on() -> None:
            if not self._closed:
                do(*args)

        self._world.time.after(delay_us, go_on)

    def _say(self, kind: type[Input], **fields: Any) -> None:
        if kind is SttPartial:  # in another Unicode form than the final
            fields["text"] = normalize("NFD", self._world.written(fields["text"]))
        self._world.say(self._node, "media", kind, handler_id=self._handler_id, **fields)
