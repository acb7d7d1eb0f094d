"""Folds the user's speech into the state: pauses, partial and final transcripts, words that wait for the next turn."""

import re

from events import inputs
from orchestrator.session.pauses import after_pause, after_utterance
from orchestrator.session.state import State, Utterance

HELD_CHARS = 8_000
"""Limit of `held_text`, and of a question to which the user adds words, in characters. The rest is cut off, because an
event cannot hold a longer text.
"""
_NOT_HASHED = re.compile(r"[^\w']+|_+")


def speech_started(state: State, event: inputs.SpeechStarted) -> None:
    if not state.user_is_speaking and (state.partial_text or state.phase == "THINKING"):
        state.pause_ms = after_pause(state.pause_ms, (event.at_us - state.speech_stopped_at_us) // 1000)
    is_new = not state.user_is_speaking and not state.armed("endpoint", "stt_deadline")
    if is_new and state.has_rules_of(7):  # a partial that is left from before is of no utterance
        _forget_partial(state)
    state.user_is_speaking = True
    state.speech_started_at_us = event.at_us


def speech_stopped(state: State, event: inputs.SpeechStopped) -> None:
    state.user_is_speaking = False
    state.speech_stopped_at_us = event.at_us


def stt_partial(state: State, event: inputs.SttPartial) -> None:
    if state.is_old(event):
        return
    if state.partial_text != event.text:
        state.partial_text, state.partial_at_us = event.text, event.at_us
    state.partial_is_complete = event.is_complete


def _forget_partial(state: State) -> None:
    state.partial_text = ""
    state.partial_is_complete = False


def stt_final(state: State, event: inputs.SttFinal) -> None:
    words = event.text.strip()
    if state.phase == "IDLE":
        return
    if not words or state.repeats(event):
        if state.is_awaited(event):
            _nothing_was_said(state)
        elif words and (last := state.utterance) is not None and last.is_late:
            if state.late_words(event.at_us):
                _utterance_over(state)
            state.utterance = last.replace(is_late=False, spoken_by=event.producer)
        return
    if event.via == "speech" and state.phase == "INTERRUPT" and not state.user_is_speaking:
        state.held_text = state.held_text.removesuffix(state.late_words(event.at_us)).rstrip()
    state.utterance = _utterance(state.utterance, words, event)
    if event.via == "speech":
        state.pause_ms = after_utterance(state.pause_ms)
    _utterance_over(state)
    if state.phase == "INTERRUPT":
        hold(state, words, event.via)


def _utterance_over(state: State) -> None:
    _forget_partial(state)
    state.user_is_speaking = False


def _utterance(last: Utterance | None, words: str, event: inputs.SttFinal) -> Utterance:
    about = _NOT_HASHED.sub(" ", words.casefold()).strip(), event.producer, event.at_us
    if event.via == "speech":
        return Utterance(*about, words, event.producer, event.at_us)
    return last.replace(words=about[0], producer=about[1], at_us=about[2]) if last else Utterance(*about)


def final_missing(state: State, event: inputs.TimerFired) -> None:
    """Fold TIMER_FIRED `stt_deadline`: no final came in time. In LISTENING, THINKING and INTERRUPT, the words of the
    last partial count in its place; in INTERRUPT they are stored in `held_text`. In other phases the partial is
    deleted. Without a partial, the user said nothing.
    """
    if not (words := state.partial_text.strip()):
        _nothing_was_said(state)
    elif not state.has_rules_of(7):
        return
    elif state.phase in ("LISTENING", "THINKING", "INTERRUPT"):
        about = _NOT_HASHED.sub(" ", words.casefold()).strip(), "", event.at_us
        state.utterance = Utterance(*about, spoken=words, spoken_at_us=event.at_us, is_late=True)
        if state.phase == "INTERRUPT":
            hold(state, words, "speech")
            _forget_partial(state)
    else:
        _forget_partial(state)


def hearing_failed(state: State, event: inputs.HearingFailed) -> None:
    if event.is_utterance_lost and not state.late_words(event.at_us):
        state.hearing_failures += 1


def listening_begins(state: State) -> None:
    """Fold the change to LISTENING: delete the partial if its utterance is over. Before state schema 7, always delete
    it.
    """
    is_over = not state.user_is_speaking and not state.armed("endpoint", "stt_deadline")
    if is_over or not state.has_rules_of(7):
        _forget_partial(state)


def _nothing_was_said(state: State) -> None:
    """End an utterance without words: delete its partial and its speculation."""
    _forget_partial(state)
    state.speculation, state.tries = None, 0


def hold(state: State, words: str, via: str) -> None:
    state.held_text = f"{state.held_text} {words}".strip()[:HELD_CHARS].rstrip()
    state.held_via = via
