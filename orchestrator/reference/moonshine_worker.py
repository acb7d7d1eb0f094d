"""The process of Moonshine: collects the sound of all microphones and decodes the most urgent utterance.

A separate process, so that decoding holds no lock of the interpreter that serves calls (docs/decisions/031).
"""

import json
from collections.abc import Callable

from orchestrator.reference.moonshine import Moonshine
from orchestrator.reference.moonshine_utterance import Model, MoonshineUtterance
from orchestrator.reference.recognition_frames import Frame, Kind
from orchestrator.reference.recognition_loop import Results, run


class MoonshineWorker:
    """Handles frames and decodes. Finals come first, then speakers who fell silent, then partials."""

    def __init__(self, results: Results, model: Model | None = None) -> None:
        self._results = results
        self._model = model
        self._open: dict[int, tuple[Frame, MoonshineUtterance]] = {}
        """By recogniser, with the frame that started it."""
        self._finished: list[tuple[Frame, MoonshineUtterance]] = []

    def handle(self, frame: Frame) -> None:
        """Take a frame; decodes nothing."""
        if frame.kind is Kind.CONFIGURE:
            self._model = self._model or Moonshine()
            self._results.write(Frame(Kind.READY, payload=json.dumps({"knows": "English"}).encode()))
        elif frame.kind is Kind.START:
            assert self._model is not None, "the first frame configures"
            self._open[frame.recognizer] = frame, MoonshineUtterance(self._model)
        elif frame.kind is Kind.CLOSE:
            self._close(frame.recognizer)
        elif found := self._open.get(frame.recognizer):
            started, utterance = found
            if started.utterance == frame.utterance:
                self._go_on(frame, utterance)

    def work(self) -> bool:
        """Decode the most urgent utterance. A failure closes it and is reported; the process continues."""
        if self._finished:
            started, utterance = self._finished.pop(0)
            self._guarded(started, lambda: self._results.say(Kind.FINAL, started, utterance.finish()))
            return True
        due = [one for one in self._open.values() if one[1].is_paused]
        due = due or [one for one in self._open.values() if one[1].undecoded_s >= 0]
        if not due:
            return False
        started, utterance = max(due, key=lambda one: one[1].undecoded_s)
        self._guarded(started, lambda: self._decode(started, utterance))
        return True

    def _go_on(self, frame: Frame, utterance: MoonshineUtterance) -> None:
        match frame.kind:
            case Kind.SOUND:
                utterance.feed(frame.payload)
            case Kind.SPEAKING | Kind.SILENT:
                utterance.voice(frame.kind is Kind.SPEAKING)
            case Kind.FINISH:
                self._finished.append(self._open.pop(frame.recognizer))
            case Kind.CANCEL:
                del self._open[frame.recognizer]

    def _close(self, recognizer: int) -> None:
        """Forget a recogniser. Its pending finals are empty: a process that leaves a finish unanswered is killed."""
        self._open.pop(recognizer, None)
        for started, _ in self._finished:
            if started.recognizer == recognizer:
                self._results.say(Kind.FINAL, started, "")
        self._finished = [one for one in self._finished if one[0].recognizer != recognizer]

    def _decode(self, started: Frame, utterance: MoonshineUtterance) -> None:
        text = utterance.decode()
        if text is not None:
            self._results.say(Kind.PARTIAL, started, text)

    def _guarded(self, started: Frame, work: Callable[[], None]) -> None:
        try:
            work()
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - reported to the service; other speakers must not suffer
            self._open.pop(started.recognizer, None)
            self._results.say(Kind.FAILED, started, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    run(MoonshineWorker)
