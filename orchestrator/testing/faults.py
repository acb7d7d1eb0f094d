"""What goes wrong in a simulated conversation, and how often: rates between 0 and 1, drawn anew for each seed."""

from dataclasses import dataclass, fields
from random import Random

RATES = (0.0, 0.0, 0.05, 0.15, 0.4)


@dataclass(frozen=True, slots=True)
class Faults:
    """Without arguments: nothing goes wrong."""

    clock_jumps: float = 0.0
    """The clock of the owner goes forward or back by seconds; what outside producers observed is nonsense."""
    commit_then_crash: float = 0.0
    """Of the crashes: between the commit of a step and the effects of its commands."""
    crashes: float = 0.0
    """The owner dies: its effects, its connections and what it had not appended yet are gone."""
    delays: float = 0.0
    """An append takes up to three seconds, and the rest of its producer waits behind it."""
    duplicates: float = 0.0
    """An append is sent again: the same event arrives twice."""
    failures: float = 0.0
    """A service fails, a synthesis in its middle, too."""
    handler_losses: float = 0.0
    """The media connection ends by itself."""
    handovers: float = 0.0
    """The owner gives the shard back in good order."""
    late_results: float = 0.0
    """A result was on its way when its effect was cancelled."""
    lost_confirmations: float = 0.0
    """Nobody says that a playback ended."""
    lost_results: float = 0.0
    """A service never answers."""
    mislabelled: float = 0.0
    """A result names the right command and another playback or timer, or is of a kind that the command cannot have."""
    nonsense: float = 0.0
    """Inputs that nobody expects: about things that never were, or that are over."""
    repeats: float = 0.0
    """A result is said again, as a new event."""
    slowness: float = 0.0
    """A service takes ten times as long."""
    zombies: float = 0.0
    """The owner has lost the shard and does not know it yet: its effects go on for a while beside the new owner's."""

    @classmethod
    def drawn(cls, chance: Random) -> "Faults":
        """Some faults, some of them often; in some worlds few, or none."""
        share = chance.choice((0.0, 0.3, 1.0, 1.0))
        drawn = {field.name: (chance.random() < share, chance.choice(RATES)) for field in fields(cls)}
        return cls(**{name: rate if is_there else 0.0 for name, (is_there, rate) in drawn.items()})
