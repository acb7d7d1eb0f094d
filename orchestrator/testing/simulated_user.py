"""The user of a simulated session: speaks, interrupts, types, hesitates, goes away and comes back, says goodbye."""

from typing import Any

from events.derived import StateChanged
from events.envelope import Event, Input
from events.inputs import (
    BargeIn,
    ClientConnected,
    HandlerAttached,
    SessionCloseRequested,
    SessionOpened,
    SttFinal,
    TtsComplete,
)
from orchestrator.session import REDUCER_VERSION
from orchestrator.testing.simulated_world import World

IMPULSES = {"THINKING": (0.25, 1_000_000), "SPEAKING": (0.6, 4_500_000), "INTERRUPT": (0.5, 150_000)}
"""Phase → how often it makes the user do something, and within which time."""

IMPULSIVE = (30, 18, 36, 4, 5, 12)
HURRIED = (25, 30, 5, 5, 15, 20)
"""How often an impulse is to speak, type, barge in, send a blank line, leave, say goodbye."""


class User:
    """Someone who wants to say so many things. Every word that is ever said is another one."""

    def __init__(self, world: World, turns: int) -> None:
        self.world = world
        self.phase = ""
        self.away = False
        self._eager = world.chance.choice((0.3, 1.0, 1.0, 2.0))
        """How ready the user is to act before the agent has finished."""
        self._gone = False
        self.ending = world.chance.choices(("stays", "says goodbye", "stays away"), (6, 2, 1))[0]
        self._left = turns
        self._calls = 0
        self._connections = 0
        self._utterances = 0

    @property
    def has_finished(self) -> bool:
        return self._left <= 0 or self.phase == "ENDED"

    def begin(self) -> None:
        """Open a session; the client usually is there at once."""
        self._gateway(SessionOpened, policy=self.world.policy.recorded(), reducer_version=REDUCER_VERSION)
        prompt = self.world.chance.random() < 0.7
        self.world.time.after(1_000 if prompt else self.world.chance.randrange(15_000_000), self.connect)
        if not prompt:
            self.world.time.after(self.world.chance.randrange(3_000_000), self._speak_too_early)
        self._soon()

    def notice(self, event: Event) -> None:
        """What was committed; sometimes it makes the user act at once."""
        if isinstance(event, StateChanged):
            self.phase = event.to_phase
            rate, within_us = IMPULSES.get(self.phase, (0.0, 1))
            if not self.has_finished and self.world.happens(rate * self._eager):
                self.world.time.after(self.world.chance.randrange(within_us), self._interrupt)

        elif isinstance(event, TtsComplete) and not self.has_finished and self.world.happens(0.4 * self._eager):
            self.world.time.after(self.world.chance.randrange(400_000), self._interrupt)

    def connect(self) -> None:
        """Connect, with a microphone as a rule; when there is nobody to connect to, try again."""
        owner, chance = self.world.owner, self.world.chance
        if owner is None:
            self.world.time.after(300_000, self.connect)
            return
        if self.phase == "ENDED" or self._gone:
            return
        self.away = False
        self._connections += 1
        replaced, owner.client_id = owner.client_id, f"client-{self._connections}"
        self._gateway(ClientConnected, client_id=owner.client_id)
        if replaced:
            self.world.marks.add("client replaced")
        if chance.random() < 0.8:
            self.world.time.after(chance.randrange(20_000, 1_000_000), self.call, self._connections)

    def call(self, connection: int) -> None:
        """Attach a microphone and a loudspeaker."""
        owner = self.world.owner
        if owner is not None and owner.client_id == f"client-{connection}" and self.phase != "ENDED":
            self._calls += 1
            handler = owner.attach(f"fastrtc_{self._calls}")
            self._gateway(HandlerAttached, handler_id=handler.handler_id)

    def lost(self) -> None:
        """The service hung up; come back to wherever it went on."""
        self.away = True
        self.world.time.after(self._absence_us(), self.connect)

    def come_back(self) -> None:
        """If nobody is connected, be so."""
        if self.world.owner is None or not self.world.owner.client_id:
            self.connect()

    def says_last(self) -> str:
        """One more plain utterance, by microphone where there is one."""
        words = self._words(2)
        owner = self.world.owner
        assert owner is not None, "nothing goes wrong any more, so somebody owns the session"
        if owner.handler is not None:
            owner.handler.hear(words, [])
        else:
            self._gateway(SttFinal, text=" ".join(words), via="text")
        return " ".join(words)

    def goodbye(self) -> None:
        self._gateway(SessionCloseRequested, reason="goodbye")

    def knocks_after_the_end(self) -> None:
        """Messages that were on their way when the session ended."""
        for _ in range(2):
            self.goodbye()
            self._gateway(SttFinal, text=" ".join(self._words(1)), via="text")
            self._gateway(BargeIn, playback_id="answer-1")

    def leave_for_good(self) -> None:
        self.away = self._gone = True
        if self.world.owner is not None:
            self.world.owner.leave("tab closed")

    def _soon(self) -> None:
        chance = self.world.chance
        hurried = chance.random() < 0.25
        self.world.time.after(chance.randrange(300_000 if hurried else int(6_000_000 / self._eager)), self._act)

    def _act(self) -> None:
        """One thing that users do, and then the next."""
        if self.has_finished:
            return
        owner = self.world.owner
        if owner is not None and not self.away:
            does = self.world.chance.choices(
                (self._speak, self._type, self._make_noise, self._leave, self._connect_again, self._call_again),
                (55, 20, 6, 5, 3, 4),
            )[0]
            does()
        self._soon()

    def _interrupt(self) -> None:
        """Act on an impulse."""
        if self.has_finished or self.world.owner is None or self.away:
            return
        does = self.world.chance.choices(
            (self._speak, self._type, self._barge_in, self._type_blank, self._leave, self._close),
            HURRIED if self.phase == "INTERRUPT" else IMPULSIVE,
        )[0]
        does()

    def _speak(self) -> None:
        owner, chance = self.world.owner, self.world.chance
        handler = owner.handler if owner else None
        if handler is None:
            self._type()
        elif not handler.speaking:
            pauses = [chance.randrange(20_000, 900_000)] if chance.random() < 0.3 else []
            handler.hear(self._words(chance.randrange(1, 5)), pauses)
            self._left -= 1

    def _type(self) -> None:
        if self.world.owner is not None and self.world.owner.client_id:
            self._gateway(SttFinal, text=" ".join(self._words(self.world.chance.randrange(1, 3))), via="text")
            self._left -= 1

    def _speak_too_early(self) -> None:
        """An outside speech-to-text service heard something before anybody was connected."""
        self.world.say("outside", "stt", SttFinal, text=" ".join(self._words(1)))

    def _type_blank(self) -> None:
        self._gateway(SttFinal, text=" \n", via="text")

    def _make_noise(self) -> None:
        if self.world.owner is not None and self.world.owner.handler is not None:
            self.world.owner.handler.hear([], [])

    def _barge_in(self) -> None:
        """The browser noticed speech over a playback, or over whatever it thinks is playing."""
        owner = self.world.owner
        handler = owner.handler if owner else None
        playing = handler.audible() if handler else ()
        playback_id = playing[0] if playing else ""
        if self.world.chance.random() < 0.15:
            playback_id = "answer-1"  # the message was long under way
        self._gateway(BargeIn, playback_id=playback_id, position_ms=100)

    def _leave(self) -> None:
        if self.world.owner is not None and self.world.owner.client_id:
            self.world.owner.leave("tab reloaded")
            self.away = True
            self.world.time.after(self._absence_us(), self.connect)

    def _connect_again(self) -> None:
        """A second window: it replaces the first, whose end is noticed later."""
        owner = self.world.owner
        if owner is None or not owner.client_id:
            return
        old_id = owner.client_id
        owner.detach("replaced")
        self.connect()
        self.world.time.after(200_000, owner.client_gone, old_id)

    def _call_again(self) -> None:
        if self.world.owner is not None and self.world.owner.client_id:
            self.call(self._connections)

    def _close(self) -> None:
        self.goodbye()

    def _absence_us(self) -> int:
        """Mostly short; now and then longer than the session waits."""
        patience_us = self.world.policy.deadlines.reconnect_ms * 1000
        if self.world.chance.random() < 0.06:
            return patience_us + self.world.chance.randrange(10_000_000)
        return self.world.chance.randrange(50_000, 2_500_000)

    def _words(self, count: int) -> list[str]:
        self._utterances += 1
        return [f"u{self._utterances}.{index}" for index in range(count)]

    def _gateway(self, kind: type[Input], **fields: Any) -> None:
        owner = self.world.owner
        if owner is not None:
            self.world.say(owner.node, "gateway", kind, **fields)
