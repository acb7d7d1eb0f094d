"""The life of an utterance: opened at the onset of speech with what was said just before, closed by one finish."""

import asyncio
import logging
from collections.abc import Callable

from events.envelope import Input
from events.inputs import SttFinal, SttPartial
from orchestrator.media.resampling import SPEECH_RATE_HZ
from orchestrator.media.settings import MediaSettings
from orchestrator.services.ports import Recognizer, SpeechToTextPort, Transcript

logger = logging.getLogger(__name__)

_BYTES_PER_MS = 2 * SPEECH_RATE_HZ // 1000
_LONGEST_TEXT = 8_000
"""What an event may carry (events.envelope.Text)."""


class Utterances:
    """Feeds one recogniser with whole utterances and reports what it understood.

    Keeps the last half second of audio, so that a recogniser opened when speech is noticed hears its first sound.
    That memory never reaches back past the end of the speech before, or those words would be heard twice.
    """

    _recognizer: Recognizer  # set by open(): opening it takes our callbacks

    def __init__(self, settings: MediaSettings, say: Callable[[Input], None]) -> None:
        self._settings = settings
        self._say = say
        self._before = bytearray()
        self._fed_bytes = 0
        self._awaiting_finals = 0
        self._last_partial = ""
        self._watchdog: asyncio.TimerHandle | None = None
        self.is_open = False

    @classmethod
    async def open(cls, settings: MediaSettings, stt: SpeechToTextPort, say: Callable[[Input], None]) -> "Utterances":
        """Open a recogniser and hold it. Raises ServiceError when there is none to be had."""
        utterances = cls(settings, say)
        utterances._recognizer = await stt.open(utterances.transcribed, utterances.failed)
        return utterances

    def hear(self, pcm: bytes) -> None:
        """The next piece of 16 kHz mono PCM, silence included."""
        self._before += pcm
        self._keep(self._settings.preroll_ms)
        if not self.is_open:
            return
        self._feed(pcm)
        if self._fed_bytes > self._settings.utterance_limit_ms * _BYTES_PER_MS:
            logger.warning("an utterance of %d ms was cut", self._settings.utterance_limit_ms)
            self.finish()
            self._start(b"")

    def speech_started(self) -> None:
        """Speech is noticed; the piece that showed it has been heard. A running utterance just goes on."""
        self._disarm()
        if not self.is_open:
            self._start(bytes(self._before))

    def speech_stopped(self, silence_ms: int) -> None:
        """Speech ended `silence_ms` ago. The utterance stays open: the speaker may only draw breath."""
        self._keep(silence_ms)
        self._disarm()
        if self.is_open:
            wait_s = self._settings.finish_watchdog_ms / 1000
            self._watchdog = asyncio.get_running_loop().call_later(wait_s, self._finish_unasked)

    def finish(self) -> None:
        """The recogniser must give its final now. Without an open utterance there is nothing to give."""
        self._disarm()
        if self.is_open:
            self.is_open = False
            self._awaiting_finals += 1
            self._recognizer.finish()

    def resume(self, spoken_ms: int) -> None:
        """After a finish in the middle of speech that began `spoken_ms` ago: the rest is an utterance of its own.

        If it began so lately that the memory holds all of it, it is heard from its beginning.
        """
        held_ms = len(self._before) // _BYTES_PER_MS
        self._start(bytes(self._before) if spoken_ms <= held_ms else b"")

    def cancel(self) -> None:
        """Forget the open utterance and what was heard before."""
        self._disarm()
        self._before.clear()
        if self.is_open:
            self.is_open = False
            self._recognizer.cancel()

    async def close(self) -> None:
        self.cancel()
        await self._recognizer.close()

    def transcribed(self, transcript: Transcript) -> None:
        """The recogniser understood something."""
        text = transcript.text[:_LONGEST_TEXT]
        if transcript.is_final:
            self._awaiting_finals = max(0, self._awaiting_finals - 1)
            self._last_partial = ""
            self._say(SttFinal(text=text))
        elif text and text != self._last_partial:
            self._last_partial = text
            self._say(SttPartial(text=text, is_complete=transcript.is_complete))

    def failed(self, error: str) -> None:
        """The recogniser broke. What was said is lost; an empty final says so, and the next onset starts anew."""
        logger.error("speech-to-text failed: %s", error)
        owed = self._awaiting_finals + (1 if self.is_open else 0)
        self.cancel()
        self._awaiting_finals = 0
        if owed:
            self._say(SttFinal(text=""))

    def _start(self, pcm: bytes) -> None:
        self.is_open = True
        self._fed_bytes = 0
        self._recognizer.start()
        if pcm:
            self._feed(pcm)

    def _feed(self, pcm: bytes) -> None:
        self._fed_bytes += len(pcm)
        self._recognizer.feed(pcm)

    def _keep(self, ms: int) -> None:
        excess = len(self._before) - min(ms, self._settings.preroll_ms) * _BYTES_PER_MS
        if excess > 0:
            del self._before[:excess]

    def _finish_unasked(self) -> None:
        logger.warning("no FinishUtterance within %d ms of silence", self._settings.finish_watchdog_ms)
        self.finish()

    def _disarm(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
