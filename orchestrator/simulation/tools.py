"""The simulated agent's tools: it calls them before it answers, and they run on while others answer."""

from collections.abc import Callable

from events.derived import CommandIssued
from events.journal import ModelResponded, ToolCalled, ToolReturned
from orchestrator.session.digest import digest
from orchestrator.simulation.effects import Running, SimulatedEffects

CALL_US = 1_500_000
"""Longest usual time of a tool call."""


class Acting:
    """One attempt at an answer whose agent calls tools first, one after the other; then it goes on with `then`."""

    def __init__(self, effects: SimulatedEffects, running: Running, then: Callable[[], None]) -> None:
        self._effects = effects
        self._running = running
        self._then = then
        self._prefix = digest(running.issued.idempotency_key.encode())[:8]
        self._calls = effects.world.chance(f"acts {running.issued.payload['text']}").choice((1, 1, 2, 3))

    def begin(self) -> None:
        """The model responds, unless its response is recorded."""
        call_id, world = f"{self._prefix}/model/1", self._effects.world
        if call_id in world.journal.responses:
            self._call(1)
        else:
            after_us = self._effects.takes_us(f"model {self._prefix}", 300_000)
            self._effects.later(self._running, after_us, self._respond, call_id)

    def _respond(self, call_id: str) -> None:
        self._effects.report(self._running, "services", ModelResponded, call_id=call_id, response="{}")
        self._call(1)

    def _call(self, number: int) -> None:
        """Make the call of this number, or wait for it where it is recorded."""
        if number > self._calls:
            self._then()
            return
        world, call_id = self._effects.world, f"{self._prefix}/book/{number}"
        self._effects.tools.offer(call_id)
        if call_id not in world.journal.calls:
            if not world.is_hasty and not world.is_asked_by_the_turn(self._running.issued.idempotency_key):
                self._again(number)  # a guess runs nothing
                return
            self._effects.report(
                self._running,
                "services",
                ToolCalled,
                arguments="{}",
                call_id=call_id,
                is_cancellable=number == 2,
                name="book",
            )
        self._await(number, call_id)

    def _again(self, number: int) -> None:
        self._effects.later(self._running, 20_000, self._call, number)

    def _await(self, number: int, call_id: str) -> None:
        call = self._effects.world.journal.calls.get(call_id)
        if call is None or call.outcome == "open":
            self._effects.later(self._running, 20_000, self._await, number, call_id)
        else:
            self._call(number + 1)


class SimulatedTools:
    """The tool calls that run on one node. A call needs its function, which an attempt at its question offers."""

    def __init__(self, effects: SimulatedEffects) -> None:
        self._effects = effects
        self._offered: set[str] = set()
        self._waiting: dict[str, Running] = {}

    def offer(self, call_id: str) -> None:
        self._offered.add(call_id)
        if (running := self._waiting.pop(call_id, None)) is not None:
            self._run(running)

    def start(self, issued: CommandIssued) -> None:
        """Run a call within its limit."""
        effects, running = self._effects, self._effects.start(issued)
        limit_us = int(str(issued.payload["limit_ms"])) * 1000
        effects.later(running, limit_us, self._return, running, "it took too long")
        if issued.target in self._offered:
            self._run(running)
        else:
            self._waiting[issued.target] = running

    def _run(self, running: Running) -> None:
        effects = self._effects
        if effects.world.happens("lost_results"):
            return
        after_us = effects.takes_us(f"tool {running.issued.target}", CALL_US)
        effects.later(running, after_us, self._return, running, "503" if effects.world.happens("failures") else "")

    def _return(self, running: Running, error: str) -> None:
        call_id = running.issued.target
        result = "" if error else "7"
        self._effects.finish(running, "services", ToolReturned, call_id=call_id, error=error, result=result)
