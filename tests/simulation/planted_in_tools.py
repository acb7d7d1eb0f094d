"""Bugs planted in tool calls, and the checkers that find them. See test_planted_bugs.py."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from events.inputs import SessionResumed
from events.journal import ToolReturned
from orchestrator.session import evolve, fsm, phases, tools
from orchestrator.session.commands import CancelStage, RunTool, StartTimer
from orchestrator.session.state import State
from orchestrator.session.step import StepBuilder

Patch = pytest.MonkeyPatch


def a_guess_calls_tools(patch: Patch) -> None:
    """What the user has not said yet is booked already."""

    def called(making: StepBuilder) -> None:
        event: Any = making.input
        making.do(RunTool(event.call_id, event.is_cancellable, making.state.policy.tools.limit_ms, event.name))

    patch.setitem(fsm.TABLE, ("LISTENING", "TOOL_CALLED"), called)


def there_is_no_limit(patch: Patch) -> None:
    """A model in a loop calls on and on."""

    def called(making: StepBuilder) -> None:
        found = making.state.found
        assert making.state.task is not None
        making.state.task = making.state.task.replace(found=found.replace(calls=0))
        tools.called(making)

    for phase in ("THINKING", "SPEAKING"):
        patch.setitem(fsm.TABLE, (phase, "TOOL_CALLED"), called)


def an_interruption_loses_the_call(patch: Patch) -> None:
    """Its result comes, and counts no more."""

    def cancelled(making: StepBuilder) -> None:
        for command in making.state.outstanding("RunTool"):
            making.do(CancelStage(command_id=command.command_id, stage_name=command.target))

    patch.setattr(phases.tools, "cancel_with_turn", cancelled)


def a_cancelled_call_stays_in_progress(patch: Patch) -> None:
    """Nobody withdraws it."""
    patch.setattr(phases.tools, "cancel_with_turn", lambda making: None)


def the_deadline_does_not_wait(patch: Patch) -> None:
    """The answer is given up while its tool runs."""
    do = StepBuilder.arm

    def arm(self: StepBuilder, timer: str, ms: int) -> None:
        do(
            self,
            timer,
            min(ms, 500) if timer == "answer_deadline" and type(self.input).__name__ == "ToolCalled" else ms,
        )

    patch.setattr(StepBuilder, "arm", arm)


def the_deadline_of_a_new_owner_does_not_wait(patch: Patch) -> None:
    """The answer is given up while its tool runs again."""
    do = StepBuilder.do

    def hurried(self: StepBuilder, command: Any, retry_of: str = "") -> None:
        if (
            isinstance(command, StartTimer)
            and command.timer == "answer_deadline"
            and type(self.input) is SessionResumed
        ):
            command = replace(command, due_at_us=self.state.at_us + 500_000)
        do(self, command, retry_of)

    patch.setattr(StepBuilder, "do", hurried)


def a_result_ends_nothing(patch: Patch) -> None:
    """The call stays open after its result."""
    patch.setattr(evolve, "TERMINAL", evolve.TERMINAL - {ToolReturned})


def another_limit_is_kept(patch: Patch) -> None:
    """Not that of the policy."""
    do = StepBuilder.do

    def doubled(self: StepBuilder, command: Any, retry_of: str = "") -> None:
        if isinstance(command, RunTool) and not retry_of:
            command = replace(command, limit_ms=2 * command.limit_ms)
        do(self, command, retry_of)

    patch.setattr(StepBuilder, "do", doubled)


def it_speaks_of_a_tool_that_is_done(patch: Patch) -> None:
    """The timer stays armed after the result."""
    disarm = StepBuilder.disarm

    def kept(self: StepBuilder, *timers: str) -> None:
        if timers != ("tool_filler",):
            disarm(self, *timers)

    patch.setattr(StepBuilder, "disarm", kept)


def it_speaks_of_a_tool_when_its_answer_is_ready(patch: Patch) -> None:
    """The timer starts although the first words only wait for silence, and outlives the turn."""

    def called(making: StepBuilder) -> None:
        tools.called(making)
        if making.state.found.calls == 1 and making.state.policy.tools.text:
            making.arm("tool_filler", making.state.policy.tools.delay_ms)

    patch.setitem(fsm.TABLE, ("THINKING", "TOOL_CALLED"), called)


def a_new_owner_forgets_the_call(patch: Patch) -> None:
    """It is taken off the list, and not run again."""
    change = evolve._CHANGES[fsm.inputs.SessionResumed]

    def forgotten(state: State, event: Any) -> None:
        change(state, event)
        for command in state.outstanding("RunTool"):
            del state.pending[command.command_id]

    patch.setitem(evolve._CHANGES, fsm.inputs.SessionResumed, forgotten)


PLANTED: list[tuple[Callable[[Patch], None], str]] = [
    (a_guess_calls_tools, "tool a_call_runs_when_it_counts"),
    (there_is_no_limit, "tool a_call_runs_when_it_counts"),
    (an_interruption_loses_the_call, "tool a_call_ends_with_its_turn_if_it_may"),
    (a_cancelled_call_stays_in_progress, "tool a_call_ends_with_its_turn_if_it_may"),
    (the_deadline_does_not_wait, "tool the_answer_waits_for_its_call"),
    (the_deadline_of_a_new_owner_does_not_wait, "tool the_answer_waits_for_its_call"),
    (a_result_ends_nothing, "I-10 a_result_counts_while_outstanding"),
    (another_limit_is_kept, "tool a_call_runs_when_it_counts"),
    (another_limit_is_kept, "tool no_call_stays_open"),
    (it_speaks_of_a_tool_that_is_done, "filler a_filler_has_its_time"),
    (it_speaks_of_a_tool_when_its_answer_is_ready, "I-9 no_timer_outlives_its_phase"),
    (a_new_owner_forgets_the_call, "I-14 a_new_owner_asks_again"),
]
"""Bug → the checker that finds it."""
