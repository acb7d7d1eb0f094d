"""What all parts of a simulated world stand in: virtual time, chance by purpose, and the ways into the inbox."""

from collections import deque
from dataclasses import fields as fields_of
from random import Random
from typing import Any

from events.envelope import Input
from orchestrator.session.policy import Policy
from orchestrator.testing.faults import Faults
from orchestrator.testing.simulated_player import Track
from orchestrator.testing.simulated_steps import Heard
from orchestrator.testing.simulated_time import START_US, VirtualTime

LONGEST_DELAY_US = 3_000_000
LATENCY_US = 3_000
NO_FAULTS = Faults()
REPEATED_CHUNK_MS = 1_600
"""Speech that is made anew begins with a whole chunk, which may have been heard in part before."""


class Entry:
    """An event on its way into the inbox."""

    __slots__ = ("event", "lost")

    def __init__(self, event: Input) -> None:
        self.event = event
        self.lost = False


class Producer:
    """One ordered queue into the inbox, stop-and-wait: what was said first arrives first."""

    __slots__ = ("arrives_us", "in_flight", "name", "node", "sequence")

    def __init__(self, name: str, node: str) -> None:
        self.name = name
        self.node = node
        self.sequence = 0
        self.arrives_us = 0
        self.in_flight: deque[Entry] = deque()


class Surroundings:
    """Time, chance, producers and what was heard. Who owns the session, and decides, is the world's business."""

    def __init__(self, seed: int, policy: Policy, faults: Faults) -> None:
        self.time = VirtualTime()
        self.policy = policy
        self.faults = faults
        self.session_id = f"auto_session_{seed}"
        self.marks: set[str] = set()
        self.played: dict[str, tuple[Track, int, int]] = {}
        """Playback → where it is played now, from which position on, and when it began first."""
        self.scripts: dict[str, list[int]] = {}
        """How long the chunks of each text are, in milliseconds: the same however often it is synthesised."""
        self.offsets_us: dict[str, int] = {}
        """How wrong the clock of each node is."""
        self._seed = seed
        self._streams: dict[str, Random] = {}
        self._producers: dict[str, Producer] = {}
        self._doubts: list[tuple[int, int]] = []
        setting = self.chance("setting")
        self.ahead_us = setting.choice((500_000, 500_000, 10_000_000))
        """How far synthesis may be ahead of playback."""
        self.patient = setting.random() < 0.5
        """An answer waits a while for somebody who hears it."""
        self.tells_words = setting.random() < 0.5
        """The synthesiser says when each word begins."""
        self.second_ear = setting.choice((0.0, 0.0, 0.5))
        """How often an outside service reports a final, too."""
        self.tells_noise = setting.random() < 0.7
        """The recogniser gives an empty final where it understood nothing; else none."""
        self._one_producer = setting.random() < 0.4
        """All parts of a node append through one queue, as they do in the service; else each has its own."""

    def chance(self, purpose: str) -> Random:
        """The random numbers for one purpose: whatever else happens, they are the same for the same seed."""
        stream = self._streams.get(purpose)
        if stream is None:  # a text is seeded by its digest, whatever PYTHONHASHSEED is
            stream = self._streams[purpose] = Random(f"{self._seed}:{purpose}")
        return stream

    def happens(self, fault: str, share: float = 1.0) -> bool:
        """Whether a fault that happens so often happens now."""
        rate: float = getattr(self.faults, fault) * share
        return rate > 0 and self.chance(_FAULT[fault]).random() < rate

    def take(self, event: Input) -> None:
        """An event has arrived in the inbox."""
        raise NotImplementedError

    def say(self, node: str, part: str, kind: type[Input], **fields: Any) -> None:
        """A part of a node appends an event to the inbox."""
        name = node if self._one_producer else f"{node}:{part}"
        producer = self._producers.get(name) or self._producers.setdefault(name, Producer(name, node))
        producer.sequence += 1
        event = kind(
            event_id=f"{name}:{producer.sequence}",
            observed_at_us=max(0, self.time.now_us + self.offsets_us.get(node, 0)),
            producer=name,
            producer_seq=producer.sequence,
            session_id=self.session_id,
            **fields,
        )
        entry = Entry(event)
        producer.in_flight.append(entry)
        producer.arrives_us = max(producer.arrives_us, self.time.now_us + self._latency_us(part))
        after_us = producer.arrives_us - self.time.now_us
        if after_us > LATENCY_US:
            self.doubt(after_us, producer.arrives_us)
        self.time.after(after_us, self._arrive, entry, producer)
        if self.happens("duplicates"):
            self.time.after(after_us + self.chance("duplicate").randrange(2_000_000), self._arrive_again, entry)

    def say_unnumbered(self, number: int, kind: type[Input], **fields: Any) -> None:
        """An outside producer without a sequence says something through the ingress, which gives it an id."""
        chance = self.chance("ingress")
        event = kind(
            event_id=f"ingress:{number}",
            observed_at_us=chance.randrange(2 * START_US),
            session_id=self.session_id,
            **fields,
        )
        entry = Entry(event)
        latency_us = self._latency_us("ingress")
        self.time.after(latency_us, self._arrive, entry, None)
        if self.happens("duplicates"):
            self.time.after(latency_us + chance.randrange(2_000_000), self._arrive_again, entry)

    def lose_what_was_not_appended(self, node: str) -> None:
        """Of each of its queues an end of any length is lost."""
        for producer in self._producers.values():
            if producer.node == node and producer.in_flight:
                kept = self.chance("lost tail").randrange(len(producer.in_flight) + 1)
                for entry in list(producer.in_flight)[kept:]:
                    entry.lost = True

    # What was heard of the agent.

    def plays(self, playback_id: str, track: Track, from_ms: int) -> None:
        """A playback begins, or goes on in another place."""
        began_us = self.played[playback_id][2] if playback_id in self.played else self.time.now_us
        self.played[playback_id] = (track, from_ms, began_us)
        if from_ms:
            self.doubt(1000 * REPEATED_CHUNK_MS, self.time.now_us)

    def doubt(self, by_us: int, until_us: int) -> None:
        """Until then the session may be wrong by so much about what was heard."""
        self._doubts.append((until_us, by_us))

    def heard(self, playback_id: str) -> Heard | None:
        """The truth about a playback, and how far it can be known."""
        if playback_id not in self.played:
            return None
        track, from_ms, began_us = self.played[playback_id]
        doubt_us = sum(by_us for until_us, by_us in self._doubts if until_us >= began_us) + track.gaps_us
        return Heard(from_ms + track.position_us() // 1000, doubt_us // 1000)

    def _latency_us(self, part: str) -> int:
        if self.happens("delays"):
            return self.chance("delay").randrange(50_000, LONGEST_DELAY_US)
        return self.chance(part).randrange(200, LATENCY_US)

    def _arrive(self, entry: Entry, producer: Producer | None) -> None:
        if producer is not None:
            producer.in_flight.popleft()
        if not entry.lost:
            self.take(entry.event)

    def _arrive_again(self, entry: Entry) -> None:
        if not entry.lost:
            self.take(entry.event)


_FAULT: dict[str, str] = {field.name: f"fault:{field.name}" for field in fields_of(Faults)}
