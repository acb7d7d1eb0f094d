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
DEADLINES = ("intent_deadline", "answer_deadline", "floor_deadline", "tts_deadline", "playback_deadline")


def enter(step: Step, phase: Phase, reason: str = "") -> None:
    """Change the phase and do what belongs to entering it. What belongs to leaving was done before."""
    step.say(StateChanged, from_phase=step.phase, reason=reason, to_phase=phase)
    if phase != "INTERRUPT":
        step.do(SetMicrophone(MICROPHONE[phase]))
    if (entry := _ENTRY.get(phase)) is not None:
        entry(step)


def leave_turn(step: Step) -> None:
    """Cancel what is left of the current task: be silent, cancel its work, withdraw its deadlines."""
    stop_playback(step)
    if step.state.task is not None:
        step.do(CancelTask())
    step.disarm(*DEADLINES)


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
    if policy.filler.text:
        step.do(PlayFiller(playback_id=f"filler-{state.turn}", text=policy.filler.text))
    if state.task.intent is None:
        step.do(ClassifyIntent(text=state.task.text))
    step.do(AnswerQuestion(conversation_to=step.input.version - 1, text=state.task.text))
    if state.task.intent is None:
        step.arm("intent_deadline", policy.deadlines.intent_ms)
    step.arm("answer_deadline", policy.deadlines.answer_ms)


def _speaking(step: Step) -> None:
    state = step.state
    assert state.task is not None, "the answer belongs to the open turn"
    step.do(Speak(from_ms=0, playback_id=f"answer-{state.turn}", text=state.task.answer or ""))
    step.arm("tts_deadline", state.policy.deadlines.tts_ms)


def _interrupt(step: Step) -> None:
    step.arm("interrupt_pause", step.state.policy.interruption.pause_ms)


_ENTRY: dict[Phase, Callable[[Step], None]] = {
    "IDLE": _idle,
    "LISTENING": _listening,
    "THINKING": _thinking,
    "SPEAKING": _speaking,
    "INTERRUPT": _interrupt,
}
