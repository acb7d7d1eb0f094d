"""Decisions about the agent's tool calls: how many a question may have, when a call runs, which end with the turn."""

from events.derived import CommandIssued
from events.journal import ToolCalled
from orchestrator.session import endpointing
from orchestrator.session.commands import CancelStage, PlayFiller, RunTool
from orchestrator.session.step import StepBuilder


def called(step: StepBuilder) -> None:
    """TOOL_CALLED in THINKING or SPEAKING: run the tool call, and restart the timer `answer_deadline` with more time.
    Reject a call that is running already, or that exceeds the policy's number of calls for one question.
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
    step.arm("answer_deadline", answer_ms(step))
    task = step.state.task
    is_silent = step.phase == "THINKING" and task is not None and not task.is_processed  # else the answer is near
    if is_silent and rules.text and step.state.found.calls == 1:
        step.arm("tool_filler", rules.delay_ms)


def returned(step: StepBuilder) -> None:
    """TOOL_RETURNED in THINKING or SPEAKING: if no tool call of the turn is running any more, restart the timer
    `answer_deadline`, because the agent now continues its answer.
    """
    state, call = step.state, step.answered
    assert call is not None, "stale results never reach a decision"
    if call.turn != state.turn or _running(step):
        return
    step.disarm("tool_filler")
    if state.timer("answer_deadline") is not None:
        step.arm("answer_deadline", answer_ms(step))


def slow(step: StepBuilder) -> None:
    """TIMER_FIRED `tool_filler`: a tool call takes a while, so speak the policy's words for a user who waits. Do
    nothing while the user is speaking or a filler plays.
    """
    state = step.state
    if endpointing.is_quiet(step) and not state.outstanding("PlayFiller"):
        step.do(PlayFiller(playback_id=f"tool-{state.turn}", text=state.policy.tools.text))


def cancel_with_turn(step: StepBuilder) -> None:
    """Cancel the running tool calls that are cancellable, because their turn ends. Other tool calls run on."""
    for command in step.state.outstanding("RunTool"):
        if command.payload["is_cancellable"]:
            step.do(CancelStage(command_id=command.command_id, stage_name=command.target))


def answer_ms(step: StepBuilder) -> int:
    """Return how long to wait for the answer or its next text, in ms. While tool calls of this turn are running, the
    wait is longer by the policy's time limit for one tool call.
    """
    deadlines, limit_ms = step.state.policy.deadlines, step.state.policy.tools.limit_ms
    wait_ms = deadlines.next_text_ms if step.state.found.texts else deadlines.answer_ms
    return wait_ms + (limit_ms if _running(step) else 0)


def _running(step: StepBuilder) -> list[CommandIssued]:
    """Return the outstanding RunTool commands of the current turn."""
    return [command for command in step.state.outstanding("RunTool") if command.turn == step.state.turn]
