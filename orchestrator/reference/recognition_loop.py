"""The loop of a recogniser's process: reads frames from stdin and writes results to stdout until stdin ends.

However the service dies, stdin ends and this process with it, so it is never orphaned.
"""

import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

from orchestrator.reference.recognition_frames import Frame, FrameReader, Kind

_READ_BYTES = 256 * 1024
_LOOK_AHEAD_BYTES = 4 * 1024 * 1024


class Results:
    """Writes results to the service. Raises BrokenPipeError when the service is gone."""

    def __init__(self, out_fd: int) -> None:
        self._out_fd = out_fd

    def say(self, kind: Kind, about: Frame, text: str) -> None:
        """A result about the utterance of a frame."""
        self.write(Frame(kind, about.recognizer, about.utterance, text.encode()))

    def write(self, frame: Frame) -> None:
        data = frame.encode()
        while data:
            data = data[os.write(self._out_fd, data) :]


class FrameWorker(Protocol):
    """Recognises. `handle` takes a frame; `work` does one piece of the work left over, and
    returns whether it did any.
    """

    def handle(self, frame: Frame) -> None: ...
    def work(self) -> bool: ...


def run(make: Callable[[Results], FrameWorker]) -> None:
    """Run a worker until stdin ends. Frames come before work, so that a cancelled utterance costs nothing more."""
    # Only results go to stdout: output of libraries is redirected to stderr.
    out_fd = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker, reader, in_fd = make(Results(out_fd)), FrameReader(), sys.stdin.fileno()
    has_work = False
    try:
        while True:
            if has_work and not _is_readable(in_fd):
                has_work = worker.work()
                continue
            data = read_all(in_fd)
            if not data:
                return
            for frame in without_cancelled(list(reader.feed(data))):
                worker.handle(frame)
            has_work = True
    except BrokenPipeError:  # the service is gone
        return


def without_cancelled(frames: list[Frame]) -> Iterator[Frame]:
    """Drop the sound of utterances that are cancelled or closed later in the same batch: no result is needed."""
    cancelled = {(frame.recognizer, frame.utterance) for frame in frames if frame.kind in (Kind.CANCEL, Kind.CLOSE)}
    return (f for f in frames if f.kind is not Kind.SOUND or (f.recognizer, f.utterance) not in cancelled)


def read_all(fd: int) -> bytes:
    """Wait for input and read all of it, so that a cancellation is seen before the sound queued ahead of it."""
    data = os.read(fd, _READ_BYTES)
    while data and len(data) < _LOOK_AHEAD_BYTES and _is_readable(fd):
        more = os.read(fd, _READ_BYTES)
        if not more:  # the service has ended: nobody needs the results
            return b""
        data += more
    return data


def _is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])
