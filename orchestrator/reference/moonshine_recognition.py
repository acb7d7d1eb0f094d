"""Speech-to-text of open English by Moonshine, in a process of its own (extra `demo`)."""

from collections.abc import Iterable

from orchestrator.reference.recognition import ProcessRecognition


class MoonshineRecognition(ProcessRecognition):
    """Recognises any English in a separate process.

    phrases: an utterance counts as complete after one of them, so that its caller waits less; any other text is
    understood just as well.
    """

    def __init__(self, phrases: Iterable[str] = ()) -> None:
        super().__init__("orchestrator.reference.moonshine_worker", {}, phrases)
