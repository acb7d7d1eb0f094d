"""The process of pocketsphinx: one decoder for each open utterance. Separate, because pocketsphinx holds the GIL."""

import json

from orchestrator.reference.decoding import DecoderPool, SphinxSpeaker, SphinxUtterance
from orchestrator.reference.phrases import learn
from orchestrator.reference.recognition_frames import Frame, Kind
from orchestrator.reference.recognition_loop import Results, run


class SphinxWorker:
    """Handles frames; holds the open utterance and the speaker state of each recogniser."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._pool: DecoderPool | None = None
        self._speakers: dict[int, SphinxSpeaker] = {}
        self._open: dict[int, SphinxUtterance] = {}

    def handle(self, frame: Frame) -> None:
        """Handle one frame. A failure closes its utterance and is reported; the process continues."""
        if frame.kind is Kind.CONFIGURE:
            self._configure(json.loads(frame.payload))
            return
        try:
            self._handle_utterance(frame)
        except Exception as error:  # noqa: BLE001 - reported to the service; other speakers must not suffer
            self._forget_open(frame.recognizer)
            self._results.say(Kind.FAILED, frame, f"{type(error).__name__}: {error}")

    def work(self) -> bool:
        """Nothing is left over: each frame is decoded at once."""
        return False

    def _configure(self, settings: dict[str, object]) -> None:
        phrases = [str(phrase) for phrase in settings["phrases"]]  # type: ignore[attr-defined]
        domain = learn(phrases)
        mode, ready, limit = settings["mode"], settings["decoders_ready"], settings["decoders_limit"]
        self._pool = DecoderPool(mode, domain, ready, limit)  # type: ignore[arg-type]
        about = {"missing": domain.missing, "knows": f"{len(domain.pronunciations)} words"}
        self._results.write(Frame(Kind.READY, payload=json.dumps(about).encode()))

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
        speaker = self._speakers.setdefault(frame.recognizer, SphinxSpeaker())
        utterance = self._pool.open(frame.utterance, speaker)
        if utterance is None:
            self._results.say(Kind.FAILED, frame, "too many people speak at once for this recogniser")
            return
        self._open[frame.recognizer] = utterance

    def _go_on(self, frame: Frame, utterance: SphinxUtterance) -> None:
        if frame.kind is Kind.SOUND:
            partial = utterance.feed(frame.payload)
            if partial is not None:
                self._results.say(Kind.PARTIAL, frame, partial)
        elif frame.kind is Kind.FINISH:
            text = utterance.finish()
            self._give_back(frame.recognizer)
            self._results.say(Kind.FINAL, frame, text)
        elif frame.kind is Kind.CANCEL:
            self._forget_open(frame.recognizer)

    def _forget_open(self, recognizer: int) -> None:
        if recognizer in self._open:
            self._open[recognizer].cancel()
            self._give_back(recognizer)

    def _give_back(self, recognizer: int) -> None:
        assert self._pool is not None
        self._pool.give_back(self._open.pop(recognizer))


if __name__ == "__main__":
    run(SphinxWorker)
