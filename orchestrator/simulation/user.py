"""The user of a simulated session: speaks, interrupts, listens, coughs, types, falls silent, goes away, says goodbye.

Each act, and each reaction to a phase of the agent, draws from its own random stream: if one decision differs, the rest
of the user's behaviour stays the same.
"""

from collections import Counter
from random import Random
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
from orchestrator.session.state import opening
from orchestrator.simulation import words
from orchestrator.simulation.world import World

IMPULSES = {"THINKING": (0.3, 1_000_000), "SPEAKING": (0.9, 3_500_000), "INTERRUPT": (0.5, 150_000)}
"""Phase → (base probability that the user reacts to it, time limit of the reaction in microseconds)."""
SOUNDS = {"listen": words.backchannel, "cough": words.cough, "coughs": words.coughs}
CALLS_WITHIN_US = 500_000
REACTIONS = 10
LISTENS_ON_US = 8_000_000
ACTS = ("speak", "type", "cough", "leave", "connect again", "call again")
USUAL = (60, 14, 9, 5, 3, 4)
IN_REACTION = ("speak", "listen", "cough", "coughs", "type", "barge in", "type blank", "leave", "close")
IMPULSIVE = (30, 30, 16, 8, 10, 18, 3, 3, 4)
HURRIED = (25, 4, 6, 0, 30, 5, 5, 10, 12)
"""Weights of the acts in IN_REACTION: HURRIED applies in INTERRUPT, IMPULSIVE in all other phases."""


