"""The world around one simulated session: virtual time, an inbox with order per producer, owners that change."""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

from events.envelope import Event, Input
from events.inputs import SessionResumed
from orchestrator.session import REDUCER_VERSION, reducer
from orchestrator.session.policy import Policy
from orchestrator.session.state import State
from orchestrator.testing.faults import Faults
from orchestrator.testing.simulated_owner import Owner
from orchestrator.testing.simulated_steps import Moment, Seen

START_US = 1_000_000_000
LONGEST_DELAY_US = 3_000_000
NO_FAULTS = Faults()


class BrokenReducerError(AssertionError):
    """The reducer raised; it must never."""


class VirtualTime:
    """Things that are due, in order; time jumps from one to the next."""

    def __init__(self) -> None:
        self.now_us = START_US
        self._due: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, delay_us: int, do: Callable[..., None], *args: Any) -> None:
        """Do something later; of two things due at once, the one that was named first comes first."""
        self._count += 1
        heappush(self._due, (self.now_us + delay_us, self._count, do, args))

    def run(self, until: Callable[[], bool], limit_us: int) -> None:
        """Go on until the condition holds, nothing is due any more, or so much time has passed."""
        end_us = self.now_us + limit_us
        due = self._due
        while due and due[0][0] <= end_us and not until():
            self.now_us, _, do, args = heappop(due)
            do(*args)


class _Entry:
    """An event on its way into the inbox."""

    __slots__ = ("event", "lost")

    def __init__(self, event: Input) -> None:
        self.event = event
        self.lost = False


class _Producer:
    """One ordered queue into the inbox, stop-and-wait: what was said first arrives first."""

    __slots__ = ("arrives_us", "in_flight", "name", "node", "sequence")

    def __init__(self, name: str, node: str) -> None:
        self.name = name
        self.node = node
        self.sequence = 0
        self.arrives_us = 0
        self.in_flight: deque[_Entry] = deque()


