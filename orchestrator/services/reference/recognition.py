"""Speech-to-text by pocketsphinx: the service's side of the recogniser's process, as a SpeechToTextPort.

The process starts warm, serves every microphone, is restarted when it dies, and ends with the service.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable
from typing import Literal, Self

from orchestrator import child_process
from orchestrator.services.ports import ServiceError, Transcript
from orchestrator.services.reference.recognition_frames import Frame, FrameReader, Kind
from orchestrator.session.phrases import ends_with, normal

_log = logging.getLogger(__name__)

_WORKER = "orchestrator.services.reference.recognition_worker"
_READY_WITHIN_S = 30.0
_STOP_WITHIN_S = 2.0
_READ_BYTES = 64 * 1024
_MAX_UNSENT_BYTES = 4 * 1024 * 1024
"""About two minutes of sound: a recogniser that far behind is of no use to anybody."""
SPEAKERS_READY = 2
SPEAKERS_LIMIT = 32
"""Utterances open at once; each needs 3 MB (general: about 50 MB)."""
_RESTART_AFTER_S = (0.0, 0.5, 1.0, 2.0, 5.0)

OnTranscript = Callable[[Transcript], None]
OnError = Callable[[str], None]


class SphinxRecognition:
    """Recognises English in a process of its own.

    mode: "domain" (a small language model of the phrases, the default), "phrases" (exactly these phrases and
    nothing else), "general" (the wheel's model of general English: larger, slower, and weaker on short commands).
    phrases: the domain; words that the dictionary does not know are dropped and named in a warning.

    Use `async with`, or start() and stop(). start() raises ServiceError when the process does not get ready.
    """

    def __init__(self, phrases: Iterable[str], *, mode: Literal["domain", "phrases", "general"] = "domain") -> None:
        phrases = list(phrases)
        settings = {
            "mode": mode,
            "phrases": phrases,
            "decoders_ready": SPEAKERS_READY,
            "decoders_limit": SPEAKERS_LIMIT,
        }
        if mode != "general" and not settings["phrases"]:
            raise ValueError(f"the recogniser's mode {mode!r} needs phrases; without any, use 'general'")
        self._configuration = Frame(Kind.CONFIGURE, payload=json.dumps(settings).encode()).encode()
        self._closed = _closed(phrases) if mode != "general" else ()
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._recognizers: dict[int, SphinxRecognizer] = {}
        self._last_number = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def process_id(self) -> int | None:
        """Of the recogniser's process while it runs."""
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

    async def open(self, on_transcript: OnTranscript, on_error: OnError) -> "SphinxRecognizer":
        """A recogniser for one microphone. Raises ServiceError when the process was not started."""
        if self._supervisor is None:
            raise ServiceError("the speech recogniser is not running: start it first")
        self._last_number += 1
        recognizer = SphinxRecognizer(self, self._last_number, on_transcript, on_error)
        self._recognizers[self._last_number] = recognizer
        return recognizer

    def completes(self, text: str) -> bool:
        """Whether a text ends with a phrase after which nothing more is expected."""
        return ends_with(text, self._closed)

    def send(self, frame: Frame) -> str:
        """Hand a frame to the process without waiting; what is wrong if that is not possible, else an empty text."""
        process = self._process
        if process is None or process.returncode is not None or process.stdin is None:
            return "the speech recogniser is being restarted"
        if process.stdin.transport.is_closing():
            return "the speech recogniser is being restarted"
        if process.stdin.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            return "the speech recogniser is overloaded: it is minutes behind, and sound was dropped"
        process.stdin.write(frame.encode())
        return ""

    def forget(self, number: int) -> None:
        self._recognizers.pop(number, None)

    async def _spawn(self) -> None:
        began = time.perf_counter_ns()
        try:
            self._process = await child_process.spawn(_WORKER)
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
            except ServiceError:
                _log.exception("the speech recogniser could not be restarted; trying again")

    async def _read_until_it_dies(self) -> bool:
        """Handle what the process says; whether it ever became ready."""
        process, reader, was_ready = self._process, FrameReader(), False
        if process is None or process.stdout is None:
            return False
        try:
            while data := await process.stdout.read(_READ_BYTES):
                for frame in reader.feed(data):
                    was_ready |= frame.kind is Kind.READY
                    self._handle(frame)
        except ValueError:
            _log.exception("the speech recogniser's process talks nonsense and is ended")
            await self._end_process()
        return was_ready

    def _handle(self, frame: Frame) -> None:
        if frame.kind is Kind.READY:
            self._note_ready(json.loads(frame.payload))
        elif recognizer := self._recognizers.get(frame.recognizer):
            recognizer.handle(frame)

    def _note_ready(self, about: dict[str, object]) -> None:
        warm_up_ms = (time.perf_counter_ns() - self._began_ns) // 1_000_000
        _log.info("speech recognition is ready after %d ms: %s words", warm_up_ms, about["words"])
        if missing := about["missing"]:
            words = ", ".join(map(str, missing))  # type: ignore[call-overload]
            _log.warning("not in the pronunciation dictionary, so never recognised: %s", words)
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    async def _report_death(self) -> str:
        process = self._process
        code = await process.wait() if process else None
        reason = f"the speech recogniser's process ended (exit code {code})"
        _log.error("%s; it is being restarted", reason)
        for recognizer in list(self._recognizers.values()):
            recognizer.fail(f"{reason} and is being restarted; the open utterance is lost")
        return reason

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await child_process.end(process, "the speech recogniser's process", _STOP_WITHIN_S)


def _closed(phrases: Iterable[str]) -> tuple[str, ...]:
    """The phrases of more than one word that do not begin another one."""
    known = {normal(phrase) for phrase in phrases}
    return tuple(sorted(one for one in known if " " in one and not any(other.startswith(f"{one} ") for other in known)))


class SphinxRecognizer:
    """One microphone's recogniser (see ports.Recognizer).

    After on_error the open utterance is closed: `feed` and `finish` do nothing until the next `start`.
    """

    def __init__(self, service: SphinxRecognition, number: int, on_transcript: OnTranscript, on_error: OnError) -> None:
        self._service = service
        self._number = number
        self._on_transcript = on_transcript
        self._on_error = on_error
        self._utterance = 0
        self._is_open = False
        self._finished_ns = 0

    def start(self) -> None:
        """Open an utterance; one that is still open is cancelled."""
        self.cancel()
        self._utterance += 1
        self._is_open, self._finished_ns = True, 0
        self._send(Kind.START)

    def feed(self, pcm: bytes) -> None:
        if self._is_open and not self._finished_ns:
            self._send(Kind.SOUND, pcm)

    def finish(self) -> None:
        if self._is_open and not self._finished_ns:
            self._finished_ns = time.perf_counter_ns()
            self._send(Kind.FINISH)

    def cancel(self) -> None:
        if self._is_open:
            self._is_open = False
            # Nobody waits for an answer to this: a process that cannot be told has forgotten the utterance anyway.
            self._service.send(Frame(Kind.CANCEL, self._number, self._utterance))

    async def close(self) -> None:
        """Forget the speaker; nothing is called back any more. May be called twice."""
        self._is_open = False
        self._service.send(Frame(Kind.CLOSE, self._number, self._utterance))
        self._service.forget(self._number)

    def handle(self, frame: Frame) -> None:
        """A result from the process; one of an utterance that is over is dropped."""
        if not self._is_open or frame.utterance != self._utterance:
            return
        text = frame.payload.decode(errors="replace")
        if frame.kind is Kind.FAILED:
            self.fail(text)
        elif frame.kind is Kind.FINAL:
            self._is_open = False
            elapsed_us = (time.perf_counter_ns() - self._finished_ns) // 1000
            self._call(lambda: self._on_transcript(Transcript(text, is_final=True, elapsed_us=elapsed_us)))
        elif not self._finished_ns:
            partial = Transcript(text, is_final=False, is_complete=self._service.completes(text))
            self._call(lambda: self._on_transcript(partial))

    def fail(self, message: str) -> None:
        """Close the utterance and say why, if one is open."""
        if self._is_open:
            self._is_open = False
            self._call(lambda: self._on_error(message))

    def _send(self, kind: Kind, payload: bytes = b"") -> None:
        if problem := self._service.send(Frame(kind, self._number, self._utterance, payload)):
            # Not from within the caller's own call: it may hold its state half changed.
            asyncio.get_running_loop().call_soon(self._fail_utterance, self._utterance, problem)

    def _fail_utterance(self, utterance: int, message: str) -> None:
        if utterance == self._utterance:
            self.fail(message)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:  # noqa: BLE001 - logged; other microphones must not suffer
            _log.exception("a speech recognition callback failed")
