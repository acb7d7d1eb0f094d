"""Entering and leaving phases: the side effects of target-flow.md, one function per phase."""

from collections.abc import Callable

from events.derived import Phase, StateChanged
from orchestrator.session.commands import (
    AnswerQuestion,
    CancelStage,
    CancelTask,
    ClassifyIntent,
    ClearText,
    MicrophoneSetting,
    PlayFiller,
    SetMicrophone,
    Speak,
    StopPlayback,
)
from orchestrator.session.step import Step

MICROPHONE: dict[Phase, MicrophoneSetting] = {
    "NEW": "closed",
    "IDLE": "open",
    "LISTENING": "open",
    "THINKING": "gated",
    "SPEAKING": "gated",
    "INTERRUPT": "gated",
    "ENDED": "closed",
}
OF_THE_TURN = ("filler", "intent_deadline", "answer_deadline", "floor_deadline")
OF_THE_PLAYBACK = ("tts_deadline", "playback_deadline", "barge_in", "false_interruption")
"""Timers that end with it."""


def enter(step: Step, phase: Phase, reason: str = "") -> None:
    """Change the phase and do what belongs to entering it. What belongs to leaving was done before."""
    step.say(StateChanged, from_phase=step.phase, reason=reason, to_phase=phase)
    if phase != "INTERRUPT" and _microphone_set(step) != MICROPHONE[phase]:
        step.do(SetMicrophone(MICROPHONE[phase]))
    if (entry := _ENTRY.get(phase)) is not None:
        entry(step)


def _microphone_set(step: Step) -> str:
    """The setting that this step has asked for already: a phase that is only passed through repeats it."""
    return next((issued.target for issued in reversed(step.commands) if issued.name == "SetMicrophone"), "")


def leave_turn(step: Step) -> None:
    """Cancel what is left of the current task: be silent, cancel its work, withdraw its deadlines."""
    stop_playback(step)
    if step.state.task is not None:
        step.do(CancelTask())
    step.disarm(*OF_THE_TURN, *OF_THE_PLAYBACK)


def stop_playback(step: Step) -> None:
    """Stop whatever plays, answer or filler."""
    for command in step.state.outstanding("PlayFiller", "Speak"):
        step.do(StopPlayback(playback_id=command.target))


def withdraw(step: Step, name: str) -> None:
    """Withdraw one outstanding request of the current task."""
    for command in step.state.outstanding(name):
        step.do(CancelStage(command_id=command.command_id, stage_name=command.target))


def _idle(step: Step) -> None:
    step.arm("reconnect", step.state.policy.deadlines.reconnect_ms)


def _listening(step: Step) -> None:
    step.do(ClearText())


def _thinking(step: Step) -> None:
    state, policy = step.state, step.state.policy
    assert state.task is not None, "a turn was started just before"
    text, asks_intent, asks_answer = state.task.text, state.task.intent is None, state.task.answer is None
    if policy.filler.text and (asks_intent or asks_answer):
        if policy.filler.delay_ms:
            step.arm("filler", policy.filler.delay_ms)
        elif not state.user_is_speaking:
            play_filler(step)
    if asks_intent and not state.outstanding("ClassifyIntent"):
        step.do(ClassifyIntent(speculation=0, text=text))
    if asks_answer and not state.outstanding("AnswerQuestion"):
        step.do(AnswerQuestion(conversation_to=step.input.version - 1, speculation=0, text=text))
    if asks_intent:
        step.arm("intent_deadline", policy.deadlines.intent_ms)
    if asks_answer:
        step.arm("answer_deadline", policy.deadlines.answer_ms)


def play_filler(step: Step) -> None:
    """Say something while thinking."""
    step.do(PlayFiller(playback_id=f"filler-{step.state.turn}", text=step.state.policy.filler.text))


def speak(step: Step, command: Speak) -> None:
    """In SPEAKING: say it, and expect its first audio."""
    step.do(command)
    await_audio(step)


def await_audio(step: Step) -> None:
    """Expect the first audio in time; what nobody can hear waits for whoever comes back, and `reconnect` runs."""
    if step.state.client_id:
        step.arm("tts_deadline", step.state.policy.deadlines.tts_ms)


def _interrupt(step: Step) -> None:
    step.arm("interrupt_pause", step.state.policy.interruption.pause_ms)


_ENTRY: dict[Phase, Callable[[Step], None]] = {
    "IDLE": _idle,
    "LISTENING": _listening,
    "THINKING": _thinking,
    "INTERRUPT": _interrupt,
}
