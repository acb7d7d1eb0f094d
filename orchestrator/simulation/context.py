"""The base of a simulated world: virtual time, random numbers by purpose, and the producers' queues into the inbox."""

from collections import deque
from dataclasses import fields as fields_of
from random import Random
from typing import Any

from events.envelope import Input
from events.inputs import BargeIn
from orchestrator.runtime.clock import SteadyClock
from orchestrator.session.journal import Journal
from orchestrator.session.policy import Policy
from orchestrator.simulation.faults import Faults
from orchestrator.simulation.player import Track
from orchestrator.simulation.steps import HeardPosition
from orchestrator.simulation.virtual_time import START_US, VirtualTime
from orchestrator.simulation.words import SCRIPTS, written

LONGEST_DELAY_US = 3_000_000
LATENCY_US = 3_000
NO_FAULTS = Faults()
SERVER = ""
"""Stands for the Redis server among the nodes."""


class QueuedInput:
    """An event on its way into the inbox."""

    __slots__ = ("event", "lost")

    def __init__(self, event: Input) -> None:
        self.event = event
        self.lost = False


class Producer:
    """One ordered queue into the inbox, stop-and-wait: events arrive in the order in which they were sent."""

    __slots__ = ("arrives_us", "in_flight", "name", "node", "sequence")

    def __init__(self, name: str, node: str) -> None:
        self.name = name
        self.node = node
        self.sequence = 0
        self.arrives_us = 0
        self.in_flight: deque[QueuedInput] = deque()


