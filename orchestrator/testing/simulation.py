"""Runs whole conversations in virtual time, with faults drawn from a seed, and checks what the log says about them.

    python -m orchestrator.testing.simulation --seeds 0:20000 --jobs 2

A seed decides everything, so a violation is found again with `simulate(seed).trace()`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from events import derived
from events.codec import encode
from events.derived import CommandIssued
from events.envelope import Event, Input
from events.recording import Header, dump, parse
from orchestrator.replay.replay import replay
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.policy import Policy
from orchestrator.testing.checkers import AFTER, BEFORE
from orchestrator.testing.conversation import golden
from orchestrator.testing.faults import Faults
from orchestrator.testing.log_book import Book
from orchestrator.testing.marks import reached
from orchestrator.testing.simulated_fate import Fate
from orchestrator.testing.simulated_steps import Seen
from orchestrator.testing.simulated_user import User
from orchestrator.testing.simulated_world import START_US, BrokenReducerError, World

TURNS = 4
LIMIT_US = 400_000_000
"""How long anything may take; longer than every deadline of a session."""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, and the version of the log where that shows."""

    invariant: str
    checker: str
    version: int
    message: str


@dataclass(slots=True)
class Simulated:
    """A conversation that was simulated."""

    seed: int
    policy: Policy
    faults: Faults
    log: list[Event] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)
    """The rare situations that it went through."""
    phases: set[str] = field(default_factory=set)

    @property
    def golden(self) -> list[str]:
        return golden(self.log)

    def recording(self) -> bytes:
        header = Header(reducer_version=REDUCER_VERSION, story=f"simulated from seed {self.seed}")
        return dump(header, map(encode, self.log))

    def trace(self) -> str:
        """One line per event: the world's time, version, event and what it says; violations where they show."""
        wrong: dict[int, list[Violation]] = {}
        for violation in self.violations:
            wrong.setdefault(violation.version, []).append(violation)
        lines = [f"seed {self.seed}  {self.faults}", f"{self.policy}"]
        for step in self.seen:
            for event in (step.input, *step.said):
                lines.append(_line(event, step.now_us))
                lines += [f"  !! {v.invariant} {v.checker}: {v.message}" for v in wrong.pop(event.version, ())]
        lines += [f"  !! {v.invariant} {v.checker}: {v.message}" for rest in wrong.values() for v in rest]
        return "\n".join(lines)


def simulate(
    seed: int,
    policy: Policy | None = None,
    faults: Faults | None = None,
    turns: int = TURNS,
    *,
    replayed: bool = True,
) -> Simulated:
    """Simulate one conversation and check it. What is not given is drawn from the seed."""
    chance = Random(f"{seed}:setting")  # a string is seeded by its digest, whatever PYTHONHASHSEED is
    drawn = _policy(chance)
    run = Simulated(seed, policy or drawn, faults or Faults.drawn(chance))
    world = World(seed, run.policy, run.faults)
    user, fate = User(world, turns), Fate(world)

    def listen(event: Event) -> None:
        user.notice(event)
        fate.notice(event)

    world.listener, world.owner_lost = listen, user.lost
    run.log, run.seen, run.marks = world.log, world.seen, world.marks
    liveness: list[str] = []
    try:
        liveness += _live(world, user)
    except BrokenReducerError as error:
        run.violations.append(Violation("I-12", "the_reducer_is_total", len(world.log), str(error)))
    run.violations += _judge(run)
    run.violations += [Violation("liveness", "it_comes_to_rest", len(run.log), wrong) for wrong in liveness]
    run.violations += _each_input_once(world)
    if replayed:
        run.violations += _replays(run)
    return run


def _policy(chance: Random) -> Policy:
    """Deadlines that are met as a rule, and missed by what is slow."""
    return Policy.model_validate(
        {
            "deadlines": {
                "answer_ms": chance.choice((1_000, 2_000, 4_000)),
                "intent_ms": chance.choice((600, 1_000)),
                "playback_grace_ms": chance.choice((1_500, 3_000)),
                "reconnect_ms": chance.choice((4_000, 60_000)),
                "tts_ms": chance.choice((800, 3_000)),
            },
            "endpointing": {"delay_ms": chance.choice((0, 250, 800))},
            "filler": {"text": chance.choice(("", "One moment please"))},
            "intent": {"skip": chance.random() < 0.2},
            "interruption": {"pause_ms": chance.choice((0, 50, 400, 400))},
        }
    )


