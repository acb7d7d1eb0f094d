"""Speech-to-text by a recogniser in a process of its own, as a SpeechToTextPort: starts and supervises the process.

The process is warm before the service takes calls, serves every microphone, is restarted when it dies or hangs, and
ends with the service.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from orchestrator import child_process
from orchestrator.reference.recognition_frames import Frame, FrameReader, Kind
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import NO_SPEAKER, Speaker, Transcript
from orchestrator.session.phrases import ends_with, normal

_log = logging.getLogger(__name__)

_READY_WITHIN_S = 30.0
_FINAL_WITHIN_S = 10.0
"""A process that owes a final and says nothing at all for this long hangs. A slow machine takes a second or two."""
_STOP_WITHIN_S = 2.0
_READ_BYTES = 64 * 1024
_MAX_UNSENT_BYTES = 4 * 1024 * 1024
"""Limit of unsent sound, about two minutes. Beyond it the recogniser counts as overloaded."""
_RESTART_AFTER_S = (0.0, 0.5, 1.0, 2.0, 5.0)

OnTranscript = Callable[[Transcript], None]
OnError = Callable[[str], None]


class ProcessRecognition:
    """Recognises speech in a separate process.

    worker: the module of the process; settings: its configuration. phrases: an utterance counts as complete after one
    of them, unless another begins with it. MoonshineRecognition and SphinxRecognition fill these in.

    Use `async with`, or start() and stop(). start() raises ServiceError when the process does not get ready.
    """

    def __init__(self, worker: str, settings: Mapping[str, Any], phrases: Iterable[str]) -> None:
        self._worker = worker
        self._configuration = Frame(Kind.CONFIGURE, payload=json.dumps(settings).encode()).encode()
        self._closed = _closed(phrases)
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._recognizers: dict[int, ProcessRecognizer] = {}
        self._last_number = 0
        self._hang_watch: asyncio.TimerHandle | None = None
        """Kills the process. Runs while the process owes READY after a restart, or a final."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def process_id(self) -> int | None:
        """Process id of the recogniser's process; None while it does not run."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the process and wait until it can recognise (about 0.5 s)."""
        if self._supervisor is not None:
            return
        self._ready = asyncio.get_running_loop().create_future()
        await self._spawn()
        self._supervisor = asyncio.create_task(self._supervise(), name="speech recognition")
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), _READY_WITHIN_S)
        except TimeoutError:
            await self.stop()
            raise ServiceError(f"the speech recogniser was not ready within {_READY_WITHIN_S:.0f} s") from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the process. Open utterances get no result; may be called twice."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
        await self._end_process()

    async def open(
        self,
        on_transcript: OnTranscript,
        on_error: OnError,
        speaker: Speaker = NO_SPEAKER,  # noqa: ARG002 - it knows one language
    ) -> "ProcessRecognizer":
        """A recogniser for one microphone. Raises ServiceError when the process was not started."""
        if self._supervisor is None:
            raise ServiceError("the speech recogniser is not running: start it first")
        self._last_number += 1
        recognizer = ProcessRecognizer(self, self._last_number, on_transcript, on_error)
        self._recognizers[self._last_number] = recognizer
        return recognizer

    def completes(self, text: str) -> bool:
        """Whether a text ends with a phrase that no other phrase continues."""
        return ends_with(text, self._closed)

    def send(self, frame: Frame) -> str:
        """Send a frame to the process without waiting. Returns the problem if that fails, else an empty text."""
        process = self._process
        if process is None or process.returncode is not None or process.stdin is None:
            return "the speech recogniser is being restarted"
        if process.stdin.transport.is_closing():
            return "the speech recogniser is being restarted"
        if process.stdin.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            return "the speech recogniser is overloaded: it is minutes behind, and sound was dropped"
        process.stdin.write(frame.encode())
        if frame.kind is Kind.FINISH and self._hang_watch is None:
            self._watch_for_a_hang(_FINAL_WITHIN_S)
        return ""

    def forget(self, number: int) -> None:
        self._recognizers.pop(number, None)

    async def _spawn(self) -> None:
        began = time.perf_counter_ns()
        try:
            self._process = await child_process.spawn(self._worker)
        except OSError as error:
            raise ServiceError(f"the speech recogniser's process cannot be started: {error}") from error
        self._began_ns = began
        if self._process.stdin is not None:
            self._process.stdin.write(self._configuration)

    async def _supervise(self) -> None:
        failures = 0
        while True:
            was_ready = await self._read_until_it_dies()
            failures = 0 if was_ready else failures + 1
            reason = await self._report_death()
            if self._ready is not None and not self._ready.done():
                self._ready.set_exception(ServiceError(f"{reason} before it was ready; its stderr says why"))
                return
            await asyncio.sleep(_RESTART_AFTER_S[min(failures, len(_RESTART_AFTER_S) - 1)])
            try:
                await self._spawn()
                self._watch_for_a_hang(_READY_WITHIN_S)
            except ServiceError:
                _log.exception("the speech recogniser could not be restarted; trying again")

    async def _read_until_it_dies(self) -> bool:
        """Handle the frames of the process until it ends. Returns whether the process became ready."""
        process, reader, was_ready = self._process, FrameReader(), False
        if process is None or process.stdout is None:
            return False
        try:
            while data := await process.stdout.read(_READ_BYTES):
                for frame in reader.feed(data):
                    was_ready |= frame.kind is Kind.READY
                    self._handle(frame)
                self._watch_no_more()
                if any(recognizer.awaits_final for recognizer in self._recognizers.values()):
                    self._watch_for_a_hang(_FINAL_WITHIN_S)
        except ValueError:
            _log.exception("the speech recogniser's process talks nonsense and is ended")
            await self._end_process()
        return was_ready

    def _handle(self, frame: Frame) -> None:
        if frame.kind is Kind.READY:
            self._note_ready(json.loads(frame.payload))
        elif recognizer := self._recognizers.get(frame.recognizer):
            recognizer.handle(frame)

    def _note_ready(self, about: dict[str, Any]) -> None:
        warm_up_ms = (time.perf_counter_ns() - self._began_ns) // 1_000_000
        _log.info("speech recognition is ready after %d ms: %s", warm_up_ms, about["knows"])
        if missing := about.get("missing"):
            words = ", ".join(map(str, missing))
            _log.warning("not in the pronunciation dictionary, so never recognised: %s", words)
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def _watch_for_a_hang(self, within_s: float) -> None:
        """Kill the process if it says nothing within this time: it may be stopped or in a deadlock, and serves nobody.
        The supervisor then restarts it.
        """
        self._hang_watch = asyncio.get_running_loop().call_later(within_s, self._kill, within_s)

    def _watch_no_more(self) -> None:
        if self._hang_watch is not None:
            self._hang_watch.cancel()
            self._hang_watch = None

    def _kill(self, silent_s: float) -> None:
        self._hang_watch = None
        _log.error("the speech recogniser's process has not answered for %g s and is killed", silent_s)
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                self._process.kill()

    async def _report_death(self) -> str:
        process = self._process
        await self._end_process()  # it may have closed its output and still run
        reason = f"the speech recogniser's process ended (exit code {process.returncode if process else None})"
        _log.error("%s; it is being restarted", reason)
        for recognizer in list(self._recognizers.values()):
            recognizer.fail(f"{reason} and is being restarted; the open utterance is lost")
        return reason

    async def _end_process(self) -> None:
        self._watch_no_more()
        process, self._process = self._process, None
        if process is not None:
            await child_process.end(process, "the speech recogniser's process", _STOP_WITHIN_S)


