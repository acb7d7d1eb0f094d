"""The world around one simulated session: owners that come and go, and take what arrives in the inbox."""

from collections.abc import Callable

from events.derived import AnswerEnded, CommandIssued
from events.envelope import Event, Input
from events.inputs import SessionResumed
from orchestrator.session import REDUCER_VERSION, reducer
from orchestrator.session.policy import Policy
from orchestrator.session.state import State
from orchestrator.testing.faults import Faults
from orchestrator.testing.simulated_owner import Owner
from orchestrator.testing.simulated_steps import Heard, Moment, Seen
from orchestrator.testing.simulated_surroundings import LONGEST_DELAY_US, NO_FAULTS, Surroundings

PUNCTUAL_US = 100_000
UNCONFIRMED_US = 1_100_000
"""What was heard since the last confirmed position is heard again from a new owner."""


STEPS = 1_500
"""More steps than any conversation needs."""


class BrokenReducerError(AssertionError):
    """The reducer raised, or leads nowhere; it must never."""


class World(Surroundings):
    """Everything but the user. What it did wrong on purpose is in `faults`, until `calm`."""

    def __init__(self, seed: int, policy: Policy, faults: Faults) -> None:
        super().__init__(seed, policy, faults)
        self.log: list[Event] = []
        self.log_us = 0
        """When the last step was committed."""
        self.seen: list[Seen] = []
        self.arrived: list[Input] = []
        """Every input that an owner took from the inbox, repetitions too."""
        self.listener: Callable[[Event], None] = lambda _: None
        """Told of each committed event, as a client is."""
        self.owner_lost: Callable[[], None] = lambda: None
        self.owner: Owner | None = Owner(self, 1)
        self._state = State()
        self._owners = 1
        self._excused_us = 2 * LONGEST_DELAY_US if faults.delays else PUNCTUAL_US
        self._jumped_us = 0
        self._dead_letters: set[str] = set()
        self._backlog: list[Input] = []
        self._crash_next = False

    def calm(self) -> None:
        """From now on nothing goes wrong any more."""
        self.faults = NO_FAULTS
        self.second_ear = 0.0
        self._crash_next = False

    def change_owner(self, how: str) -> None:
        """The owner goes (`handover`, `crash`, `zombie`), and after a while another one comes."""
        old = self.owner
        if old is None:
            return
        chance = self.chance("owners")
        self.marks.add(f"owner lost by {how}")
        self.owner = None
        goes_on_us = 0
        if how == "crash":
            self.lose_what_was_not_appended(old.node)
            old.die()
        elif how == "handover":
            old.hand_over()
        else:
            ends = old.hand_over if chance.random() < 0.5 else old.die  # it notices, or it never does
            goes_on_us = chance.randrange(3_000_000)
            self.time.after(goes_on_us, ends)
        gap_us = chance.randrange(10_000, 2_000_000)
        self._excused_us += gap_us
        self.doubt(UNCONFIRMED_US + gap_us + goes_on_us, self.time.now_us + gap_us + goes_on_us)
        self.time.after(gap_us, self._take_over)
        self.owner_lost()

    def crash_between_commit_and_effects(self) -> None:
        """The next step is committed, and nobody carries it out."""
        self._crash_next = True

    def jump_clock(self) -> None:
        """The owner's clock is set, by seconds, in either direction."""
        if self.owner is not None:
            jump_us = self.chance("clock").randrange(-5_000_000, 5_000_000)
            self.owner.offset_us += jump_us
            self.offsets_us[self.owner.node] = self.owner.offset_us
            self._excused_us += abs(jump_us)
            self._jumped_us += abs(jump_us)
            self.doubt(abs(jump_us), self.time.now_us + self._jumped_us)  # so long it may have to catch up
            self.marks.add("clock went back" if jump_us < 0 else "clock went forward")

    def take(self, event: Input) -> None:
        """An event has arrived: for the owner, or for the one that will come."""
        if self.owner is None:
            self._backlog.append(event)
        else:
            self._handle(self.owner, event)

    def _take_over(self) -> None:
        """A new owner reads what waits in the inbox, and says that it is there at the end of it."""
        self._owners += 1
        before_us = self.offsets_us.get(f"node-{self._owners - 1}", 0)
        self.owner = Owner(self, self._owners)
        if self.happens("clock_jumps"):
            self.jump_clock()
        differs_us = abs(self.owner.offset_us - before_us)
        self._excused_us += differs_us
        self._jumped_us += differs_us
        self.doubt(differs_us, self.time.now_us + self._jumped_us)
        for _ in range(1 + self.happens("repeats")):
            self.say(self.owner.node, "shard", SessionResumed, reducer_version=REDUCER_VERSION)
        backlog, self._backlog = self._backlog, []
        for event in backlog:
            self.take(event)  # the new owner may be lost on the way, too

    def _handle(self, owner: Owner, event: Input) -> None:
        """Decide, commit, carry out: as a shard does it."""
        stamped = event.model_copy(update={"at_us": owner.clock_us(), "incarnation": owner.incarnation})
        try:
            step = reducer.reduce(self._state, stamped)
        except Exception as error:
            raise BrokenReducerError(f"{event.type} raised {type(error).__name__}: {error}") from error  # type: ignore[attr-defined]
        if len(self.seen) == STEPS:
            raise BrokenReducerError(f"{STEPS} steps, and no end")
        if step.events and not step.state.session_id:
            self._dead_letters.add(event.event_id)  # there is no session yet, so there is no log to keep it in
            return
        if step.events or event.event_id not in self._dead_letters:
            self.arrived.append(event)
        if not step.events:
            self.marks.add(f"duplicate {event.type}")  # type: ignore[attr-defined]
            return
        self._state, client_id = step.state, owner.client_id
        self.log += step.events
        self.log_us = self.time.now_us
        heard = self._heard_of_what_ends(step.events)
        if self._crash_next and step.commands:
            self._crash_next = False
            self.marks.add("crash between commit and effects")
            self.change_owner("crash")
        else:
            for command in step.commands:
                owner.perform(command)
        moment = owner.moment() if self.owner is owner else Moment()
        logged, *said = step.events
        assert isinstance(logged, Input), "a step begins with its input"
        commands = tuple(event for event in said if isinstance(event, CommandIssued))
        self.seen.append(
            Seen(logged, tuple(said), commands, self.time.now_us, self._excused_us, moment, client_id, heard)
        )
        for committed in step.events:
            self.listener(committed)

    def _heard_of_what_ends(self, events: tuple[Event, ...]) -> Heard | None:
        for event in events:
            if isinstance(event, AnswerEnded):
                return self.heard(event.playback_id)
        return None
