"""Barge-in: decides whether the user's speech interrupts the agent, or is only a cough or "mhm". Until this is decided,
the playback may be paused.
"""

from events.derived import UserInterrupted
from events.inputs import BargeIn, SttFinal
from orchestrator.session import endpointing
from orchestrator.session.commands import PausePlayback, ResumePlayback
from orchestrator.session.heard import left_ms
from orchestrator.session.phases import enter, leave_turn
from orchestrator.session.phrases import consists_of, count_words, may_become, normal
from orchestrator.session.speaking import await_playback, playing
from orchestrator.session.step import StepBuilder
from orchestrator.session.utterance import spoken_words


def speech_started(step: StepBuilder) -> None:
    """SPEECH_STARTED in SPEAKING: interrupt the agent at once if `min_speech_ms` and `min_words` of the policy are both
    0. Otherwise wait until the user has said enough; if the policy has `pause_playback`, pause the playback during this
    wait. A playback that cannot be interrupted goes on.
    """
    endpointing.speech_started(step)
    rules = step.state.policy.interruption
    if not playing(step).is_interruptible:
        return
    if not rules.min_speech_ms and not rules.min_words:
        _interrupt(step, "barge_in")
        return
    if rules.min_speech_ms:
        step.arm("barge_in", rules.min_speech_ms)
    if rules.pause_playback:
        _pause(step)


def speech_stopped(step: StepBuilder) -> None:
    """SPEECH_STOPPED in SPEAKING: stop the timer `barge_in`, which fires when the user has spoken for `min_speech_ms`.
    If the playback is paused, wait at most `false_ms` for a transcript that interrupts the agent; then resume the
    playback.
    """
    endpointing.speech_stopped(step)
    step.disarm("barge_in")
    if playing(step).is_paused:
        _wait_for_words(step, step.state.policy.interruption.false_ms)


def partial(step: StepBuilder) -> None:
    """STT_PARTIAL in SPEAKING: interrupt the agent if the user has said enough (`_is_confirmed`). If the agent is
    interrupted, the user is silent, and no transcript is pending, start the timer `stt_deadline`: if no final comes in
    time, the words of the partial count.
    """
    endpointing.partial(step)
    if playing(step).is_interruptible and _is_confirmed(step):
        _interrupt(step, "barge_in")
        if endpointing.is_quiet(step) and step.state.has_rules_of(7):
            step.arm("stt_deadline", step.state.policy.deadlines.stt_ms)


def long_enough(step: StepBuilder) -> None:
    """TIMER_FIRED `barge_in`: the user has spoken for `min_speech_ms`. Interrupt the agent if the words are enough
    (`_is_confirmed`).
    """
    if _is_confirmed(step):
        _interrupt(step, "barge_in")


def final(step: StepBuilder) -> None:
    """STT_FINAL in SPEAKING: interrupt the agent; the words of the final open the next turn. Exception: if the final
    has too few words or only a backchannel such as "mhm", or if the playback cannot be interrupted, reject the final
    and resume the playback. If the final has no new words, and the user is silent, resume the playback.
    """
    assert isinstance(step.input, SttFinal)
    rules, text = step.state.policy.interruption, step.input.text.strip()
    why_not = ""
    if step.input.via == "speech" and text:
        if consists_of(text, rules.backchannels) and not _is_about_to_end(step):
            why_not = "a backchannel: the user is listening"
        elif count_words(text) < rules.min_words:
            why_not = "too few words to interrupt"
    if text and not playing(step).is_interruptible:
        why_not = "these are the last words of the conversation"
    if why_not:
        step.reject(why_not)
        step.disarm("stt_deadline")
        _resume(step)
    elif words := spoken_words(step):
        _interrupt(step, "user_input", words, step.input.via)
    elif (step.is_awaited or not step.repeats) and not step.state.user_is_speaking:
        _resume(step)


def barge_in(step: StepBuilder) -> None:
    """BARGE_IN in SPEAKING: interrupt the agent. Reject the event if it names a playback that is not playing, or if the
    agent speaks a farewell that cannot be interrupted (`Playback.is_interruptible`).
    """
    assert isinstance(step.input, BargeIn)
    if step.input.playback_id not in ("", playing(step).playback_id):
        step.reject("stale: names a playback that is not playing")
    elif not playing(step).is_interruptible:
        step.reject("these are the last words of the conversation")
    else:
        _interrupt(step, "barge_in")


def false_interruption(step: StepBuilder) -> None:
    """TIMER_FIRED `false_interruption`: no words came, so resume the playback at the position where it was paused."""
    _resume(step)


def _pause(step: StepBuilder) -> None:
    """Pause the playback, if a media connection plays it. The pause lasts at most `floor_ms`, even if the user never
    stops making sounds.
    """
    playback = playing(step)
    if not playback.is_paused and step.state.handler_id:
        step.disarm("playback_deadline")
        step.do(PausePlayback(playback_id=playback.playback_id))
    if playing(step).is_paused:
        _wait_for_words(step, step.state.policy.deadlines.floor_ms)


def _wait_for_words(step: StepBuilder, wait_ms: int) -> None:
    """Start the timer `false_interruption`, which resumes the paused playback after `wait_ms`. If the pause would last
    longer than `floor_ms` of the policy, the timer fires earlier.
    """
    state, paused_at_us = step.state, playing(step).paused_at_us
    assert paused_at_us is not None, "who waits has paused"
    until_us = paused_at_us + state.policy.deadlines.floor_ms * 1000
    step.arm_at("false_interruption", max(state.at_us, min(state.at_us + wait_ms * 1000, until_us)))


def _resume(step: StepBuilder) -> None:
    playback = playing(step)
    step.disarm("barge_in", "false_interruption")
    if playback.is_paused:
        step.do(ResumePlayback(playback_id=playback.playback_id))
        if step.state.timer("tts_deadline") is None:
            await_playback(step)


def _is_confirmed(step: StepBuilder) -> bool:
    """Whether the user has said enough to interrupt: at least `min_words` words, and more than a backchannel. While the
    user is speaking, the speech must also have lasted `min_speech_ms`. Once the user is silent, at least one word is
    needed, even if `min_words` is 0.
    """
    rules, state = step.state.policy.interruption, step.state
    text = state.partial_text
    if may_become(text, rules.backchannels) and not _is_about_to_end(step):
        return False
    if count_words(text) < rules.min_words:
        return False
    if state.user_is_speaking:
        return state.at_us - state.speech_started_at_us >= rules.min_speech_ms * 1000
    return bool(normal(text))


def _is_about_to_end(step: StepBuilder) -> bool:
    """Whether less than `boundary_ms` of the playback is left. If so, a backchannel such as "mhm" may be the user's
    reply, and interrupts as other words do. False until synthesis is complete, because the length of the playback is
    not known yet.
    """
    # None instead of an estimate: it is too short for a text with numbers, and "mhm" would interrupt too early.
    left = left_ms(playing(step), step.state.at_us)
    return left is not None and left < step.state.policy.interruption.boundary_ms


def _interrupt(step: StepBuilder, reason: str, words: str = "", via: str = "speech") -> None:
    playback_id = playing(step).playback_id
    step.end_answer("interrupted")
    step.say(UserInterrupted, playback_id=playback_id, reason=reason, text=words, via=via)
    leave_turn(step)
    step.end_turn("interrupted")
    enter(step, "INTERRUPT")
