"""The circuit breaker of one provider in a fallback, and the recogniser that tells its breaker how it does."""

import time
from collections.abc import Callable
from typing import Literal

from orchestrator.services.ports import Recognizer, Transcript, VoiceListener

State = Literal["closed", "open", "half_open"]

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
_OVERDUE_S = 2.0
"""A recogniser that is closed with a final missing for longer counts as failed."""


class Breaker:
    """Keeps requests away from a provider that fails.

    Closed: requests pass. After `failures` in a row it opens: none pass for `FIRST_PAUSE_S`, twice as long after each
    further failure. Then it is half open: one request passes, and decides. If it has not decided after another pause,
    such as the utterance of a silent caller, a second one passes.
    """

    def __init__(self, failures: int, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._clock = clock
        self._in_a_row = 0
        self._pause_s = FIRST_PAUSE_S
        self._paused_s = 0.0
        """When the pause began, or the trial."""
        self.state: State = "closed"
        self.why = ""
        """The last failure, without words of users or services: other sessions read it."""

    @property
    def is_ready(self) -> bool:
        """Whether a request may be sent now."""
        return self.state == "closed" or self._clock() - self._paused_s >= self._pause_s

    def begin(self) -> None:
        """Note that a request is sent; to a provider whose breaker is open it is the trial."""
        if self.state != "closed":
            self.state, self._paused_s = "half_open", self._clock()

    def succeeded(self) -> None:
        self.state, self._in_a_row, self._pause_s = "closed", 0, FIRST_PAUSE_S

    def failed(self, why: str) -> None:
        self.why = why
        self._in_a_row += 1
        if self.state == "half_open":
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        if self.state == "half_open" or self._in_a_row >= self._limit:
            self.state, self._paused_s = "open", self._clock()

    def abandoned(self) -> None:
        """The request ended without a verdict: it was cancelled. Another trial may follow at once."""
        if self.state == "half_open":
            self.state, self._paused_s = "open", self._clock() - self._pause_s


class Watch:
    """Tells a breaker how a recogniser does: a final is a success, an error or a missing final a failure. That it opens
    says little.
    """

    def __init__(
        self,
        on_transcript: Callable[[Transcript], None],
        on_error: Callable[[str], None],
        breaker: Breaker,
        name: str,
    ) -> None:
        self._on_transcript = on_transcript
        self._on_error = on_error
        self._breaker = breaker
        self._name = name
        self._is_judged = False
        self.finished_s: list[float] = []
        """When each utterance was finished whose final is missing."""

    def transcribed(self, transcript: Transcript) -> None:
        if transcript.is_final:
            del self.finished_s[:1]
            self._is_judged = True
            self._breaker.succeeded()
        self._on_transcript(transcript)

    def failed(self, error: str) -> None:
        self.broke("its recogniser broke")
        self._on_error(error)

    def broke(self, why: str) -> None:
        self.finished_s.clear()
        self._is_judged = True
        self._breaker.failed(f"{self._name}: {why}")

    def closed(self) -> None:
        if self.finished_s and time.monotonic() - self.finished_s[0] > _OVERDUE_S:
            self.broke("a final transcript is missing")
        if not self._is_judged:
            self._breaker.abandoned()


class WatchedRecognizer:
    """A recogniser whose breaker learns of it when it hangs or raises."""

    def __init__(self, recognizer: Recognizer, watch: Watch) -> None:
        self._recognizer = recognizer
        self._watch = watch

    def start(self) -> None:
        self._try(self._recognizer.start)

    def feed(self, pcm: bytes) -> None:
        self._try(lambda: self._recognizer.feed(pcm))

    def voice(self, is_speaking: bool) -> None:
        if isinstance(recognizer := self._recognizer, VoiceListener):
            self._try(lambda: recognizer.voice(is_speaking))

    def finish(self) -> None:
        self._watch.finished_s.append(time.monotonic())
        self._try(self._recognizer.finish)

    def cancel(self) -> None:
        self._watch.finished_s.clear()
        self._try(self._recognizer.cancel)

    async def close(self) -> None:
        self._watch.closed()
        await self._recognizer.close()

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._watch.broke(f"its recogniser raised {type(error).__name__}")
            raise
