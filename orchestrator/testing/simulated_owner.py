"""The owner of a simulated session: carries out commands, by timers, by services that may answer late or never."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from events.derived import CommandIssued
from events.envelope import Result
from events.inputs import (
    ClientDisconnected,
    HandlerDetached,
    IntentResolved,
    RagAnswered,
    ServiceFailed,
    TimerFired,
)
from orchestrator.testing.simulated_handler import Handler
from orchestrator.testing.simulated_speech import speak
from orchestrator.testing.simulated_steps import Moment

if TYPE_CHECKING:
    from orchestrator.testing.simulated_world import World

PLAYS = ("Speak", "PlayFiller")


class Running:
    """An effect or a timer that has been started and is not over."""

    __slots__ = ("issued", "over", "result", "started_us")

    def __init__(self, issued: CommandIssued, now_us: int) -> None:
        self.issued = issued
        self.over = False
        self.result: tuple[type[Result], dict[str, Any]] | None = None
        """What it would say if it ended now."""
        self.started_us = now_us


class Owner:
    """One incarnation: a node that owns the session's shard, with what it runs and who is connected to it."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.node = f"node-{number}"
        self.incarnation = f"incarnation-{number}"
        self.offset_us = 0
        self.dead = False
        self.client_id = ""
        self.handler: Handler | None = None
        self.running: dict[str, Running] = {}

    def clock_us(self) -> int:
        return max(0, self.world.time.now_us + self.offset_us)

    def moment(self) -> Moment:
        """What can be seen of it from outside."""
        handler = self.handler
        running = tuple((r.issued.name, r.issued.target) for r in self.running.values())
        if handler is None:
            return Moment(running=running)
        return Moment(handler.audible(), handler.handler_id, handler.microphone, running)

    # What commands want.

    def perform(self, issued: CommandIssued) -> None:
        """Carry out a command; never waits."""
        payload = issued.payload
        match issued.name:
            case "ClassifyIntent":
                self._ask(issued, IntentResolved, {"intent": "small_talk"})
            case "AnswerQuestion":
                self._ask(issued, RagAnswered, {"answer": f"Well, about {payload['text']} there is much to say"})
            case "Speak" | "PlayFiller":
                speak(self, self._start(issued), int(str(payload.get("from_ms", 0))))
            case "StartTimer":
                self._arm(self._start(issued), int(str(payload["due_at_us"])))
            case "CancelTimer" | "CancelStage":
                self._cancel(str(payload["command_id"]))
            case "CancelTask":
                for command_id in [r.issued.command_id for r in self.running.values() if r.issued.name != "StartTimer"]:
                    self._cancel(command_id)
            case "CloseSession":
                self._hang_up()
            case _:
                self._at_once(issued)

    def _at_once(self, issued: CommandIssued) -> None:
        if issued.name == "StopPlayback":
            for running in list(self.running.values()):
                if running.issued.name in PLAYS and running.issued.target == issued.target:
                    self._cancel(running.issued.command_id)
        if self.handler is None:
            return
        match issued.name:
            case "StopPlayback":
                self.handler.stop(issued.target)
            case "SetMicrophone":
                self.handler.set_microphone(str(issued.payload["setting"]))
            case "FinishUtterance":
                self.handler.finish_utterance()

    # Effects: how they start, speak and end.

    def later(self, running: Running, delay_us: int, do: Callable[..., None], *args: Any) -> None:
        """Do something later, unless the effect is over by then."""

        def go_on() -> None:
            if not running.over:
                do(*args)

        self.world.time.after(delay_us, go_on)

    def report(self, running: Running, part: str, kind: type[Result], **fields: Any) -> None:
        """An effect says something about its command; sometimes wrongly before, or again later."""
        world = self.world
        about: dict[str, Any] = {
            "command_id": running.issued.command_id,
            "elapsed_us": world.time.now_us - running.started_us,
        }
        if world.happens(world.faults.mislabelled):
            self._mislabel(kind, part, about | fields)
        world.say(self.node, part, kind, **about, **fields)
        if world.happens(world.faults.repeats):
            delay_us = world.chance.randrange(3_000_000)
            world.time.after(delay_us, lambda: world.say(self.node, part, kind, **about, **fields))

    def finish(self, running: Running, part: str, kind: type[Result], **fields: Any) -> None:
        """The last word of an effect."""
        self._over(running)
        self.report(running, part, kind, **fields)

    def fail(self, running: Running, error: str) -> None:
        self.finish(running, "services", ServiceFailed, error=error)

    def takes_us(self, usual_us: int) -> int:
        """How long something takes today."""
        slow = self.world.happens(self.world.faults.slowness)
        return self.world.chance.randrange(usual_us // 10, usual_us) * (10 if slow else 1)

    def _start(self, issued: CommandIssued) -> Running:
        running = self.running[issued.command_id] = Running(issued, self.world.time.now_us)
        return running

    def _over(self, running: Running) -> None:
        running.over = True
        self.running.pop(running.issued.command_id, None)

    def _cancel(self, command_id: str) -> None:
        """End an effect. What it had said just before is on its way already."""
        running = self.running.get(command_id)
        if running is None:
            return
        self._over(running)
        if running.result is not None and self.world.happens(self.world.faults.late_results):
            kind, fields = running.result
            self.report(running, "services", kind, **fields)

    def _mislabel(self, kind: type[Result], part: str, fields: dict[str, Any]) -> None:
        """The same about another playback or timer; or of another kind, where there is nothing to confuse."""
        if "playback_id" in fields:
            wrong = self.world.chance.choice(("answer-1", "filler-1", "answer-99"))
            if wrong != fields["playback_id"]:
                self.world.say(self.node, part, kind, **fields | {"playback_id": wrong})
        elif "target" in fields:
            self.world.say(self.node, part, kind, **fields | {"target": "endpoin"})
        else:
            known = {name: fields[name] for name in ("command_id", "elapsed_us")}
            self.world.say(self.node, part, TimerFired, **known, target="answer_deadline")

    def _ask(self, issued: CommandIssued, kind: type[Result], fields: dict[str, Any]) -> None:
        running, faults = self._start(issued), self.world.faults
        running.result = (kind, fields)
        if self.world.happens(faults.lost_results):
            return
        after_us = self.takes_us(500_000)
        if self.world.happens(faults.failures):
            self.later(running, after_us, self.fail, running, "503")
        else:
            self.later(running, after_us, lambda: self.finish(running, "services", kind, **fields))

    def _arm(self, running: Running, due_at_us: int) -> None:
        self.later(running, max(0, due_at_us - self.clock_us()), self._fire, running, due_at_us)

    def _fire(self, running: Running, due_at_us: int) -> None:
        if due_at_us > self.clock_us():  # the clock was set back meanwhile
            self._arm(running, due_at_us)
        else:
            self.finish(running, "timers", TimerFired, target=running.issued.target)

    # Connections, and the end of it all.

    def attach(self, handler_id: str) -> Handler:
        """A media connection, instead of the one there may be."""
        self.detach("replaced")
        self.handler = Handler(self, handler_id)
        return self.handler

    def detach(self, reason: str) -> None:
        """The media connection ends; what played over it breaks."""
        handler, self.handler = self.handler, None
        if handler is None:
            return
        handler.close()
        self.world.say(self.node, "gateway", HandlerDetached, handler_id=handler.handler_id, reason=reason)
        for running in list(self.running.values()):
            if running.issued.name in PLAYS and running.issued.target in handler.playing:
                self.fail(running, "the playback was stopped")

    def leave(self, reason: str) -> None:
        """The client is gone, and its handler with it."""
        self.detach(reason)
        client_id, self.client_id = self.client_id, ""
        if client_id:
            self.client_gone(client_id)

    def client_gone(self, client_id: str) -> None:
        """A client's connection has ended; it may have been replaced long ago."""
        if not self.dead:
            self.world.say(self.node, "gateway", ClientDisconnected, client_id=client_id, reason="connection lost")

    def hand_over(self) -> None:
        """Give the shard back: what runs is cancelled without a word, clients are sent away."""
        for command_id in list(self.running):
            self._cancel(command_id)
        self.leave("the service is stopping")
        self.die()

    def die(self) -> None:
        """From one moment to the next nothing of it is there any more."""
        self.dead = True
        for running in self.running.values():
            running.over = True
        self.running.clear()
        self._hang_up()

    def _hang_up(self) -> None:
        """Connections end without a word. What still runs goes on: whoever closes a session has ended that before."""
        if self.handler is not None:
            self.handler.close()
        self.handler = None
        self.client_id = ""
