"""Decides which finals count as the user's words: not empty ones, and no duplicates from a second recogniser."""

from events.inputs import SttFinal
from orchestrator.session.step import Step


def spoken_words(step: Step) -> str:
    """The words of an STT_FINAL; empty if the final is empty, or repeats the words of another producer. Such a final is
    rejected, unless the end of an utterance waits for it.
    """
    assert isinstance(step.input, SttFinal)
    words = "" if step.repeats_another else step.input.text.strip()
    if words or step.is_awaited:
        step.disarm("stt_deadline")
    else:
        step.reject("another producer has said these words already" if step.repeats_another else "empty text")
    return words
