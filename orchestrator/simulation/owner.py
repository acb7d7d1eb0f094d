"""The owner of a simulated session: carries out commands with timers, and with services that may be late or silent."""

from events.derived import CommandIssued
from events.inputs import ClientDisconnected, HandlerDetached, IntentResolved, TimerFired
from orchestrator.runtime.clock import SteadyClock
from orchestrator.simulation.answers import answer
from orchestrator.simulation.context import SimulationContext
from orchestrator.simulation.effects import Running, SimulatedEffects
from orchestrator.simulation.handler import SimulatedHandler
from orchestrator.simulation.playback_texts import PlaybackTexts
from orchestrator.simulation.speech import Aloud, shown
from orchestrator.simulation.steps import PLAYS, STAGES, Moment
from orchestrator.simulation.tools import SimulatedTools
from orchestrator.simulation.words import intent_of

CALL_FOLLOWS_US = 2_000_000


class Owner(SimulatedEffects):
    """One incarnation of an owner: a node that owns the session's shard, with its running effects and connections."""

    def __init__(self, world: SimulationContext, number: int, clock: SteadyClock) -> None:
        """`clock` gives the time of the session's log. It is the runtime's own SteadyClock."""
        super().__init__(world, f"node-{number}")
        self.tools = SimulatedTools(self)
        self.incarnation = f"incarnation-{number}"
        self.clock = world.clocks[self.node] = clock
        self.dead = False
        self.client_id = ""
        self.handler: SimulatedHandler | None = None
        self._call_lost_us = 0
        self._texts: dict[str, PlaybackTexts] = {}
        """Playback id → its texts."""

    def moment(self) -> Moment:
        """The owner's state, as seen from outside."""
        handler = self.handler
        running = tuple((r.issued.name, r.issued.target) for r in self.running.values())
        if handler is None:
            return Moment(running=running)
        return Moment(handler.audible(), handler.handler_id, handler.ear.microphone, handler.paused(), running)

    # Commands.

    def perform(self, issued: CommandIssued) -> None:
        """Carry out a command; never waits."""
        payload = issued.payload
        match issued.name:
            case "ClassifyIntent":
                self.ask(issued, IntentResolved, {"intent": intent_of(str(payload["text"]))})
            case "AnswerQuestion":
                answer(self, issued)
            case "RunTool":
                self.tools.start(issued)
            case "Speak" | "PlayFiller":
                self.cancel(issued.retry_of)  # an earlier attempt by this owner
                self._texts[issued.target] = PlaybackTexts(payload)
                self._speak(self.start(issued), self._texts[issued.target], int(str(payload.get("from_ms", 0))))
            case "StartTimer":
                self._arm(self.start(issued), int(str(payload["due_at_us"])))
            case "CancelTimer" | "CancelStage":
                self.cancel(str(payload["command_id"]))
            case "CancelTask":
                for command_id in [r.issued.command_id for r in self.running.values() if r.issued.name in STAGES]:
                    self.cancel(command_id)
            case "CloseSession":
                self._hang_up()
            case _:
                self._at_once(issued)

    def _at_once(self, issued: CommandIssued) -> None:
        if issued.name == "SpeakMore":
            self._speak_on(issued)
        if issued.name == "StopPlayback":
            self._end_playback(issued.target)
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

    def _end_playback(self, playback_id: str) -> None:
        for running in list(self.running.values()):
            if running.issued.name in PLAYS and running.issued.target == playback_id:
                self.cancel(running.issued.command_id)

    def _speak_on(self, issued: CommandIssued) -> None:
        """Add a text. A playback that is to be resumed is not known yet: it will be, with all its texts."""
        texts = self._texts.get(str(issued.payload["playback_id"]))
        if texts is not None:
            texts.add(issued.payload)

    def _speak(self, running: Running, texts: PlaybackTexts, from_ms: int) -> None:
        """Play the audio if there is a handler, else show it as text. Wait while there is no client, and shortly after
        a lost call.
        """
        call_may_follow = self._call_lost_us and self.world.time.now_us < self._call_lost_us + CALL_FOLLOWS_US
        if self.handler is not None:
            Aloud(self, running, self.handler.play(running.issued.target), texts, from_ms).begin()
        elif self.client_id and not call_may_follow:
            shown(self, running, texts)
        else:
            self.later(running, 50_000, self._speak, running, texts, from_ms)

    def _arm(self, running: Running, due_at_us: int) -> None:
        self.later(running, max(0, due_at_us - self.clock.now_us()), self._fire, running, due_at_us)

    def _fire(self, running: Running, due_at_us: int) -> None:
        if due_at_us > self.clock.now_us():
            self._arm(running, due_at_us)
        else:
            self.finish(running, "timers", TimerFired, target=running.issued.target)

    # Connections, and the end of the owner.

    def attach(self, handler_id: str) -> SimulatedHandler:
        """Attach a new media connection, in place of the old one if there is one."""
        self.detach("replaced")
        self.handler = SimulatedHandler(self.world, self.node, handler_id)
        return self.handler

    def detach(self, reason: str) -> None:
        """End the media connection. Playbacks over it stop without a result."""
        handler, self.handler = self.handler, None
        if handler is None:
            return
        handler.close()
        self._call_lost_us = self.world.time.now_us
        self.world.say(self.node, "gateway", HandlerDetached, handler_id=handler.handler_id, reason=reason)
        for running in list(self.running.values()):
            if running.issued.name in PLAYS and running.issued.target in handler.tracks:
                self.end(running)

    def leave(self, reason: str) -> None:
        """Disconnect the client and its handler."""
        self.detach(reason)
        client_id, self.client_id = self.client_id, ""
        if client_id:
            self.client_gone(client_id)

    def client_gone(self, client_id: str) -> None:
        """Report the end of a client's connection, which another client may have replaced long ago."""
        if not self.dead:
            self.world.say(self.node, "gateway", ClientDisconnected, client_id=client_id, reason="connection lost")

    def hand_over(self) -> None:
        """Give the shard back: cancel running effects without a result, and disconnect the client."""
        for command_id in list(self.running):
            self.cancel(command_id)
        self.leave("the service is stopping")
        self.die()

    def die(self) -> None:
        """Stop at once, as in a crash: effects, timers and connections are gone."""
        self.dead = True
        for running in self.running.values():
            running.over = True
        self.running.clear()
        self._hang_up()

    def _hang_up(self) -> None:
        """Close the connections without reporting it. Does not end running effects: the caller has already done so."""
        if self.handler is not None:
            self.handler.close()
        self.handler = None
        self.client_id = ""
