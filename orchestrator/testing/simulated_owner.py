"""The owner of a simulated session: carries out commands, by timers, by services that may answer late or never."""

from events.derived import CommandIssued
from events.inputs import ClientDisconnected, HandlerDetached, IntentResolved, RagAnswered, TimerFired
from orchestrator.testing.log_book import PLAYS
from orchestrator.testing.simulated_effects import Effects, Running
from orchestrator.testing.simulated_handler import Handler
from orchestrator.testing.simulated_speech import Aloud, shown
from orchestrator.testing.simulated_steps import Moment
from orchestrator.testing.simulated_surroundings import Surroundings
from orchestrator.testing.simulated_words import intent_of

PATIENCE_US = 2_500_000


class Owner(Effects):
    """One incarnation: a node that owns the session's shard, with what it runs and who is connected to it."""

    def __init__(self, world: Surroundings, number: int) -> None:
        super().__init__(world, f"node-{number}")
        self.incarnation = f"incarnation-{number}"
        self.offset_us = 0
        self.dead = False
        self.client_id = ""
        self.handler: Handler | None = None

    def clock_us(self) -> int:
        return max(0, self.world.time.now_us + self.offset_us)

    def moment(self) -> Moment:
        """What can be seen of it from outside."""
        handler = self.handler
        running = tuple((r.issued.name, r.issued.target) for r in self.running.values())
        if handler is None:
            return Moment(running=running)
        return Moment(handler.audible(), handler.handler_id, handler.ear.microphone, handler.paused(), running)

    # What commands want.

    def perform(self, issued: CommandIssued) -> None:
        """Carry out a command; never waits."""
        payload = issued.payload
        match issued.name:
            case "ClassifyIntent":
                self.ask(issued, IntentResolved, {"intent": intent_of(str(payload["text"]))})
            case "AnswerQuestion":
                self.ask(issued, RagAnswered, {"answer": f"Well, about {payload['text']} there is much to say"})
            case "Speak" | "PlayFiller":
                self._speak(self.start(issued), int(str(payload.get("from_ms", 0))))
            case "StartTimer":
                self._arm(self.start(issued), int(str(payload["due_at_us"])))
            case "CancelTimer" | "CancelStage":
                self.cancel(str(payload["command_id"]))
            case "CancelTask":
                for command_id in [r.issued.command_id for r in self.running.values() if r.issued.name != "StartTimer"]:
                    self.cancel(command_id)
            case "CloseSession":
                self._hang_up()
            case _:
                self._at_once(issued)

    def _at_once(self, issued: CommandIssued) -> None:
        if issued.name == "StopPlayback":
            for running in list(self.running.values()):
                if running.issued.name in PLAYS and running.issued.target == issued.target:
                    self.cancel(running.issued.command_id)
        if self.handler is None:
            return
        match issued.name:
            case "StopPlayback":
                self.handler.stop(issued.target)
            case "PausePlayback":
                self.handler.pause(issued.target)
            case "ResumePlayback":
                self.handler.resume(issued.target)
            case "SetMicrophone":
                self.handler.ear.set_microphone(str(issued.payload["setting"]))
            case "FinishUtterance":
                self.handler.ear.finish_utterance()

    def _speak(self, running: Running, from_ms: int) -> None:
        """Aloud where there is a handler; else as text; else it fails, at once or after a while."""
        if self.handler is not None:
            Aloud(self, running, self.handler.play(running.issued.target), from_ms).begin()
        elif self.client_id:
            shown(self, running)
        elif self.world.patient and self.world.time.now_us < running.started_us + PATIENCE_US:
            self.later(running, 100_000, self._speak, running, from_ms)
        else:
            self.later(running, 1_000, self.fail, running, "nobody is connected who could hear the answer")

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
        self.handler = Handler(self.world, self.node, handler_id)
        return self.handler

    def detach(self, reason: str) -> None:
        """The media connection ends; what played over it breaks."""
        handler, self.handler = self.handler, None
        if handler is None:
            return
        handler.close()
        self.world.say(self.node, "gateway", HandlerDetached, handler_id=handler.handler_id, reason=reason)
        for running in list(self.running.values()):
            if running.issued.name in PLAYS and running.issued.target in handler.tracks:
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
            self.cancel(command_id)
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
