"""Turns decoded audio of the user's microphone into speech events and utterances."""

import asyncio
import time
from collections.abc import Callable

import av

from events.envelope import Input
from events.inputs import SpeechStarted, SpeechStopped
from orchestrator.media.echo import EchoGuard
from orchestrator.media.opus import RATE_HZ
from orchestrator.media.resampling import SPEECH_RATE_HZ, ToSpeechRate
from orchestrator.media.settings import MediaSettings
from orchestrator.media.utterance import Utterances
from orchestrator.media.vad import Offset, Onset, VoiceActivity
from orchestrator.session.commands import MicrophoneSetting

_LONGEST_FILL_SAMPLES = RATE_HZ // 2
_LONGEST_GAP_SAMPLES = 60 * RATE_HZ
"""A longer jump means that the timestamps restarted, not that audio is missing."""
_REST_S = 0.04
"""How often a resting microphone hears silence, while the end of speech is awaited."""


class Microphone:
    """Listens to one user. `open` and `gated` listen alike, so a change between them disturbs nothing: speech reported
    while gated is evidence that the reducer, which commanded the gate, weighs. `closed` ignores all audio.
    """

    def __init__(
        self,
        settings: MediaSettings,
        activity: VoiceActivity,
        echo: EchoGuard,
        utterances: Utterances,
        say: Callable[[Input], None],
        may_hear: Callable[[float], bool] = lambda _: True,
    ) -> None:
        """`may_hear` takes seconds of audio and decides whether they are handled; refused audio is dropped."""
        self._may_hear = may_hear
        self._settings = settings
        self._activity = activity
        self._echo = echo
        self._utterances = utterances
        self._say = say
        self._resampler = ToSpeechRate()
        self._setting: MicrophoneSetting = "open"
        self._next_pts: int | None = None
        self._heard_at_s = 0.0
        self._stall_check: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None

    def set(self, setting: MicrophoneSetting) -> None:
        """Apply a setting. Closing discards the open utterance without a transcript or an event."""
        self._setting = setting
        if setting == "closed":
            self._rest_no_more()
            self._activity.interrupt()
            self._utterances.cancel()

    def hear(self, frame: av.AudioFrame) -> None:
        """Handle the next decoded frame: 48 kHz, its `pts` in samples. Lost packets show as a jump of `pts`."""
        self._rest_no_more()
        missing = self._missing_samples(frame)
        self._heard_at_s = time.monotonic()
        if self._setting == "closed":
            self._activity.skip((missing + frame.samples) * SPEECH_RATE_HZ // RATE_HZ)
            return
        filled = min(missing, _LONGEST_FILL_SAMPLES)
        if not self._may_hear((filled + frame.samples) / RATE_HZ):
            self._activity.skip((missing + frame.samples) * SPEECH_RATE_HZ // RATE_HZ)
            return
        self._activity.skip((missing - filled) * SPEECH_RATE_HZ // RATE_HZ)
        hole = bytes(2 * (filled * SPEECH_RATE_HZ // RATE_HZ))
        self._listen(hole + self._resampler.feed(frame))

    def rest(self) -> None:
        """Handle a packet that says rest: the next one may be 400 ms away. While somebody speaks, or an utterance is
        open, silence is heard meanwhile: the end of speech is noticed, and its last words are recognised, as early as
        with packets of silence.
        """
        is_awaited = self._activity.speaking or self._utterances.is_open
        if self._rest is None and is_awaited and self._setting != "closed":
            self._rest = asyncio.get_running_loop().call_later(_REST_S, self._hear_silence)

    def finish_utterance(self) -> None:
        """Finish the open utterance now. If the user is still speaking, the rest becomes another utterance."""
        spoken_ms = self._activity.spoken_ms
        self._utterances.finish()
        if self._activity.speaking:
            self._utterances.resume(spoken_ms)

    def go_quiet(self) -> None:
        """Handle the end of audio for now: ends the running speech."""
        self._rest_no_more()
        self._report([self._activity.interrupt()])

    async def close(self) -> None:
        """Release the recogniser and stop the timers."""
        self._rest_no_more()
        if self._stall_check is not None:
            self._stall_check.cancel()
        await self._utterances.close()

    def _listen(self, pcm: bytes) -> None:
        self._utterances.hear(pcm)  # as it is: what takes an echo out also damages words
        self._report(self._activity.feed(*self._echo.heard(pcm, self._heard_at_s)))
        self._utterances.voice(self._activity.is_voiced)

    def _hear_silence(self) -> None:
        self._rest = None
        now_s = time.monotonic()
        samples = int((now_s - self._heard_at_s) * SPEECH_RATE_HZ)
        self._heard_at_s = now_s
        if self._next_pts is not None:
            self._next_pts += samples * (RATE_HZ // SPEECH_RATE_HZ)
        self._listen(bytes(2 * samples))
        self.rest()

    def _rest_no_more(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _report(self, changes: "list[Onset | Offset] | list[Offset | None]") -> None:
        for change in changes:
            if isinstance(change, Onset):
                started = SpeechStarted(media_ms=change.at_ms)
                self._say(started)
                self._utterances.speech_started(started)
                self._watch_for_a_stall(self._settings.stall_ms / 1000)
            elif isinstance(change, Offset):
                stopped = SpeechStopped(duration_ms=change.duration_ms, media_ms=change.at_ms)
                self._say(stopped)
                self._utterances.speech_stopped(self._activity.position_ms - change.at_ms, stopped)

    def _missing_samples(self, frame: av.AudioFrame) -> int:
        begins = frame.pts
        if begins is None:
            return 0
        missing = 0 if self._next_pts is None else begins - self._next_pts
        self._next_pts = begins + frame.samples
        return missing if 0 < missing <= _LONGEST_GAP_SAMPLES else 0

    def _watch_for_a_stall(self, delay_s: float) -> None:
        if self._stall_check is not None:
            self._stall_check.cancel()
        self._stall_check = asyncio.get_running_loop().call_later(delay_s, self._check_for_a_stall)

    def _check_for_a_stall(self) -> None:
        self._stall_check = None
        if not self._activity.speaking:
            return
        left_s = self._heard_at_s + self._settings.stall_ms / 1000 - time.monotonic()
        if left_s <= 0:
            self.go_quiet()
        else:
            self._watch_for_a_stall(left_s)
