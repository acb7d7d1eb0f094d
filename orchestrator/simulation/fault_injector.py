"""Injects faults into a simulated session: lost owners, clock jumps, broken connections, nonsensical inputs."""

from collections import Counter
from random import Random
from typing import Any

from events.derived import CommandIssued, StateChanged
from events.envelope import Event, Input
from events.inputs import (
    BargeIn,
    ClientDisconnected,
    HandlerDetached,
    IntentResolved,
    PlaybackDone,
    PlaybackProgress,
    RagAnswered,
    ServiceFailed,
    SessionOpened,
    SpeechStarted,
    SpeechStopped,
    SttFinal,
    SttPartial,
    TimerFired,
    TtsComplete,
)
from orchestrator.simulation.context import SERVER
from orchestrator.simulation.steps import PLAYS, STAGES
from orchestrator.simulation.world import World

SOON_US = {"IDLE": 500_000, "LISTENING": 900_000, "THINKING": 500_000, "SPEAKING": 4_500_000, "INTERRUPT": 150_000}


class FaultInjector:
    """Strikes soon after a change of phase and during playback, so that no phase is spared."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._said = 0
        self._commands: list[CommandIssued] = []
        self._occasions: Counter[str] = Counter()

    def notice(self, event: Event) -> None:
        """Take a committed event, which may lead to a fault soon after it."""
        if isinstance(event, CommandIssued):
            self._commands.append(event)
        elif isinstance(event, StateChanged) and (within_us := SOON_US.get(event.to_phase)) is not None:
            self._threaten(event.to_phase, within_us)
        elif isinstance(event, PlaybackProgress | TtsComplete):
            self._threaten("playback", 300_000)

    def _threaten(self, occasion: str, within_us: int) -> None:
        """Schedule a possible fault. The same occasion leads to the same fault, independent of all other events."""
        self._occasions[occasion] += 1
        chance = self._world.chance(f"fate {occasion} {self._occasions[occasion]}")
        self._world.time.after(chance.randrange(within_us), self._strike, chance)

    def _strike(self, chance: Random) -> None:
        world, faults = self._world, self._world.faults
        if chance.random() < faults.clock_jumps / 2:
            self._step_a_clock()
        if chance.random() < faults.nonsense:
            self._talk_nonsense(chance)
        has_handler = world.owner is not None and world.owner.handler is not None
        if chance.random() < faults.handler_losses / 2 and has_handler:
            assert world.owner is not None, "it has a handler"
            world.marks.add("handler lost")
            world.owner.detach("peer connection failed")
            world.call_lost()
        for how, rate in (("crash", faults.crashes), ("handover", faults.handovers), ("zombie", faults.zombies)):
            if chance.random() < rate / 3:
                if how == "crash" and chance.random() < faults.commit_then_crash:
                    world.crash_between_commit_and_effects()
                else:
                    world.change_owner(how)
                return

    def _step_a_clock(self) -> None:
        """Set the owner's wall clock, or the server's."""
        world = self._world
        node = world.owner.node if world.owner is not None else SERVER
        world.step_clock(world.chance("whose clock").choice((node, SERVER)))

    def _talk_nonsense(self, chance: Random) -> None:
        """An outside producer, with or without a sequence, sends an input that the session does not expect."""
        self._said += 1
        kind, fields = chance.choice(self._nonsense(chance))
        self._world.marks.add("nonsense")
        if chance.random() < 0.5:
            self._world.say_unnumbered(self._said, kind, **fields)
        else:
            self._world.say("outside", "service", kind, **fields)

    def _nonsense(self, chance: Random) -> list[tuple[type[Input], dict[str, Any]]]:
        words, playback_id = f"n{self._said}a", chance.choice(("answer-1", "filler-1", "answer-99", "greeting"))
        command = chance.choice(self._commands)
        about = {"command_id": command.command_id if chance.random() < 0.8 else "nothing"}
        return [
            (BargeIn, {"playback_id": playback_id, "source": "stt", "position_ms": chance.randrange(20_000)}),
            (BargeIn, {"playback_id": "", "source": "stt"}),
            (ClientDisconnected, {"client_id": "nobody"}),
            (HandlerDetached, {"handler_id": "fastrtc_nothing"}),
            (SessionOpened, {"policy": {}}),
            (SpeechStarted, {}),
            (SpeechStopped, {}),
            (SttFinal, {"text": words}),
            (SttFinal, {"text": ""}),
            (SttPartial, {"text": words}),
            (SttPartial, {"text": "", "is_complete": True}),
            (SttPartial, {"text": f"{words} please", "is_complete": True}),
            (
                PlaybackDone,
                {"playback_id": command.target, "confirmed_by": "client"} | self._but(command, *PLAYS),
            ),
            (TtsComplete, {"playback_id": "answer-99", "chunks": 1, "duration_ms": 1} | about),
            (IntentResolved, {"intent": "x"} | self._but(command, "ClassifyIntent")),
            (RagAnswered, {"answer": "x"} | self._but(command, "AnswerQuestion")),
            (ServiceFailed, {"error": "x"} | self._but(command, *STAGES)),
            (TimerFired, {"target": command.target} | self._but(command, "StartTimer")),
        ]

    def _but(self, command: CommandIssued, *names: str) -> dict[str, str]:
        """The command's id, unless the command has one of these names: nonsense must not be valid by accident."""
        return {"command_id": "nothing" if command.name in names else command.command_id}