class SimulationContext:
    """Time, chance, producers and heard audio. The subclass World adds owners and decisions."""

    def __init__(self, seed: int, policy: Policy, faults: Faults) -> None:
        self.time = VirtualTime()
        self.policy = policy
        self.faults = faults
        self.session_id = f"auto_session_{seed}"
        self.marks: set[str] = set()
        self.played: dict[str, tuple[Track, int, int]] = {}
        """Playback → (current track, first position of the track in ms, world time when the playback first began)."""
        self.scripts: dict[str, list[int]] = {}
        """Text → lengths of its chunks in milliseconds, the same each time the text is synthesised."""
        self.understood = ""
        """The text of the recogniser's last final."""
        self.clocks: dict[str, SteadyClock] = {}
        """Node → its clock for the time of the session's log."""
        self.wall_off_us: dict[str, int] = {}
        """Node, or SERVER → error of its wall clock."""
        self._seed = seed
        self._streams: dict[str, Random] = {}
        self._producers: dict[str, Producer] = {}
        self._doubts: list[tuple[int, int]] = []
        setting = self.chance("setting")
        self.ahead_us = setting.choice((500_000, 500_000, 10_000_000))
        """How far ahead of playback synthesis may be."""
        self.hiccups = setting.random() < 0.5
        """Whether lost connections usually return within 100 ms, and lost calls are set up again."""
        self.tells_words = setting.random() < 0.5
        """Whether the synthesiser reports when each word begins."""
        self.writes = self.chance("writing").random() < 0.4
        """Whether the answer service gives its answers in texts, as a language model writes them."""
        self.acts = self.chance("acting").random() < 0.4
        """Whether the agent calls tools before it answers some questions."""
        self.is_hasty = self.chance("haste").random() < 0.3
        """Whether it calls them in a guess, too."""
        self.journal = Journal()
        """The agent's committed work on the current question."""
        self.given: tuple[str, ...] = ()
        """The texts of the current answer that are committed."""
        self.second_ear = setting.choice((0.0, 0.0, 0.5))
        """Probability that an outside service reports a final, too."""
        self.tells_noise = setting.random() < 0.7
        """Whether the recogniser gives an empty final if it understood nothing; otherwise it gives none."""
        self._script = self.chance("script").choice([*SCRIPTS])
        self._one_producer = setting.random() < 0.4
        """Whether all parts of a node append through one queue, as in the service; otherwise each has its own."""

    def chance(self, purpose: str) -> Random:
        """The random numbers for one purpose. They depend only on the seed and the purpose."""
        stream = self._streams.get(purpose)
        if stream is None:  # Random hashes a text seed itself, independent of PYTHONHASHSEED
            stream = self._streams[purpose] = Random(f"{self._seed}:{purpose}")
        return stream

    def happens(self, fault: str, share: float = 1.0) -> bool:
        """Whether a fault happens now: drawn with its rate times `share`."""
        rate: float = getattr(self.faults, fault) * share
        return rate > 0 and self.chance(_FAULT[fault]).random() < rate

    def wall_us(self, node: str = SERVER) -> int:
        """The wall clock of a node, or of the server."""
        return self.time.now_us + self.wall_off_us.get(node, 0)

    def is_asked_by_the_turn(self, key: str) -> bool:
        """Whether a turn waits for the answer to the question with this idempotency key."""
        raise NotImplementedError

    def take(self, event: Input) -> None:
        """Take an event that has arrived in the inbox. Called once per arrival, duplicates included."""
        raise NotImplementedError

    def written(self, text: str) -> str:
        """The user's words, written in the script of this seed."""
        return written(text, self._script)

    def crowd(self, size: int) -> None:
        """Let `size` producers send one event each. Then the first sends its event again, as after a lost reply."""
        first = self.say("worker-0", "stt", BargeIn, playback_id="answer-99")
        for number in range(1, size):
            self.say(f"worker-{number}", "stt", BargeIn, playback_id="answer-99")
        self.time.after(LONGEST_DELAY_US + LATENCY_US, self._arrive_again, first)
        self.marks.add("more producers than a call has" if size > 32 else "many producers")

    def say(self, node: str, part: str, kind: type[Input], **fields: Any) -> QueuedInput:
        """Append an event to the inbox, from a part of a node. It arrives after the queue's latency."""
        name = node if self._one_producer else f"{node}:{part}"
        producer = self._producers.get(name) or self._producers.setdefault(name, Producer(name, node))
        producer.sequence += 1
        event = kind(
            event_id=f"{name}:{producer.sequence}",
            observed_at_us=self.clocks[node].now_us() if node in self.clocks else self.wall_us(node),
            producer=name,
            producer_seq=producer.sequence,
            session_id=self.session_id,
            **fields,
        )
        queued = QueuedInput(event)
        producer.in_flight.append(queued)
        resumed = self._producers.get(f"{node}:shard")  # a node's queue is one: its SESSION_RESUMED is the first in it
        resumed_us = resumed.arrives_us if resumed else 0
        producer.arrives_us = max(producer.arrives_us, resumed_us, self.time.now_us + self._latency_us(part))
        after_us = producer.arrives_us - self.time.now_us
        if after_us > LATENCY_US:
            self.doubt(after_us, producer.arrives_us)
        self.time.after(after_us, self._arrive, queued, producer)
        if self.happens("duplicates"):
            self.time.after(after_us + self.chance("duplicate").randrange(2_000_000), self._arrive_again, queued)
        return queued

    def say_unnumbered(self, number: int, kind: type[Input], **fields: Any) -> None:
        """Send an event from an outside producer without a sequence, through the ingress, which gives it an id."""
        chance = self.chance("ingress")
        event = kind(
            event_id=f"ingress:{number}",
            observed_at_us=chance.randrange(2 * START_US),
            session_id=self.session_id,
            **fields,
        )
        queued = QueuedInput(event)
        latency_us = self._latency_us("ingress")
        self.time.after(latency_us, self._arrive, queued, None)
        if self.happens("duplicates"):
            self.time.after(latency_us + chance.randrange(2_000_000), self._arrive_again, queued)

    def lose_what_was_not_appended(self, node: str) -> None:
        """Lose a random number of the last inputs in each queue of the node."""
        for producer in self._producers.values():
            if producer.node == node and producer.in_flight:
                kept = self.chance("lost tail").randrange(len(producer.in_flight) + 1)
                for queued in list(producer.in_flight)[kept:]:
                    queued.lost = True

    # Audio that the user heard.

    def plays(self, playback_id: str, track: Track, from_ms: int) -> None:
        """Record that a playback begins, or continues on another track."""
        began_us = self.time.now_us
        if playback_id in self.played:
            before, _, began_us = self.played[playback_id]
            self.doubt(before.gaps_us, self.time.now_us)
        self.played[playback_id] = (track, from_ms, began_us)

    def doubt(self, by_us: int, until_us: int) -> None:
        """Allow the session's heard position to be wrong by `by_us`, for playbacks that begin by `until_us`."""
        self._doubts.append((until_us, by_us))

    def heard(self, playback_id: str) -> HeardPosition | None:
        """The true position of a playback, with its uncertainty; None: it never began."""
        if playback_id not in self.played:
            return None
        track, from_ms, began_us = self.played[playback_id]
        doubt_us = sum(by_us for until_us, by_us in self._doubts if until_us >= began_us) + track.gaps_us
        return HeardPosition(from_ms + track.position_us() // 1000, doubt_us // 1000)

    def _latency_us(self, part: str) -> int:
        if self.happens("delays"):
            return self.chance("delay").randrange(50_000, LONGEST_DELAY_US)
        return self.chance(part).randrange(200, LATENCY_US)

    def _arrive(self, queued: QueuedInput, producer: Producer | None) -> None:
        if producer is not None:
            producer.in_flight.popleft()
        if not queued.lost:
            self.take(queued.event)

    def _arrive_again(self, queued: QueuedInput) -> None:
        if not queued.lost:
            self.take(queued.event)


_FAULT: dict[str, str] = {field.name: f"fault:{field.name}" for field in fields_of(Faults)}
