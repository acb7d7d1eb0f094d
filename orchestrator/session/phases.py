"""Entering and leaving phases, with their side effects (docs/target-flow.md): requests, filler, speech, microphone."""

from collections.abc import Callable

from events.derived import Phase, StateChanged
from orchestrator.session import tools
from orchestrator.session.commands import (
    PLAYS,
    AnswerQuestion,
    CancelStage,
    CancelTask,
    ClassifyIntent,
    ClearText,
    MicrophoneSetting,
    PlayFiller,
    SetMicrophone,
    Speak,
    SpeakMore,
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
OF_THE_TURN = ("filler", "tool_filler", "intent_deadline", "answer_deadline", "floor_deadline")
OF_THE_PLAYBACK = ("tts_deadline", "playback_deadline", "barge_in", "false_interruption")
"""Timers that end with the playback."""


def enter(step: Step, phase: Phase, reason: str = "") -> None:
    """Change the phase and run the side effects of entering it. The caller has run those of leaving the old phase."""
    step.say(StateChanged, from_phase=step.phase, reason=reason, to_phase=phase)
    if phase != "INTERRUPT" and _microphone_set(step) != MICROPHONE[phase]:
        step.do(SetMicrophone(MICROPHONE[phase]))
    if (entry := _ENTRY.get(phase)) is not None:
        entry(step)


def _microphone_set(step: Step) -> str:
    """The microphone setting that this step has already issued; empty: none. Avoids a repeated SetMicrophone when a
    step passes through a phase.
    """
    return next((issued.target for issued in reversed(step.commands) if issued.name == "SetMicrophone"), "")


def leave_turn(step: Step) -> None:
    """Leave the current turn: stop playback, cancel the task, withdraw the turn's timers and cancellable tool calls."""
    stop_playback(step)
    tools.cancel_with_turn(step)
    if step.state.task is not None:
        step.do(CancelTask())
    step.disarm(*OF_THE_TURN, *OF_THE_PLAYBACK)


def stop_playback(step: Step) -> None:
    """Stop the running playbacks, answer and filler."""
    for command in step.state.outstanding(*PLAYS):
        step.do(StopPlayback(playback_id=command.target))


def withdraw(step: Step, name: str) -> None:
    """Withdraw the outstanding requests with this command name."""
    for command in step.state.outstanding(name):
        step.do(CancelStage(command_id=command.command_id, stage_name=command.target))


def _idle(step: Step) -> None:
    step.arm("reconnect", step.state.policy.deadlines.reconnect_ms)


def _listening(step: Step) -> None:
    step.do(ClearText())


def _thinking(step: Step) -> None:
    state, policy = step.state, step.state.policy
    assert state.task is not None, "a turn was started just before"
    text, found = state.task.text, state.task.found
    asks_intent, asks_answer = found.intent is None, found.answer is None
    if policy.filler.text and (asks_intent or not found.is_begun):
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
        step.arm("answer_deadline", policy.deadlines.next_text_ms if found.texts else policy.deadlines.answer_ms)


def play_filler(step: Step) -> None:
    """Issue PlayFiller: speak the filler of the policy, such as "One moment, please."."""
    step.do(PlayFiller(playback_id=f"filler-{step.state.turn}", text=step.state.policy.filler.text))


def speak(step: Step, command: Speak) -> None:
    """Issue Speak, and start the deadline of its first audio. Call this in SPEAKING."""
    step.do(command)
    await_audio(step)


def speak_on(step: Step) -> None:
    """Issue SpeakMore for each text of the answer that its playback does not have yet. The last text of a complete
    answer closes the playback.
    """
    state = step.state
    assert state.task is not None, "only an answer comes in texts"
    assert state.playback is not None, "it was opened with the first text"
    said, found = len(state.playback.ends_at), state.task.found
    texts = found.texts[said:] or ("",) * (found.answer is not None)
    for index, text in enumerate(texts, said):
        is_last = found.answer is not None and index >= len(found.texts) - 1
        step.do(SpeakMore(index=index, is_last=is_last, playback_id=state.playback.playback_id, text=text))


def await_audio(step: Step) -> None:
    """Start the deadline of the first audio, unless the playback waits for more text. Without a client there is no such
    deadline: the timer `reconnect` runs instead.
    """
    playback = step.state.playback
    if step.state.client_id and (playback is None or playback.owes_audio):
        step.arm("tts_deadline", step.state.policy.deadlines.tts_ms)


def _interrupt(step: Step) -> None:
    step.arm("interrupt_pause", step.state.policy.interruption.pause_ms)


_ENTRY: dict[Phase, Callable[[Step], None]] = {
    "IDLE": _idle,
    "LISTENING": _listening,
    "THINKING": _thinking,
    "INTERRUPT": _interrupt,
}
