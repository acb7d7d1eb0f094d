"""Decisions about the agent's tool calls: how many a question may have, when each runs, and which end with the turn."""

from events.journal import ToolCalled
from orchestrator.session import endpointing
from orchestrator.session.commands import CancelStage, PlayFiller, RunTool
from orchestrator.session.step import Step


def called(step: Step) -> None:
    """TOOL_CALLED in THINKING or SPEAKING: run the tool call, within the limits of the policy. The deadline of the
    answer is extended by the time that the call may take.
    """
    event, rules = step.input, step.state.policy.tools
    assert isinstance(event, ToolCalled)
    if step.state.found.calls >= rules.calls:
        step.reject(f"more than {rules.calls} tool calls for one question")
        return
    if any(command.target == event.call_id for command in step.state.outstanding("RunTool")):
        step.reject("this call is running already")
        return
    step.do(RunTool(event.call_id, event.is_cancellable, rules.limit_ms, event.name))
    step.arm("answer_deadline", rules.limit_ms + _answer_ms(step))
    if step.phase == "THINKING" and rules.text and step.state.found.calls == 1:
        step.arm("tool_filler", rules.delay_ms)


def returned(step: Step) -> None:
    """TOOL_RETURNED in THINKING or SPEAKING: when no tool call is running any more, restart the deadline of the answer,
    with which the agent goes on.
    """
    state, call = step.state, step.answered
    assert call is not None, "stale results never reach a decision"
    if not state.outstanding("RunTool"):
        step.disarm("tool_filler")
    if call.turn == state.turn and state.timer("answer_deadline") is not None and not state.outstanding("RunTool"):
        step.arm("answer_deadline", _answer_ms(step))


def slow(step: Step) -> None:
    """TIMER_FIRED `tool_filler`: tell the user that a tool takes a while. Not while the user is speaking or a filler
    plays.
    """
    state = step.state
    if endpointing.is_quiet(step) and not state.outstanding("PlayFiller"):
        step.do(PlayFiller(playback_id=f"tool-{state.turn}", text=state.policy.tools.text))


def cancel_with_turn(step: Step) -> None:
    """Withdraw the cancellable tool calls, which end with their turn."""
    for command in step.state.outstanding("RunTool"):
        if command.payload["is_cancellable"]:
            step.do(CancelStage(command_id=command.command_id, stage_name=command.target))


def _answer_ms(step: Step) -> int:
    deadlines = step.state.policy.deadlines
    return deadlines.next_text_ms if step.state.found.texts else deadlines.answer_ms
