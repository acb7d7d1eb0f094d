"""Decides whether a final has new words: the final is not empty, and its words have not counted already."""

from events.inputs import SttFinal
from orchestrator.session.step import StepBuilder


def spoken_words(step: StepBuilder) -> str:
    """Return the words of an STT_FINAL; "" if it is empty, or if its words have counted already (as a partial, or
    because another producer has reported them).

    Stops the wait for a final (timer `stt_deadline`) if the input has new words, or if a finished utterance waits for
    it. Rejects any other input.
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