class World:
    """Everything but the user. What it did wrong on purpose is in `faults`, until `calm`."""

    def __init__(self, seed: int, policy: Policy, faults: Faults) -> None:
        self.chance = Random(seed)
        self.time = VirtualTime()
        self.policy = policy
        self.faults = faults
        self.session_id = f"auto_session_{seed}"
        self.log: list[Event] = []
        self.seen: list[Seen] = []
        self.arrived: list[Input] = []
        """Every input that an owner took from the inbox, repetitions too."""
        self.marks: set[str] = set()
        self.listener: Callable[[Event], None] = lambda _: None
        """Told of each committed event, as a client is."""
        self.owner_lost: Callable[[], None] = lambda: None
        self.owner: Owner | None = Owner(self, 1)
        self.scripts: dict[str, list[int]] = {}
        """How long the chunks of each playback are, in milliseconds: the same however often it is synthesised."""
        self.ahead_us = self.chance.choice((500_000, 500_000, 10_000_000))
        """How far synthesis may be ahead of playback."""
        self.patient = self.chance.random() < 0.5
        """An answer waits a while for somebody who hears it."""
        self._state = State()
        self._owners = 1
        self._excused_us = 2 * LONGEST_DELAY_US
        self._offsets_us: dict[str, int] = {}
        self._producers: dict[str, _Producer] = {}
        self._one_producer = self.chance.random() < 0.4
        """All parts of a node append through one queue, as they do in the service; else each has its own."""
        self._dead_letters: set[str] = set()
        self._backlog: list[Input] = []
        self._crash_next = False

    def happens(self, rate: float) -> bool:
        """Whether something that goes wrong so often goes wrong now."""
        return rate > 0 and self.chance.random() < rate

    def calm(self) -> None:
        """From now on nothing goes wrong any more."""
        self.faults = NO_FAULTS
        self._crash_next = False

    def say(self, node: str, part: str, kind: type[Input], **fields: Any) -> None:
        """A part of a node appends an event to the inbox."""
        name = node if self._one_producer else f"{node}:{part}"
        producer = self._producers.get(name) or self._producers.setdefault(name, _Producer(name, node))
        producer.sequence += 1
        event = kind(
            event_id=f"{name}:{producer.sequence}",
            observed_at_us=self._observed_us(node),
            producer=name,
            producer_seq=producer.sequence,
            session_id=self.session_id,
            **fields,
        )
        entry = _Entry(event)
        producer.in_flight.append(entry)
        producer.arrives_us = max(producer.arrives_us, self.time.now_us + self._latency_us())
        self.time.after(producer.arrives_us - self.time.now_us, self._arrive, entry, producer)
        if self.happens(self.faults.duplicates):
            again_us = producer.arrives_us - self.time.now_us + self.chance.randrange(2_000_000)
            self.time.after(again_us, self._arrive_again, entry)

    def say_unnumbered(self, number: int, kind: type[Input], **fields: Any) -> None:
        """An outside producer without a sequence says something through the ingress, which gives it an id."""
        observed_us = self.chance.randrange(2 * START_US)
        event = kind(event_id=f"ingress:{number}", observed_at_us=observed_us, session_id=self.session_id, **fields)
        entry = _Entry(event)
        latency_us = self._latency_us()
        self.time.after(latency_us, self._arrive, entry, None)
        if self.happens(self.faults.duplicates):
            self.time.after(latency_us + self.chance.randrange(2_000_000), self._arrive_again, entry)

    def change_owner(self, how: str) -> None:
        """The owner goes (`handover`, `crash`, `zombie`), and after a while another one comes."""
        old = self.owner
        if old is None:
            return
        self.marks.add(f"owner lost by {how}")
        self.owner = None
        if how == "crash":
            self._lose_what_was_not_appended(old.node)
            old.die()
        elif how == "handover":
            old.hand_over()
        else:
            ends = old.hand_over if self.chance.random() < 0.5 else old.die  # it notices, or it never does
            self.time.after(self.chance.randrange(3_000_000), ends)
        gap_us = self.chance.randrange(10_000, 2_000_000)
        self._excused_us += gap_us
        self.time.after(gap_us, self._take_over)
        self.owner_lost()

    def crash_between_commit_and_effects(self) -> None:
        """The next step is committed, and nobody carries it out."""
        self._crash_next = True

    def jump_clock(self) -> None:
        """The owner's clock is set, by seconds, in either direction."""
        if self.owner is not None:
            jump_us = self.chance.randrange(-5_000_000, 5_000_000)
            self.owner.offset_us += jump_us
            self._offsets_us[self.owner.node] = self.owner.offset_us
            self._excused_us += abs(jump_us)
            self.marks.add("clock went back" if jump_us < 0 else "clock went forward")

    def _observed_us(self, node: str) -> int:
        """The clock of the node, also of one that has lost the session."""
        return max(0, self.time.now_us + self._offsets_us.get(node, 0))

    def _latency_us(self) -> int:
        if self.happens(self.faults.delays):
            return self.chance.randrange(50_000, LONGEST_DELAY_US)
        return self.chance.randrange(200, 3_000)

    def _lose_what_was_not_appended(self, node: str) -> None:
        """Of each of its queues an end of any length is lost."""
        for producer in self._producers.values():
            if producer.node == node and producer.in_flight:
                kept = self.chance.randrange(len(producer.in_flight) + 1)
                for entry in list(producer.in_flight)[kept:]:
                    entry.lost = True

    def _arrive(self, entry: _Entry, producer: _Producer | None) -> None:
        if producer is not None:
            producer.in_flight.popleft()
        if not entry.lost:
            self._take(entry.event)

    def _arrive_again(self, entry: _Entry) -> None:
        if not entry.lost:
            self._take(entry.event)

    def _take(self, event: Input) -> None:
        if self.owner is None:
            self._backlog.append(event)
        else:
            self._handle(self.owner, event)

    def _take_over(self) -> None:
        """A new owner reads what waits in the inbox, and says that it is there at the end of it."""
        self._owners += 1
        self.owner = Owner(self, self._owners)
        if self.happens(self.faults.clock_jumps):
            self.jump_clock()
        for _ in range(1 + self.happens(self.faults.repeats)):
            self.say(self.owner.node, "shard", SessionResumed, reducer_version=REDUCER_VERSION)
        backlog, self._backlog = self._backlog, []
        for event in backlog:
            self._take(event)  # the new owner may be lost on the way, too

    def _handle(self, owner: Owner, event: Input) -> None:
        """Decide, commit, carry out: as a shard does it."""
        stamped = event.model_copy(update={"at_us": owner.clock_us(), "incarnation": owner.incarnation})
        try:
            step = reducer.reduce(self._state, stamped)
        except Exception as error:
            raise BrokenReducerError(f"{event.type} raised {type(error).__name__}: {error}") from error  # type: ignore[attr-defined]
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
        self.seen.append(Seen(logged, tuple(said), self.time.now_us, self._excused_us, moment, client_id))
        for committed in step.events:
            self.listener(committed)
