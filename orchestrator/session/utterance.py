"""Which finals count as words of the user's: not empty ones, and not the same words by a second way."""

from events.inputs import SttFinal
from orchestrator.session.step import Step


def spoken_words(step: Step) -> str:
    """The words of an STT_FINAL. None of them, when the final is empty or repeats another producer's: it is rejected,
    unless it is what was waited for.
    """
    assert isinstance(step.input, SttFinal)
    words = "" if step.repeats_another else step.input.text.strip()
    if words or step.is_awaited:
        step.disarm("stt_deadline")
    else:
        step.reject("another producer has said these words already" if step.repeats_another else "empty text")
    return words
