"""Decides whether speech over the agent interrupts it, and pauses playback until that is decided."""

from events.derived import UserInterrupted
from events.inputs import BargeIn, SttFinal
from orchestrator.session import endpointing
from orchestrator.session.commands import PausePlayback, ResumePlayback
from orchestrator.session.heard import left_ms
from orchestrator.session.phases import enter, leave_turn
from orchestrator.session.phrases import consists_of, count_words, may_become, normal
from orchestrator.session.speaking import await_playback, playing
from orchestrator.session.step import Step
from orchestrator.session.utterance import spoken_words


def speech_started(step: Step) -> None:
    """SPEECH_STARTED in SPEAKING: interrupt at once if the policy demands no minimum of speech or words. Otherwise wait
    for that minimum, and pause the playback meanwhile if the policy says so.
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


def speech_stopped(step: Step) -> None:
    """SPEECH_STOPPED in SPEAKING: the speech was too short to interrupt by itself. If the playback is paused, wait for
    words of that speech, at most `false_ms`.
    """
    endpointing.speech_stopped(step)
    step.disarm("barge_in")
    if playing(step).is_paused:
        _wait_for_words(step, step.state.policy.interruption.false_ms)


def partial(step: Step) -> None:
    """STT_PARTIAL in SPEAKING: interrupt the agent if the user's words and speech are now enough for it."""
    endpointing.partial(step)
    if playing(step).is_interruptible and _is_confirmed(step):
        _interrupt(step, "barge_in")


def long_enough(step: Step) -> None:
    """TIMER_FIRED `barge_in`: interrupt if the user has spoken for `min_speech_ms` and the words are enough for it."""
    if _is_confirmed(step):
        _interrupt(step, "barge_in")


def final(step: Step) -> None:
    """STT_FINAL in SPEAKING: interrupt the agent; the words open the next turn. Resume the playback instead if there
    are no words, too few words, or only a backchannel such as "mhm", or if the playback cannot be interrupted.
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
    elif (step.is_awaited or not step.repeats_another) and not step.state.user_is_speaking:
        _resume(step)


def barge_in(step: Step) -> None:
    """BARGE_IN in SPEAKING: interrupt the agent. Reject a BARGE_IN that names another playback than the one that plays,
    or that comes during the last words of the conversation.
    """
    assert isinstance(step.input, BargeIn)
    if step.input.playback_id not in ("", playing(step).playback_id):
        step.reject("stale: names a playback that is not playing")
    elif not playing(step).is_interruptible:
        step.reject("these are the last words of the conversation")
    else:
        _interrupt(step, "barge_in")


def false_interruption(step: Step) -> None:
    """TIMER_FIRED `false_interruption`: resume the playback where it paused, because no words came."""
    _resume(step)


def _pause(step: Step) -> None:
    """Pause the playback. The pause has a time limit, even if the user never stops making sounds."""
    playback = playing(step)
    if not playback.is_paused and step.state.handler_id:
        step.disarm("playback_deadline")
        step.do(PausePlayback(playback_id=playback.playback_id))
    if playing(step).is_paused:
        _wait_for_words(step, step.state.policy.deadlines.floor_ms)


def _wait_for_words(step: Step, wait_ms: int) -> None:
    """Arm the timer that ends the pause after `wait_ms`. The whole pause lasts at most `floor_ms`, the limit for an
    answer that waits for a speaking user.
    """
    state, paused_at_us = step.state, playing(step).paused_at_us
    assert paused_at_us is not None, "who waits has paused"
    until_us = paused_at_us + state.policy.deadlines.floor_ms * 1000
    step.arm_at("false_interruption", max(state.at_us, min(state.at_us + wait_ms * 1000, until_us)))


def _resume(step: Step) -> None:
    playback = playing(step)
    step.disarm("barge_in", "false_interruption")
    if playback.is_paused:
        step.do(ResumePlayback(playback_id=playback.playback_id))
        if step.state.timer("tts_deadline") is None:
            await_playback(step)


def _is_confirmed(step: Step) -> bool:
    """Whether the user has spoken long enough, and with enough words, to interrupt."""
    rules, state = step.state.policy.interruption, step.state
    text = state.partial_text
    if may_become(text, rules.backchannels) and not _is_about_to_end(step):
        return False
    if count_words(text) < rules.min_words:
        return False
    if state.user_is_speaking:
        return state.at_us - state.speech_started_at_us >= rules.min_speech_ms * 1000
    return bool(normal(text))


def _is_about_to_end(step: Step) -> bool:
    """Whether so little of the answer is left (`boundary_ms`) that a backchannel, such as "mhm", may be a reply to it.

    False until synthesis is complete and the length is known: a guess would let "mhm" interrupt an agent that reads a
    number.
    """
    left = left_ms(playing(step), step.state.at_us)
    return left is not None and left < step.state.policy.interruption.boundary_ms


def _interrupt(step: Step, reason: str, words: str = "", via: str = "speech") -> None:
    playback_id = playing(step).playback_id
    step.end_answer("interrupted")
    step.say(UserInterrupted, playback_id=playback_id, reason=reason, text=words, via=via)
    leave_turn(step)
    step.end_turn("interrupted")
    enter(step, "INTERRUPT")
