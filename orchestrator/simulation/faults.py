"""The faults of a simulated conversation, each with a rate between 0 and 1 that is drawn for each seed."""

from dataclasses import dataclass, fields
from random import Random

RATES = (0.0, 0.0, 0.05, 0.15, 0.4)


@dataclass(frozen=True, slots=True)
class Faults:
    """The rate of each fault. Without arguments there are no faults."""

    clock_jumps: float = 0.0
    """The owner's wall clock, or that of Redis, is set by seconds or by an hour; nodes have different clocks."""
    commit_then_crash: float = 0.0
    """Share of the crashes that happen between the commit of a step and the effects of its commands."""
    crashes: float = 0.0
    """The owner dies: its effects, its connections and its unsent events are lost."""
    delays: float = 0.0
    """An append takes up to three seconds, and the producer's later events wait behind it."""
    duplicates: float = 0.0
    """An append is sent again: the same event arrives twice."""
    failures: float = 0.0
    """A service fails; synthesis may also fail in the middle."""
    handler_losses: float = 0.0
    """The media connection ends by itself."""
    handovers: float = 0.0
    """The owner hands the shard over by a graceful shutdown."""
    late_results: float = 0.0
    """A result arrives although its effect was cancelled just before."""
    lost_confirmations: float = 0.0
    """The end of a playback is never reported, or only by a timer."""
    lost_results: float = 0.0
    """A service never answers."""
    mislabelled: float = 0.0
    """A result names its command but another playback or timer, or has a type that does not answer the command."""
    nonsense: float = 0.0
    """Unexpected inputs, about playbacks, timers or clients that never existed or are gone."""
    repeats: float = 0.0
    """A result is sent again, as a new event."""
    slowness: float = 0.0
    """A service takes ten times as long."""
    zombies: float = 0.0
    """The owner has lost the shard and has not noticed: its effects run for a while beside those of the new owner."""

    @classmethod
    def drawn(cls, chance: Random) -> "Faults":
        """Draw a rate for each fault. Some seeds have many faults, some few or none."""
        share = chance.choice((0.0, 0.3, 1.0, 1.0))
        drawn = {field.name: (chance.random() < share, chance.choice(RATES)) for field in fields(cls)}
        return cls(**{name: rate if is_there else 0.0 for name, (is_there, rate) in drawn.items()})