def _closed(phrases: Iterable[str]) -> tuple[str, ...]:
    """The phrases of several words that no other phrase begins with."""
    known = {normal(phrase) for phrase in phrases}
    return tuple(sorted(one for one in known if " " in one and not any(other.startswith(f"{one} ") for other in known)))


class ProcessRecognizer:
    """One microphone's recogniser (see ports.Recognizer).

    The next utterance may open before the final of the one before arrives. After on_error no utterance is open and no
    final is pending: `feed` and `finish` do nothing until the next `start`.
    """

    def __init__(
        self, service: ProcessRecognition, number: int, on_transcript: OnTranscript, on_error: OnError
    ) -> None:
        self._service = service
        self._number = number
        self._on_transcript = on_transcript
        self._on_error = on_error
        self._utterance = 0
        self._is_open = False
        self._finished_ns: dict[int, int] = {}
        """Finished utterance whose final is pending → time of `finish`."""

    @property
    def awaits_final(self) -> bool:
        """Whether the final of a finished utterance is pending."""
        return bool(self._finished_ns)

    def start(self) -> None:
        """Open an utterance. Cancels an utterance that is still open."""
        if self._is_open:
            self.cancel()
        self._utterance += 1
        self._is_open = True
        self._send(Kind.START)

    def feed(self, pcm: bytes) -> None:
        if self._is_open:
            self._send(Kind.SOUND, pcm)

    def voice(self, is_speaking: bool) -> None:
        if self._is_open:
            self._send(Kind.SPEAKING if is_speaking else Kind.SILENT)

    def finish(self) -> None:
        if self._is_open:
            self._is_open = False
            self._finished_ns[self._utterance] = time.perf_counter_ns()
            self._send(Kind.FINISH)

    def cancel(self) -> None:
        """Drop the open utterance; without one, drop the pending finals."""
        if not self._is_open:
            self._finished_ns.clear()
        else:
            self._is_open = False
            # A failure to send is ignored: a process that does not get the frame has lost the utterance anyway.
            self._service.send(Frame(Kind.CANCEL, self._number, self._utterance))

    async def close(self) -> None:
        """Forget the speaker and call back no more. May be called twice."""
        self._is_open = False
        self._finished_ns.clear()
        self._service.send(Frame(Kind.CLOSE, self._number, self._utterance))
        self._service.forget(self._number)

    def handle(self, frame: Frame) -> None:
        """Pass on a result of the process. Drops results of utterances that were cancelled or failed."""
        text = frame.payload.decode(errors="replace")
        if frame.kind is Kind.FAILED:
            self._fail_utterance(frame.utterance, text)
        elif frame.kind is Kind.FINAL:
            if (finished_ns := self._finished_ns.pop(frame.utterance, 0)) > 0:
                elapsed_us = (time.perf_counter_ns() - finished_ns) // 1000
                self._call(lambda: self._on_transcript(Transcript(text, is_final=True, elapsed_us=elapsed_us)))
        elif self._expects(frame.utterance) and not self._finished_ns:
            partial = Transcript(text, is_final=False, is_complete=self._service.completes(text))
            self._call(lambda: self._on_transcript(partial))

    def fail(self, message: str) -> None:
        """Report the error; no result of the open utterance or a pending final follows. No effect without either."""
        if self._is_open or self._finished_ns:
            self._is_open = False
            self._finished_ns.clear()
            self._call(lambda: self._on_error(message))

    def _send(self, kind: Kind, payload: bytes = b"") -> None:
        if problem := self._service.send(Frame(kind, self._number, self._utterance, payload)):
            # Called later, not within the caller's own call: the caller's state may be half changed.
            asyncio.get_running_loop().call_soon(self._fail_utterance, self._utterance, problem)

    def _fail_utterance(self, utterance: int, message: str) -> None:
        if self._expects(utterance):
            self.fail(message)

    def _expects(self, utterance: int) -> bool:
        """Whether a result of this utterance is still wanted."""
        return utterance in self._finished_ns or (self._is_open and utterance == self._utterance)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:  # noqa: BLE001 - logged; other microphones must not suffer
            _log.exception("a speech recognition callback failed")
