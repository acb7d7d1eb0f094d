"""Opens an utterance at the onset of speech, with the audio just before it, and closes it with one finish."""

import asyncio
import logging
from collections.abc import Callable

from events.envelope import Input
from events.inputs import HearingFailed, SpeechStarted, SpeechStopped, SttFinal, SttPartial
from orchestrator.media.resampling import SPEECH_RATE_HZ
from orchestrator.media.settings import MediaSettings
from orchestrator.services.failures import cancellation_from_within_fails
from orchestrator.services.ports import (
    NO_SPEAKER,
    Recognizer,
    Speaker,
    SpeechToTextPort,
    Transcript,
    VoiceListener,
)

logger = logging.getLogger(__name__)

_BYTES_PER_MS = 2 * SPEECH_RATE_HZ // 1000
_LONGEST_ERROR = 500
_OPEN_AGAIN_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_CLOSE_WITHIN_S = 5.0
OPEN_WITHIN_S = 10.0
_LONGEST_TEXT = 8_000
"""Longest text of an event, in characters (events.envelope.Text)."""


class Utterances:
    """Feeds one recogniser with whole utterances and reports its transcripts.

    Keeps the last half second of audio, so that an utterance opened when speech is detected contains its first sound.
    That audio never reaches back into the previous speech: its words would be transcribed twice.
    """

    def __init__(
        self, settings: MediaSettings, stt: SpeechToTextPort, say: Callable[[Input], None], speaker: Speaker
    ) -> None:
        self._settings = settings
        self._stt = stt
        self._speaker = speaker
        self._say = say
        self._recognizer: Recognizer | None = None
        """None after a failure, until another recogniser is open."""
        self._number = 0
        """Number of the current recogniser. Callbacks of an earlier recogniser are ignored."""
        self._reopening: asyncio.Task[None] | None = None
        self._hang_watch: asyncio.TimerHandle | None = None
        self._before = bytearray()
        self._fed_bytes = 0
        self._awaiting_finals = 0
        self._last_partial = ""
        self._speech: list[SpeechStarted | SpeechStopped] = []
        """The reports of the latest speech in the open utterance: its onset, and its end if it has ended."""
        self._watchdog: asyncio.TimerHandle | None = None
        self._is_voiced = True
        """The last report to the recogniser about the speaker of the open utterance."""
        self.is_open = False
        self._is_closed = False

    @classmethod
    async def open(
        cls,
        settings: MediaSettings,
        stt: SpeechToTextPort,
        say: Callable[[Input], None],
        speaker: Speaker = NO_SPEAKER,
    ) -> "Utterances":
        """Open a recogniser and keep it. Raises ServiceError when none can be opened."""
        utterances = cls(settings, stt, say, speaker)
        utterances._recognizer = await utterances._open_recognizer()
        return utterances

    def hear(self, pcm: bytes) -> None:
        """Take the next piece of 16 kHz mono PCM, silence included."""
        self._before += pcm
        self._keep(self._settings.preroll_ms)
        if not self.is_open:
            return
        self._feed(pcm)
        if self._fed_bytes > self._settings.utterance_limit_ms * _BYTES_PER_MS:
            logger.warning("an utterance of %d ms was cut", self._settings.utterance_limit_ms)
            has_stopped = self._watchdog is not None  # it is armed when speech stops
            self.finish()
            if not has_stopped:
                self._start(b"")

    def speech_started(self, reported: SpeechStarted) -> None:
        """Open an utterance; `hear` has already received the piece with the onset. A running utterance continues."""
        self._disarm()
        if not self.is_open:
            self._start(bytes(self._before))
        self._speech = [reported]

    def speech_stopped(self, silence_ms: int, reported: SpeechStopped) -> None:
        """Record that speech ended `silence_ms` ago. The utterance stays open: the speaker may only draw breath."""
        self._keep(silence_ms)
        self._speech[1:] = [reported]
        self._disarm()
        if self.is_open:
            wait_s = self._settings.finish_watchdog_ms / 1000
            self._watchdog = asyncio.get_running_loop().call_later(wait_s, self._finish_unasked)

    def voice(self, is_speaking: bool) -> None:
        """Tell the recogniser that the speaker fell silent, be it for a breath, or goes on."""
        if self.is_open and is_speaking != self._is_voiced:
            self._is_voiced = is_speaking
            self._tell(lambda recognizer: _tell_voice(recognizer, is_speaking))

    def finish(self) -> None:
        """Ask the recogniser for its final transcript now. No effect without an open utterance."""
        self._disarm()
        if self.is_open:
            self.is_open = False
            self._awaiting_finals += 1
            self._tell(lambda recognizer: recognizer.finish())
            if self._hang_watch is None:  # else an earlier final is awaited, and its time goes on
                self._watch_for_a_hang()

    def resume(self, spoken_ms: int) -> None:
        """Open another utterance after a finish in the middle of speech that began `spoken_ms` ago.

        If the kept audio contains the whole speech, the new utterance starts with it from the beginning.
        """
        is_whole = spoken_ms <= len(self._before) // _BYTES_PER_MS
        speech = self._speech if is_whole else []  # longer speech is noise, maybe: the reducer ends it by its watchdog
        self._start(bytes(self._before) if is_whole else b"")
        self._speech = speech

    def cancel(self) -> None:
        """Discard the open utterance and the kept audio."""
        self._disarm()
        self._before.clear()
        if self.is_open:
            self.is_open = False
            self._tell(lambda recognizer: recognizer.cancel())

    async def close(self) -> None:
        """Release the recogniser, or stop opening a new one."""
        self._is_closed = True
        self.cancel()
        if self._hang_watch is not None:
            self._hang_watch.cancel()
        if self._reopening is not None:
            self._reopening.cancel()
        if self._recognizer is not None:
            await self._recognizer.close()

    def transcribed(self, transcript: Transcript) -> None:
        """Report a transcript of the recogniser: a final, or a partial that differs from the last."""
        text = transcript.text[:_LONGEST_TEXT]
        if transcript.is_final:
            was_asked = self._awaiting_finals > 0  # else the recogniser itself ended a part of the open utterance
            self._awaiting_finals = max(0, self._awaiting_finals - 1)
            self._watch_for_a_hang()
            self._last_partial = ""
            self._say(SttFinal(text=text))
            if was_asked and text.strip():
                self._say_speech_again()
        elif text and text != self._last_partial:
            self._last_partial = text
            self._say(SttPartial(text=text, is_complete=transcript.is_complete))

    def _say_speech_again(self) -> None:
        """Report the speech of the open utterance again, after the final of the utterance before. The reducer takes the
        words of a final as the end of all speech: without this, the agent would answer over a user who has gone on, or
        nobody would ask for the final of the open utterance.

        First reports the end of the speech before, without a length: otherwise the time that the recogniser took would
        count as a pause of the user.
        """
        if self.is_open and self._speech:
            for event in (SpeechStopped(media_ms=self._speech[0].media_ms), *self._speech):
                self._say(event)

    def failed(self, error: str) -> None:
        """Replace a recogniser that broke or hangs. The open utterance is lost; the reported events say so."""
        logger.error("speech-to-text failed: %s", error)
        self._disarm()
        owed = bool(self._awaiting_finals) or self.is_open
        self._awaiting_finals = 0
        self._watch_for_a_hang()
        broken, self._recognizer = self._recognizer, None
        self._number += broken is not None
        if owed:
            self.is_open = False
            self._say(SttFinal(text=""))
        self._say(HearingFailed(error=error[:_LONGEST_ERROR], is_utterance_lost=owed))
        if self._reopening is None and not self._is_closed:
            self._reopening = asyncio.create_task(self._reopen(broken), name="speech-to-text: reopen")

    async def _open_recognizer(self) -> Recognizer:
        number = self._number

        def transcribed(transcript: Transcript) -> None:
            if number == self._number:
                self.transcribed(transcript)

        def failed(error: str) -> None:
            if number == self._number:
                self.failed(error)

        return await self._stt.open(transcribed, failed, self._speaker)

    async def _reopen(self, broken: Recognizer | None) -> None:
        """Open another recogniser: at once, then with growing backoff. Never gives up: the call may last for hours."""
        failures = 0
        try:
            if broken is not None:
                await _closed(broken)
            while self._recognizer is None:
                try:
                    async with asyncio.timeout(OPEN_WITHIN_S):
                        with cancellation_from_within_fails("speech-to-text"):
                            self._recognizer = await self._open_recognizer()
                except Exception as error:  # noqa: BLE001 - whatever a port of the user's raises
                    delay_s = _OPEN_AGAIN_S[min(failures, len(_OPEN_AGAIN_S) - 1)]
                    logger.warning("speech-to-text cannot be opened (%s); again in %g s", error, delay_s)
                    failures += 1
                    await asyncio.sleep(delay_s)
            logger.info("speech-to-text is open again")
            if self.is_open:  # the user is speaking: transcribe the kept audio and the rest
                self._start(bytes(self._before))
        finally:
            self._reopening = None

    def _tell(self, do: Callable[[Recognizer], None]) -> None:
        """Call the recogniser. An exception means that it is broken and must be replaced."""
        if self._recognizer is None:
            return
        try:
            do(self._recognizer)
        except Exception as error:
            logger.exception("speech-to-text raised")
            number = self._number
            asyncio.get_running_loop().call_soon(self._failed_then, number, f"{type(error).__name__}: {error}")

    def _failed_then(self, number: int, error: str) -> None:
        if number == self._number and not self._is_closed:
            self.failed(error)

    def _watch_for_a_hang(self) -> None:
        """Restart the timeout for the next final transcript that is due; cancel it when none is awaited."""
        if self._hang_watch is not None:
            self._hang_watch.cancel()
            self._hang_watch = None
        if self._awaiting_finals:
            wait_s = self._settings.final_within_ms / 1000 if self._recognizer is not None else 0
            why = f"no final within {wait_s:g} s" if wait_s else "it is not open again yet"
            self._hang_watch = asyncio.get_running_loop().call_later(wait_s, self._failed_then, self._number, why)

    def _start(self, pcm: bytes) -> None:
        self.is_open = True
        self._speech = []
        self._is_voiced = True
        self._fed_bytes = 0
        self._last_partial = ""  # the utterance before may have been lost, without a final
        self._tell(lambda recognizer: recognizer.start())
        if pcm:
            self._feed(pcm)

    def _feed(self, pcm: bytes) -> None:
        self._fed_bytes += len(pcm)
        self._tell(lambda recognizer: recognizer.feed(pcm))

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


def _tell_voice(recognizer: Recognizer, is_speaking: bool) -> None:
    if isinstance(recognizer, VoiceListener):
        recognizer.voice(is_speaking)


async def _closed(recognizer: Recognizer) -> None:
    """Close a broken recogniser. An error while closing is logged, not raised."""
    try:
        async with asyncio.timeout(_CLOSE_WITHIN_S):
            with cancellation_from_within_fails("speech-to-text"):
                await recognizer.close()
    except Exception:
        logger.exception("a speech-to-text that had failed could not be closed")
