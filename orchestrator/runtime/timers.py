"""Timers: StartTimer comes back as TIMER_FIRED, never before it is due."""

import asyncio
from collections.abc import Callable

from events.derived import CommandIssued
from events.inputs import TimerFired
from orchestrator.runtime.clock import now_us


class Timers:
    """The armed timers of one session."""

    def __init__(self, session_id: str, report: Callable[[TimerFired], None]) -> None:
        self._session_id = session_id
        self._report = report
        self._armed: dict[str, asyncio.TimerHandle] = {}

    def start(self, command: CommandIssued, due_at_us: int) -> None:
        """Arm; a time in the past fires at once."""
        delay_s = max(0, due_at_us - now_us()) / 1e6
        loop = asyncio.get_running_loop()
        self._armed[command.command_id] = loop.call_later(delay_s, self._fire, command, due_at_us)

    def _fire(self, command: CommandIssued, due_at_us: int) -> None:
        early_us = due_at_us - now_us()
        if early_us > 0:  # the loop's clock and the wall clock drift apart
            self.start(command, due_at_us)
            return
        del self._armed[command.command_id]
        self._report(
            TimerFired(
                session_id=self._session_id,
                command_id=command.command_id,
                elapsed_us=now_us() - command.at_us,
                target=command.target,
            )
        )

    def cancel(self, command_id: str) -> None:
        """Disarm; one that has fired already comes back stale."""
        if (armed := self._armed.pop(command_id, None)) is not None:
            armed.cancel()

    def cancel_all(self) -> None:
        for armed in self._armed.values():
            armed.cancel()
        self._armed.clear()
