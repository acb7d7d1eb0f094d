"""The recogniser's own process: frames in on stdin, results out on stdout, until stdin ends.

It is a process because pocketsphinx holds the GIL while it decodes. When the service dies, however it dies, stdin
ends and so does this process: there are no orphans.
"""

import json
import os
import select
import sys
from collections.abc import Iterator

from orchestrator.services.reference.decoding import DecoderPool, Speaker, Utterance
from orchestrator.services.reference.phrases import learn
from orchestrator.services.reference.recognition_frames import Frame, FrameReader, Kind

_READ_BYTES = 256 * 1024
_LOOK_AHEAD_BYTES = 4 * 1024 * 1024


class Worker:
    """Answers frames: holds the open utterance and the voice of each recogniser."""

    def __init__(self, out_fd: int) -> None:
        self._out_fd = out_fd
        self._pool: DecoderPool | None = None
        self._speakers: dict[int, Speaker] = {}
        self._open: dict[int, Utterance] = {}

    def handle(self, frame: Frame) -> None:
        """Do what one frame says; a failure closes its utterance and is reported, the process goes on."""
        if frame.kind is Kind.CONFIGURE:
            self._configure(json.loads(frame.payload))
            return
        try:
            self._handle_utterance(frame)
        except Exception as error:  # noqa: BLE001 - reported to the service; other speakers must not suffer
            self._forget_open(frame.recognizer)
            self._say(Kind.FAILED, frame, f"{type(error).__name__}: {error}")

    def _configure(self, settings: dict[str, object]) -> None:
        phrases = [str(phrase) for phrase in settings["phrases"]]  # type: ignore[attr-defined]
        domain = learn(phrases)
        mode, ready, limit = settings["mode"], settings["decoders_ready"], settings["decoders_limit"]
        self._pool = DecoderPool(mode, domain, ready, limit)  # type: ignore[arg-type]
        about = {"missing": domain.missing, "words": len(domain.pronunciations)}
        self._write(Frame(Kind.READY, payload=json.dumps(about).encode()))

    def _handle_utterance(self, frame: Frame) -> None:
        if frame.kind is Kind.START:
            self._start(frame)
            return
        utterance = self._open.get(frame.recognizer)
        if utterance is not None and utterance.number == frame.utterance:
            self._go_on(frame, utterance)
        if frame.kind is Kind.CLOSE:
            self._forget_open(frame.recognizer)
            self._speakers.pop(frame.recognizer, None)

    def _start(self, frame: Frame) -> None:
        assert self._pool is not None, "the first frame configures"
        self._forget_open(frame.recognizer)
        speaker = self._speakers.setdefault(frame.recognizer, Speaker())
        utterance = self._pool.open(frame.utterance, speaker)
        if utterance is None:
            self._say(Kind.FAILED, frame, "too many people speak at once for this recogniser")
            return
        self._open[frame.recognizer] = utterance

    def _go_on(self, frame: Frame, utterance: Utterance) -> None:
        if frame.kind is Kind.SOUND:
            partial = utterance.feed(frame.payload)
            if partial is not None:
                self._say(Kind.PARTIAL, frame, partial)
        elif frame.kind is Kind.FINISH:
            text = utterance.finish()
            self._give_back(frame.recognizer)
            self._say(Kind.FINAL, frame, text)
        elif frame.kind is Kind.CANCEL:
            self._forget_open(frame.recognizer)

    def _forget_open(self, recognizer: int) -> None:
        if recognizer in self._open:
            self._open[recognizer].cancel()
            self._give_back(recognizer)

    def _give_back(self, recognizer: int) -> None:
        assert self._pool is not None
        self._pool.give_back(self._open.pop(recognizer))

    def _say(self, kind: Kind, about: Frame, text: str) -> None:
        self._write(Frame(kind, about.recognizer, about.utterance, text.encode()))

    def _write(self, frame: Frame) -> None:
        data = frame.encode()
        while data:
            data = data[os.write(self._out_fd, data) :]


def without_cancelled(frames: list[Frame]) -> Iterator[Frame]:
    """Leave out the sound of utterances whose end without a result is already known: it would be decoded in vain."""
    cancelled = {(frame.recognizer, frame.utterance) for frame in frames if frame.kind in (Kind.CANCEL, Kind.CLOSE)}
    return (f for f in frames if f.kind is not Kind.SOUND or (f.recognizer, f.utterance) not in cancelled)


def read_all(fd: int) -> bytes:
    """Wait for input and take all there is, so that a cancellation is seen before the sound in front of it."""
    data = os.read(fd, _READ_BYTES)
    while data and len(data) < _LOOK_AHEAD_BYTES and select.select([fd], [], [], 0)[0]:
        more = os.read(fd, _READ_BYTES)
        if not more:  # the end: nobody waits for these results
            return b""
        data += more
    return data


def main() -> None:
    # Results have stdout for themselves: whatever a library prints goes to stderr.
    out_fd = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker, reader = Worker(out_fd), FrameReader()
    while data := read_all(sys.stdin.fileno()):
        for frame in without_cancelled(list(reader.feed(data))):
            try:
                worker.handle(frame)
            except BrokenPipeError:  # the service is gone
                return


if __name__ == "__main__":
    main()
