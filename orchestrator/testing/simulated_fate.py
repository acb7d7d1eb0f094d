"""What befalls a simulated session from outside: owners that go, clocks that jump, connections that break, nonsense."""

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
from orchestrator.testing.simulated_world import World

SOON_US = {"IDLE": 500_000, "LISTENING": 900_000, "THINKING": 500_000, "SPEAKING": 4_500_000, "INTERRUPT": 150_000}
STAGES = ("AnswerQuestion", "ClassifyIntent", "PlayFiller", "Speak")


class Fate:
    """Strikes now and then, and soon after a change of phase, so that no phase is spared."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._said = 0
        self._commands: list[CommandIssued] = []

    def notice(self, event: Event) -> None:
        """A committed event."""
        if isinstance(event, CommandIssued):
            self._commands.append(event)
        elif isinstance(event, StateChanged) and (within_us := SOON_US.get(event.to_phase)) is not None:
            self._world.time.after(self._world.chance.randrange(within_us), self._strike)
        elif isinstance(event, PlaybackProgress | TtsComplete):
            self._world.time.after(self._world.chance.randrange(300_000), self._strike)

    def _strike(self) -> None:
        world, faults = self._world, self._world.faults
        if world.happens(faults.clock_jumps / 2):
            world.jump_clock()
        if world.happens(faults.nonsense):
            self._talk_nonsense()
        if world.happens(faults.handler_losses / 2) and world.owner is not None and world.owner.handler is not None:
            world.marks.add("handler lost")
            world.owner.detach("peer connection failed")
        for how, rate in (("crash", faults.crashes), ("handover", faults.handovers), ("zombie", faults.zombies)):
            if world.happens(rate / 3):
                if how == "crash" and world.happens(faults.commit_then_crash):
                    world.crash_between_commit_and_effects()
                else:
                    world.change_owner(how)
                return

    def _talk_nonsense(self) -> None:
        """Somebody outside, with or without a sequence, says what nobody waits for."""
        kind, fields = self._world.chance.choice(self._nonsense())
        self._world.marks.add("nonsense")
        if self._world.chance.random() < 0.5:
            self._said += 1
            self._world.say_unnumbered(self._said, kind, **fields)
        else:
            self._world.say("outside", "service", kind, **fields)

    def _nonsense(self) -> list[tuple[type[Input], dict[str, Any]]]:
        chance, words = self._world.chance, f"n{len(self._world.log)}"
        command = chance.choice(self._commands)
        about = {"command_id": command.command_id if chance.random() < 0.8 else "nothing"}
        return [
            (BargeIn, {"playback_id": chance.choice(("answer-1", "filler-1", "answer-99")), "source": "stt"}),
            (BargeIn, {"playback_id": "", "source": "stt"}),
            (ClientDisconnected, {"client_id": "nobody"}),
            (HandlerDetached, {"handler_id": "fastrtc_nothing"}),
            (SessionOpened, {"policy": {}}),
            (SpeechStarted, {}),
            (SpeechStopped, {}),
            (SttFinal, {"text": words}),
            (SttFinal, {"text": ""}),
            (SttPartial, {"text": words}),
            (
                PlaybackDone,
                {"playback_id": command.target, "confirmed_by": "client"} | self._but(command, "Speak", "PlayFiller"),
            ),
            (TtsComplete, {"playback_id": "answer-99", "chunks": 1, "duration_ms": 1} | about),
            (IntentResolved, {"intent": "x"} | self._but(command, "ClassifyIntent")),
            (RagAnswered, {"answer": "x"} | self._but(command, "AnswerQuestion")),
            (ServiceFailed, {"error": "x"} | self._but(command, *STAGES)),
            (TimerFired, {"target": command.target} | self._but(command, "StartTimer")),
        ]

    def _but(self, command: CommandIssued, *names: str) -> dict[str, str]:
        """The command's id, unless it is of those names: nonsense must not be true by accident."""
        return {"command_id": "nothing" if command.name in names else command.command_id}
