"""Decides whether a final has new words. It has none if it is empty, or if its words have counted already."""

from events.inputs import SttFinal
from orchestrator.session.step import StepBuilder


def spoken_words(step: StepBuilder) -> str:
    """Return the new words of an STT_FINAL; "" if the final is empty, or if its words have counted already. If the
    final has new words, or the session waits for this final, stop the timer `stt_deadline`. Otherwise reject the final.
    """
    assert isinstance(step.input, SttFinal)
    words = "" if step.repeats else step.input.text.strip()
    if words or step.is_awaited:
        step.disarm("stt_deadline")
    else:
        step.reject(_why_not(step))
    return words


def _why_not(step: StepBuilder) -> str:
    if not step.repeats:
        return "empty text"
    assert step.state.utterance is not None, "it repeats the words of an utterance"
    is_late = step.state.utterance.spoken_by == step.input.producer
    return "its words have counted already" if is_late else "another producer has said these words already"
