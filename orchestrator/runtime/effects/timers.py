"""Timers: answers each StartTimer command with the event TIMER_FIRED, never before the timer is due."""

import asyncio
from collections.abc import Callable

from events.derived import CommandIssued
from events.inputs import TimerFired
from orchestrator.runtime.clock import SteadyClock, now_us


class Timers:
    """The running timers of one session. They run by the clock of the session's log (SteadyClock)."""

    def __init__(self, session_id: str, report: Callable[[TimerFired], None], clock: SteadyClock | None = None) -> None:
        """`clock`: the clock of the session's log. By default, a new clock that starts at the present date."""
        self.clock = clock or SteadyClock(now_us())
        self._session_id = session_id
        self._report = report
        self._armed: dict[str, asyncio.TimerHandle] = {}

    def start(self, command: CommandIssued, due_at_us: int) -> None:
        """Start a timer that fires when the session's clock reaches `due_at_us`; at once, if that time has passed."""
        delay_s = max(0, due_at_us - self.clock.now_us()) / 1e6
        loop = asyncio.get_running_loop()
        self._armed[command.command_id] = loop.call_later(delay_s, self._fire, command, due_at_us)

    def _fire(self, command: CommandIssued, due_at_us: int) -> None:
        at_us = self.clock.now_us()
        if at_us < due_at_us:  # fired early: the event loop's clock is coarser
            self.start(command, due_at_us)
            return
        del self._armed[command.command_id]
        self._report(
            TimerFired(
                session_id=self._session_id,
                command_id=command.command_id,
                elapsed_us=at_us - command.at_us,
                target=command.target,
            )
        )

    def cancel(self, command_id: str) -> None:
        """Stop the timer of a StartTimer command. If the timer has fired already, its TIMER_FIRED is stale."""
        if (armed := self._armed.pop(command_id, None)) is not None:
            armed.cancel()

    def cancel_all(self) -> None:
        for armed in self._armed.values():
            armed.cancel()
        self._armed.clear()
