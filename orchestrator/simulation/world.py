"""The world of one simulated session: owners that come and go, and process the events of the inbox."""

from collections.abc import Callable

from events.derived import AnswerEnded, CommandIssued
from events.envelope import Event, Input
from events.inputs import SessionResumed
from orchestrator.runtime.clock import LONGEST_GAP_US, SteadyClock, after_takeover
from orchestrator.session import REDUCER_VERSION, reducer
from orchestrator.session.evolve import fold
from orchestrator.session.policy import Policy
from orchestrator.session.state import State
from orchestrator.simulation.context import LONGEST_DELAY_US, NO_FAULTS, SERVER, SimulationContext
from orchestrator.simulation.faults import Faults
from orchestrator.simulation.owner import Owner
from orchestrator.simulation.steps import HeardPosition, Moment, Seen

HOUR_US = 3_600_000_000
PUNCTUAL_US = 100_000
UNCONFIRMED_US = 1_100_000
"""Longest audio that a new owner may repeat: the time since the last confirmed position."""


STEPS = 1_500
"""Limit of steps in a conversation; more mean that it never ends."""


class BrokenReducerError(AssertionError):
    """The reducer raised, or the conversation did not end within STEPS."""


class World(SimulationContext):
    """Everything except the user. Injects the faults of `faults` until `calm` is called."""

    def __init__(self, seed: int, policy: Policy, faults: Faults) -> None:
        super().__init__(seed, policy, faults)
        self.log: list[Event] = []
        self.log_us = 0
        """When the last step was committed."""
        self.seen: list[Seen] = []
        self.arrived: list[Input] = []
        """Every input that an owner took from the inbox, including duplicates."""
        self.listener: Callable[[Event], None] = lambda _: None
        """Called with each committed event."""
        self.observer: Callable[[Seen], None] = lambda _: None
        """Called with each step, before `listener` gets its events."""
        self.owner_lost: Callable[[], None] = lambda: None
        self.call_lost: Callable[[], None] = lambda: None
        self._state = State()
        self.unlike_its_log: list[int] = []
        """Versions at which a new owner, which folds the log, would have had another state than the old owner."""
        self._committed_us = 0
        """The server's wall clock at the last commit."""
        self._clock = SteadyClock(self.wall_us("node-1"), self._real_us)
        self.owner: Owner | None = Owner(self, 1, self._clock)
        self._owners = 1
        self._set_us = 0
        self._is_server_set = False
        """Whether the server's clock was set after the last commit."""
        self._excused_us = 2 * LONGEST_DELAY_US if faults.delays else PUNCTUAL_US
        self._dead_letters: set[str] = set()
        self._backlog: list[Input] = []
        self._crash_next = False

    def calm(self) -> None:
        """Stop injecting faults."""
        self.faults = NO_FAULTS
        self.second_ear = 0.0
        self._crash_next = False

    def change_owner(self, how: str) -> None:
        """Remove the owner (`how`: handover, crash or zombie), and schedule the takeover by a new owner."""
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
            ends = old.hand_over if chance.random() < 0.5 else old.die  # it notices the loss, or never does
            goes_on_us = chance.randrange(3_000_000)
            self.time.after(goes_on_us, ends)
        gap_us = chance.randrange(10_000, 2_000_000)
        self._excused_us += gap_us
        self.doubt(UNCONFIRMED_US + gap_us + goes_on_us, self.time.now_us + gap_us + goes_on_us)
        self.time.after(gap_us, self._take_over)
        self.owner_lost()

    def crash_between_commit_and_effects(self) -> None:
        """Crash the owner after its next commit with commands, before it carries them out."""
        self._crash_next = True

    def _real_us(self) -> int:
        return self.time.now_us

    def step_clock(self, node: str) -> None:
        """Set the wall clock of a node, or of the server, by seconds or by an hour, forward or back."""
        chance = self.chance("clock")
        step_us = chance.choice((chance.randrange(1, 5_000_000), 20_000_000, HOUR_US)) * chance.choice((-1, 1))
        self.wall_off_us[node] = self.wall_off_us.get(node, 0) + step_us
        self._is_server_set |= node == SERVER
        whose = "server's clock" if node == SERVER else "clock"
        self.marks.add(f"{whose} went back" if step_us < 0 else f"{whose} went forward")

    def is_asked_by_the_turn(self, key: str) -> bool:
        """Whether a turn waits for the answer to the question with this idempotency key."""
        asked = self._state.outstanding("AnswerQuestion")
        return self._state.task is not None and any(command.idempotency_key == key for command in asked)

    def take(self, event: Input) -> None:
        """Take an arrived event: the owner handles it, or it waits for the next owner."""
        if self.owner is None:
            self._backlog.append(event)
        else:
            self._handle(self.owner, event)

    def _take_over(self) -> None:
        """Create a new owner. It handles the waiting events at once; its SESSION_RESUMED arrives behind them."""
        self._owners += 1
        if fold(self.log) != self._state:
            self.unlike_its_log.append(len(self.log))
        if self.happens("clock_jumps"):  # each node has a clock of its own
            self.step_clock(f"node-{self._owners}")
        if self._is_server_set:  # the log's time jumps with the server's clock, up to LONGEST_GAP_US
            self._set_us += LONGEST_GAP_US
            self.doubt(LONGEST_GAP_US, self.time.now_us + LONGEST_GAP_US)
            self.marks.add("server's clock set between two owners")
        server = SteadyClock(self.wall_us(), self._real_us)
        self.owner = Owner(
            self, self._owners, after_takeover(self._state.at_us, self._committed_us, server, self._real_us)
        )
        for _ in range(1 + self.happens("repeats")):
            self.say(self.owner.node, "shard", SessionResumed, reducer_version=REDUCER_VERSION)
        backlog, self._backlog = self._backlog, []
        for event in backlog:
            self.take(event)  # the new owner may be lost on the way, too

    def _handle(self, owner: Owner, event: Input) -> None:
        """Decide, commit and carry out, as a shard does. It passes over the SESSION_RESUMED of an earlier owner."""
        if isinstance(event, SessionResumed) and event.producer.partition(":")[0] != owner.node:
            self.marks.add("takeover by an earlier owner")
            return
        stamped = event.replace(at_us=owner.clock.now_us(), incarnation=owner.incarnation)
        try:
            step = reducer.reduce(self._state, stamped)
        except Exception as error:
            raise BrokenReducerError(f"{event.type} raised {type(error).__name__}: {error}") from error  # type: ignore[attr-defined]
        if len(self.seen) == STEPS:
            raise BrokenReducerError(f"{STEPS} steps, and no end")
        if step.events and not step.state.session_id:
            self._dead_letters.add(event.event_id)  # no session is open yet, so no log can keep the event
            return
        if step.events or event.event_id not in self._dead_letters:
            self.arrived.append(event)
        if not step.events:
            self.marks.add(f"duplicate {event.type}")  # type: ignore[attr-defined]
            return
        self._state, client_id = step.state, owner.client_id
        self.given = step.state.texts
        self.journal.hear(step.events)
        self.log += step.events
        self.log_us = self.time.now_us
        self._committed_us, self._is_server_set = self.wall_us(), False
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
        seen = Seen(
            logged,
            tuple(said),
            commands,
            self.time.now_us,
            self._excused_us,
            moment,
            client_id,
            self._set_us,
            heard,
        )
        self.seen.append(seen)
        self.observer(seen)
        for committed in step.events:
            self.listener(committed)

    def _heard_of_what_ends(self, events: tuple[Event, ...]) -> HeardPosition | None:
        for event in events:
            if isinstance(event, AnswerEnded):
                return self.heard(event.playback_id)
        return None