def _live(world: World, user: User) -> Iterator[str]:
    """The conversation, then calm; the session must come to rest, answer a last utterance, and end when asked to."""
    user.begin()
    world.time.run(lambda: user.has_finished, LIMIT_US)
    world.calm()
    if user.phase != "ENDED" and user.ending == "stays away":
        user.leave_for_good()
    _rest(world)
    if user.phase != "ENDED" and user.ending != "stays away":
        user.come_back()
        _rest(world)
    if user.ending == "stays away" and user.phase != "ENDED":
        yield f"nobody is there any more, and the session is still {user.phase}"
    elif user.phase not in ("LISTENING", "ENDED"):
        yield f"it rests in {user.phase}"
    elif user.phase == "LISTENING":
        yield from _last_words(world, user)
    if user.phase == "ENDED":
        user.knocks_after_the_end()
        _rest(world)


def _last_words(world: World, user: User) -> Iterator[str]:
    """Nothing goes wrong any more: a plain utterance is answered, and a goodbye ends the session."""
    before = len(world.log)
    words = user.says_last()
    _rest(world)
    new = world.log[before:]
    heard = [event.text for event in new if isinstance(event, derived.TurnStarted)]
    ended = [event.outcome for event in new if isinstance(event, derived.AnswerEnded | derived.TurnEnded)]
    if heard != [words] or ended != ["finished", "completed"] or user.phase != "LISTENING":
        yield f"{words!r} was heard as {heard} and answered {ended}; it rests in {user.phase}"
    if user.ending == "says goodbye":
        user.goodbye()
        _rest(world)
        if user.phase != "ENDED":
            yield f"a goodbye leaves it in {user.phase}"


def _rest(world: World) -> None:
    world.time.run(lambda: False, LIMIT_US)


def _judge(run: Simulated) -> list[Violation]:
    """Read the log once, and let every checker look at every step."""
    book, violations = Book(), run.violations[:0]
    for step in run.seen:
        run.marks |= reached(book, step)
        for invariant, checker in BEFORE:
            violations += [Violation(invariant, checker.__name__, step.input.version, m) for m in checker(book, step)]
        book.absorb(step)
        for invariant, checker in AFTER:
            violations += [Violation(invariant, checker.__name__, step.input.version, m) for m in checker(book, step)]
        run.phases.add(book.phase)
    return violations


def _each_input_once(world: World) -> Iterator[Violation]:
    """I-5: whatever reached the inbox is in the log once, in the order in which it arrived first."""
    arrived = list(dict.fromkeys(event.event_id for event in world.arrived))
    logged = [event.event_id for event in world.log if isinstance(event, Input)]
    if arrived != logged:
        at = next(
            (i for i, (one, other) in enumerate(zip(arrived, logged, strict=False)) if one != other), len(arrived)
        )
        message = f"input {at + 1} of {len(arrived)} that arrived, {len(logged)} are logged"
        yield Violation("I-5", "each_input_once", 0, message)


def _replays(run: Simulated) -> Iterator[Violation]:
    """I-3: a replay of the recording says every event again, byte for byte."""
    if not run.log:
        return
    divergence = replay(parse(run.recording(), f"seed {run.seed}")).divergence
    if divergence is not None:
        message = f"recorded {divergence.recorded!r}, replayed {divergence.replayed!r}"
        yield Violation("I-3", "a_replay_is_equal", divergence.line - 1, message)


def _line(event: Event, now_us: int) -> str:
    """One event, short."""
    head = f"{(now_us - START_US) / 1e6:9.3f} {event.version:4}"
    fields = {name: value for name, value in event.model_dump(exclude_defaults=True).items() if name not in _UNTOLD}
    said = " ".join(f"{name}={str(value)[:60]}" for name, value in fields.items())
    if isinstance(event, CommandIssued):
        return f"{head}         {event.name}({event.target}) {said}"
    if isinstance(event, Input):
        return f"{head} {event.type} {said}"  # type: ignore[attr-defined]
    return f"{head}      {event.type} {said}"  # type: ignore[attr-defined]


_UNTOLD = {
    *("at_us", "epoch", "event_id", "idempotency_key", "name", "observed_at_us", "producer", "producer_seq"),
    *("schema_version", "session_id", "state_hash", "target", "turn", "type", "version", "policy", "incarnation"),
}

if __name__ == "__main__":
    from orchestrator.testing.simulation_runs import main

    raise SystemExit(main())