class User:
    """A user who has `turns` things to say, and reacts to events. Every word is new, except that the user sometimes
    types the words of the last final.
    """

    def __init__(self, world: World, turns: int) -> None:
        self.world = world
        self.phase = ""
        self.away = False
        chance = world.chance("user")
        self.ending = chance.choices(("stays", "says goodbye", "stays away"), (6, 2, 1))[0]
        self._eager = chance.choice((0.4, 0.8, 1.2, 2.0))
        """Factor for the rate of acts and reactions: how eager the user is to act before the agent has finished."""
        self._hurried = chance.random() < 0.25
        self._silent_us = 25_000_000 if chance.random() < 0.2 else 0
        """Longest extra silence before each act. Not 0 for the users who say little."""
        self.busy_until_us = 0
        """The time by which a user who is returning has connected and called."""
        self._is_done = self._gone = False
        self._left = turns
        self._acts = self._reactions = self._calls = self._connections = 0
        self._entered: Counter[str] = Counter()

    @property
    def has_finished(self) -> bool:
        return self._is_done or self.phase == "ENDED"

    def begin(self) -> None:
        """Open a session. The client usually connects at once."""
        self._gateway(SessionOpened, **opening(self.world.policy.recorded()))
        chance = self.world.chance("arrival")
        prompt = chance.random() < 0.85
        self._returns_after(1_000 if prompt else chance.randrange(15_000_000))
        if not prompt:
            self.world.time.after(chance.randrange(3_000_000), self._speak_too_early)
        self._soon()
        crowd = self.world.chance("crowd")
        if crowd.random() < 0.1:
            self.world.time.after(crowd.randrange(8_000_000), self.world.crowd, crowd.randrange(20, 200))

    def notice(self, event: Event) -> None:
        """Take a committed event. Sometimes the user reacts to it."""
        if isinstance(event, StateChanged):
            self.phase = event.to_phase
            self._feel(self.phase, *IMPULSES.get(self.phase, (0.0, 1)))
        elif isinstance(event, TtsComplete):
            self._feel("end", 0.4, 400_000)

    def connect(self) -> None:
        """Connect, usually with a microphone. Without an owner, try again later."""
        owner = self.world.owner
        if owner is None:
            self._returns_after(300_000)
            return
        if self.phase == "ENDED" or self._gone:
            return
        self.away = False
        self._connections += 1
        chance = self.world.chance(f"connection {self._connections}")
        replaced, owner.client_id = owner.client_id, f"client-{self._connections}"
        self._gateway(ClientConnected, client_id=owner.client_id)
        if replaced:
            self.world.marks.add("client replaced")
        if chance.random() < 0.8:
            self.world.time.after(chance.randrange(20_000, CALLS_WITHIN_US), self.call, self._connections)

    def call(self, connection: int) -> None:
        """Attach a microphone and a loudspeaker."""
        owner = self.world.owner
        if owner is not None and owner.client_id == f"client-{connection}" and self.phase != "ENDED":
            self._calls += 1
            handler = owner.attach(f"fastrtc_{self._calls}")
            self._gateway(HandlerAttached, handler_id=handler.handler_id)

    def lost(self) -> None:
        """React to a lost owner: come back later, to the next owner."""
        self.away = True
        self._returns_after(self._absence_us(self.world.chance("absence")))

    def loses_the_call(self) -> None:
        """React to a broken media connection: with `hiccups`, call again soon over the same control channel."""
        if self.world.hiccups:
            after_us = self.world.chance("calls again").randrange(20_000, CALLS_WITHIN_US)
            self.world.time.after(after_us, self.call, self._connections)

    def come_back(self) -> None:
        """Connect, unless a client is connected."""
        if self.world.owner is None or not self.world.owner.client_id:
            self.connect()

    def says_last(self) -> str:
        """Say one more plain utterance, with the microphone if there is one, else typed. Returns its words."""
        owner = self.world.owner
        assert owner is not None, "nothing goes wrong any more, so somebody owns the session"
        if owner.handler is not None:
            owner.handler.ear.hear(words.plain("last"))
        else:
            self._gateway(SttFinal, text="lasta lastb", via="text")
        return "lasta lastb"

    def goodbye(self) -> None:
        self._gateway(SessionCloseRequested, reason="goodbye")

    def knocks_after_the_end(self) -> None:
        """Send messages after the end of the session, as if they had been on their way."""
        for name in ("knocka", "knockb"):
            self.goodbye()
            self._gateway(SttFinal, text=name, via="text")
            self._gateway(BargeIn, playback_id="answer-1")

    def leave_for_good(self) -> None:
        self.away = self._gone = True
        if self.world.owner is not None:
            self.world.owner.leave("tab closed")

    def falls_silent(self) -> None:
        """Stop acting: from now on only calls from the simulation make the user do something."""
        self._is_done = True

    def _soon(self) -> None:
        if self._left <= 0:  # the user may still react to the agent's answer
            self.world.time.after(LISTENS_ON_US, self.falls_silent)
            return
        self._acts += 1
        chance = self.world.chance(f"act {self._acts}")
        within_us = 300_000 if self._hurried else int(6_000_000 / self._eager)
        waits_us = chance.randrange(within_us) + int(self._silent_us * chance.random())
        self.world.time.after(waits_us, self._act, chance)

    def _act(self, chance: Random) -> None:
        """Do one usual act, and schedule the next."""
        if self.has_finished:
            return
        if self.world.owner is not None and not self.away:
            self._do(chance.choices(ACTS, USUAL)[0], chance, f"u{self._acts}")
        self._soon()

    def _feel(self, cause: str, rate: float, within_us: int) -> None:
        """Schedule a possible reaction to a cause. The n-th occurrence of a cause always draws the same reaction."""
        if not rate:
            return
        self._entered[cause] += 1
        name = f"{cause[0].lower()}{self._entered[cause]}"
        chance = self.world.chance(f"impulse {name}")
        feels = chance.random() < rate * self._eager
        if feels and not self.has_finished:
            self.world.time.after(chance.randrange(within_us), self._react, chance, name)

    def _react(self, chance: Random, name: str) -> None:
        """Do one act in reaction to an event."""
        if not self.has_finished and self.world.owner is not None and not self.away and self._reactions < REACTIONS:
            self._reactions += 1
            weights = HURRIED if self.phase == "INTERRUPT" else IMPULSIVE
            self._do(chance.choices(IN_REACTION, weights)[0], chance, name)

    def _do(self, what: str, chance: Random, name: str) -> None:
        match what:
            case "speak":
                self._speak(chance, name)
            case "type":
                self._type(chance, name)
            case "type blank":
                self._gateway(SttFinal, text=" \n", via="text")
            case "barge in":
                self._barge_in(chance)
            case "leave":
                self._leave(chance)
            case "connect again":
                self._connect_again()
            case "call again":
                self._call_again()
            case "close":
                self.goodbye()
            case _:
                self._make_sound(SOUNDS[what](chance))

    def _speak(self, chance: Random, name: str) -> None:
        owner = self.world.owner
        handler = owner.handler if owner else None
        if handler is None:
            self._type(chance, name)
        elif not handler.ear.speaking:
            handler.ear.hear(words.said(chance, name))
            self._left -= name.startswith("u")

    def _type(self, chance: Random, name: str) -> None:
        if self.world.owner is not None and self.world.owner.client_id:
            text = " ".join(f"{name}{letter}" for letter in "ab"[: chance.randrange(1, 3)])
            if self.world.understood and self.world.chance("typed again").random() < 0.2:
                text = self.world.understood
            self._gateway(SttFinal, text=self.world.written(text), via="text")
            self._left -= name.startswith("u")

    def _speak_too_early(self) -> None:
        """An outside speech-to-text service reports a final before the client is connected."""
        self.world.say("outside", "stt", SttFinal, text="earlya")

    def _make_sound(self, speech: words.Speech) -> None:
        if self.world.owner is not None and self.world.owner.handler is not None:
            self.world.owner.handler.ear.hear(speech)

    def _barge_in(self, chance: Random) -> None:
        """The browser reports speech over a playback, which may have ended long ago."""
        owner = self.world.owner
        handler = owner.handler if owner else None
        playing = (*handler.audible(), *handler.paused()) if handler else ()
        playback_id, position_ms = playing[0] if playing else "", 0
        if chance.random() < 0.6 and (heard := self.world.heard(playback_id)) is not None:
            position_ms = heard.position_ms
        if chance.random() < 0.15:
            playback_id, position_ms = "answer-1", 0  # the message was long under way
        self._gateway(BargeIn, playback_id=playback_id, position_ms=position_ms)

    def _leave(self, chance: Random) -> None:
        if self.world.owner is not None and self.world.owner.client_id:
            self.world.owner.leave("tab reloaded")
            self.away = True
            self._returns_after(self._absence_us(chance))

    def _connect_again(self) -> None:
        """Connect from a second window. It replaces the first one, whose end is reported later."""
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

    def _returns_after(self, absence_us: int) -> None:
        self.busy_until_us = max(self.busy_until_us, self.world.time.now_us + absence_us + CALLS_WITHIN_US)
        self.world.time.after(absence_us, self.connect)

    def _absence_us(self, chance: Random) -> int:
        """Draw the length of an absence: usually short, very short with `hiccups`, rarely above `reconnect_ms`."""
        patience_us = self.world.policy.deadlines.reconnect_ms * 1000
        if chance.random() < 0.06:
            return patience_us + chance.randrange(10_000_000)
        return chance.randrange(5_000, 100_000) if self.world.hiccups else chance.randrange(50_000, 2_500_000)

    def _gateway(self, kind: type[Input], **fields: Any) -> None:
        owner = self.world.owner
        if owner is not None:
            self.world.say(owner.node, "gateway", kind, **fields)
