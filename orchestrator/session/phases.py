"""Enters and leaves phases, and starts or stops the work of a phase: requests, fillers, speech. Sets the microphone.

docs/target-flow.md lists what happens on entering each phase.
"""

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
from orchestrator.session.step import StepBuilder

MICROPHONE: dict[Phase, MicrophoneSetting] = {
    "NEW": "closed",
    "IDLE": "open",
    "LISTENING": "open",
    "THINKING": "gated",
    "SPEAKING": "gated",
    "INTERRUPT": "gated",
    "ENDED": "closed",
}
CALL_FOLLOWS_MS = 2_000
"""How long an answer waits for a media connection, in ms. After this time, the client shows the answer as text."""
TIMERS_OF_THE_TURN = ("filler", "tool_filler", "intent_deadline", "answer_deadline", "floor_deadline")
"""Timers that end with the turn."""
TIMERS_OF_THE_PLAYBACK = ("tts_deadline", "playback_deadline", "barge_in", "false_interruption")
"""Timers that end with the playback."""


def enter(step: StepBuilder, phase: Phase, reason: str = "") -> None:
    """Change the phase and run the side effects of entering the new phase. Before this call, the calling code must stop
    the work of the old phase, such as with `leave_turn`.
    """
    step.say(StateChanged, from_phase=step.phase, reason=reason, to_phase=phase)
    # A step may enter two phases: do not issue the same setting twice.
    if phase != "INTERRUPT" and _microphone_set(step) != MICROPHONE[phase]:
        step.do(SetMicrophone(MICROPHONE[phase]))
    if (entry := _ENTRY.get(phase)) is not None:
        entry(step)


def _microphone_set(step: StepBuilder) -> str:
    """Return the last microphone setting that this step has issued; empty: it has issued none."""
    return next((issued.target for issued in reversed(step.commands) if issued.name == "SetMicrophone"), "")


def leave_turn(step: StepBuilder) -> None:
    """Stop the work of the current turn: its playbacks, its requests, its timers and its cancellable tool calls. The
    turn stays open: the calling code must call `StepBuilder.end_turn` next.
    """
    stop_playback(step)
    tools.cancel_with_turn(step)
    if step.state.task is not None:
        step.do(CancelTask())
    step.disarm(*TIMERS_OF_THE_TURN, *TIMERS_OF_THE_PLAYBACK)


def stop_playback(step: StepBuilder) -> None:
    """Stop all running playbacks: of an answer or announcement, and of a filler."""
    for command in step.state.outstanding(*PLAYS):
        step.do(StopPlayback(playback_id=command.target))


def withdraw(step: StepBuilder, name: str) -> None:
    """Cancel (CancelStage) the outstanding requests of the commands with this name."""
    for command in step.state.outstanding(name):
        step.do(CancelStage(command_id=command.command_id, stage_name=command.target))


def _idle(step: StepBuilder) -> None:
    step.arm("reconnect", step.state.policy.deadlines.reconnect_ms)


def _listening(step: StepBuilder) -> None:
    step.do(ClearText())


def _thinking(step: StepBuilder) -> None:
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
        step.arm("answer_deadline", tools.answer_ms(step))


def play_filler(step: StepBuilder) -> None:
    """Issue PlayFiller: speak the filler of the policy, such as "One moment, please."."""
    step.do(PlayFiller(playback_id=f"filler-{step.state.turn}", text=step.state.policy.filler.text))


def speak(step: StepBuilder, command: Speak) -> None:
    """Issue Speak, and start the limit for its first audio (timer `tts_deadline`). Call this in SPEAKING."""
    step.do(command)
    await_audio(step)


def speak_on(step: StepBuilder) -> None:
    """Send the texts of the answer that the playback does not have yet: one SpeakMore for each text.

    If the answer is complete, the last SpeakMore has `is_last`. Its text is empty if the playback has all texts
    already.
    """
    state = step.state
    assert state.task is not None, "only an answer comes in texts"
    assert state.playback is not None, "it was opened with the first text"
    said, found = len(state.playback.ends_at), state.task.found
    texts = found.texts[said:] or ("",) * (found.answer is not None)
    for index, text in enumerate(texts, said):
        is_last = found.answer is not None and index >= len(found.texts) - 1
        step.do(SpeakMore(index=index, is_last=is_last, playback_id=state.playback.playback_id, text=text))


def await_audio(step: StepBuilder) -> None:
    """Start the timer `tts_deadline`, the limit for the first audio of the playback. Do nothing if no client is
    connected, or if the playback waits for the next text of the answer. Without a media connection, the limit is
    CALL_FOLLOWS_MS longer, because a media connection may follow.
    """
    playback = step.state.playback
    if step.state.client_id and (playback is None or playback.owes_audio):
        follows_ms = CALL_FOLLOWS_MS if not step.state.handler_id and step.state.has_rules_of(7) else 0
        step.arm("tts_deadline", step.state.policy.deadlines.tts_ms + follows_ms)


def _interrupt(step: StepBuilder) -> None:
    step.arm("interrupt_pause", step.state.policy.interruption.pause_ms)


_ENTRY: dict[Phase, Callable[[StepBuilder], None]] = {
    "IDLE": _idle,
    "LISTENING": _listening,
    "THINKING": _thinking,
    "INTERRUPT": _interrupt,
}
