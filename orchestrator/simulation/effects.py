"""The running effects of a simulated owner: they take time and report results, or never do."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from events.derived import CommandIssued
from events.envelope import Result
from events.inputs import ServiceFailed, TimerFired
from orchestrator.simulation.context import SimulationContext

if TYPE_CHECKING:
    from orchestrator.simulation.tools import SimulatedTools


class Running:
    """A started effect or timer; `over` once it has ended."""

    __slots__ = ("issued", "over", "result", "started_us")

    def __init__(self, issued: CommandIssued, now_us: int) -> None:
        self.issued = issued
        self.over = False
        self.result: tuple[type[Result], dict[str, Any]] | None = None
        """The result that a cancelled effect may still report late."""
        self.started_us = now_us


class SimulatedEffects:
    """The running effects of one node."""

    def __init__(self, world: SimulationContext, node: str) -> None:
        self.world = world
        self.node = node
        self.running: dict[str, Running] = {}
        self.tools: SimulatedTools

    def later(self, running: Running, delay_us: int, do: Callable[..., None], *args: Any) -> None:
        """Call `do` after `delay_us`, unless the effect is over by then."""

        def go_on() -> None:
            if not running.over:
                do(*args)

        self.world.time.after(delay_us, go_on)

    def report(self, running: Running, part: str, kind: type[Result], **fields: Any) -> None:
        """Send an effect's result. Faults may send a mislabelled copy before it, or a repetition later."""
        world = self.world
        about: dict[str, Any] = {
            "command_id": running.issued.command_id,
            "elapsed_us": world.time.now_us - running.started_us,
        }
        if world.happens("mislabelled"):
            self._mislabel(kind, part, about | fields)
        world.say(self.node, part, kind, **about, **fields)
        if world.happens("repeats"):
            delay_us = world.chance("repetition").randrange(3_000_000)
            if "duration_ms" in fields:  # the session counts the repeated audio again
                world.doubt(fields["duration_ms"] * 1000, world.time.now_us + delay_us)
            world.time.after(delay_us, lambda: world.say(self.node, part, kind, **about, **fields))

    def finish(self, running: Running, part: str, kind: type[Result], **fields: Any) -> None:
        """End an effect with its last result."""
        self.end(running)
        self.report(running, part, kind, **fields)

    def fail(self, running: Running, error: str) -> None:
        self.finish(running, "services", ServiceFailed, error=error)

    def takes_us(self, purpose: str, usual_us: int) -> int:
        """Draw a duration, between a tenth of `usual_us` and `usual_us`; ten times as long by the fault `slowness`."""
        took_us = self.world.chance(purpose).randrange(usual_us // 10, usual_us)
        return took_us * (10 if self.world.happens("slowness") else 1)

    def start(self, issued: CommandIssued) -> Running:
        running = self.running[issued.command_id] = Running(issued, self.world.time.now_us)
        return running

    def end(self, running: Running) -> None:
        running.over = True
        self.running.pop(running.issued.command_id, None)

    def cancel(self, command_id: str) -> None:
        """End an effect. By the fault `late_results` its result still arrives."""
        running = self.running.get(command_id)
        if running is None:
            return
        self.end(running)
        if running.result is not None and self.world.happens("late_results"):
            kind, fields = running.result
            self.report(running, "services", kind, **fields)

    def ask(self, issued: CommandIssued, kind: type[Result], fields: dict[str, Any]) -> None:
        """Ask a service. It may answer late, fail, or never answer. Durations are drawn per question."""
        running = self.start(issued)
        running.result = (kind, fields)
        if self.world.happens("lost_results"):
            return
        after_us = self.takes_us(f"{issued.name} {issued.payload['text']}", 500_000)
        if self.world.happens("failures"):
            self.later(running, after_us, self.fail, running, "503")
        else:
            self.later(running, after_us, lambda: self.finish(running, "services", kind, **fields))

    def _mislabel(self, kind: type[Result], part: str, fields: dict[str, Any]) -> None:
        """Send the result with another playback or timer or, if it names neither, as a result of another type."""
        if "playback_id" in fields:
            wrong = self.world.chance("mislabel").choice(("answer-1", "filler-1", "answer-99", "greeting"))
            if wrong != fields["playback_id"]:
                self.world.say(self.node, part, kind, **fields | {"playback_id": wrong})
        elif "call_id" in fields:
            self.world.say(self.node, part, kind, **fields | {"call_id": "nonsense/book/1"})
        elif "target" in fields:
            self.world.say(self.node, part, kind, **fields | {"target": "endpoin"})
        else:
            known = {name: fields[name] for name in ("command_id", "elapsed_us")}
            self.world.say(self.node, part, TimerFired, **known, target="answer_deadline")
