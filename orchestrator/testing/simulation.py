"""Runs whole conversations in virtual time, with faults drawn from a seed, and checks what the log says about them.

    python -m orchestrator.testing.simulation --seeds 0:20000 --jobs 2

A seed decides everything, so a violation is found again with `simulate(seed).trace()`. The user and the faults of a
seed are the same under any policy, until a decision differs that they react to:

    patient = Policy(interruption=Interruption(min_words=2))
    for policy in (Policy(), patient):
        runs = [simulate(seed, policy, Faults()) for seed in range(500)]
        print(sum((run.decisions for run in runs), Counter()))
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from random import Random

from events import derived
from events.codec import encode
from events.derived import CommandIssued
from events.envelope import Event, Input
from events.recording import Header, dump, parse
from orchestrator.replay.decisions import decisions
from orchestrator.replay.replay import replay
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.policy import Policy
from orchestrator.testing.checkers import AFTER, BEFORE
from orchestrator.testing.faults import Faults
from orchestrator.testing.log_book import Book, Checker, plain
from orchestrator.testing.simulated_fate import Fate
from orchestrator.testing.simulated_policies import drawn
from orchestrator.testing.simulated_steps import Seen
from orchestrator.testing.simulated_time import START_US
from orchestrator.testing.simulated_user import User
from orchestrator.testing.simulated_world import BrokenReducerError, World
from projections.golden_log import golden

TURNS = 3
LIMIT_US = 400_000_000
"""How long anything may take; longer than every deadline of a session."""
SETTLED_US = 3_500_000
"""A session that has said nothing for so long while it listens waits for its user, and for nothing else."""


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
    """What was done to it that its log does not show."""
    phases: set[str] = field(default_factory=set)

    @property
    def golden(self) -> list[str]:
        return golden(self.log)

    @property
    def decisions(self) -> Counter[str]:
        """What was decided, and how often: to compare the same seeds under two policies."""
        return decisions(self.log)

    def recording(self) -> bytes:
        header = Header(reducer_version=REDUCER_VERSION, story=f"simulated from seed {self.seed}")
        return dump(header, map(encode, self.log))

    def trace(self) -> str:
        """One line per event: the world's time, version, event and what it says; violations where they show."""
        wrong: dict[int, list[Violation]] = {}
        for violation in self.violations:
            wrong.setdefault(violation.version, []).append(violation)
        faults = {name: rate for name, rate in asdict(self.faults).items() if rate}
        lines = [f"seed {self.seed}  faults {faults}", f"policy {self.policy.model_dump(exclude_defaults=True)}"]
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
    policy = policy or drawn(Random(f"{seed}:policy"))  # a text is seeded by its digest, whatever PYTHONHASHSEED is
    run = Simulated(seed, policy, faults or Faults.drawn(Random(f"{seed}:faults")))
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


def _live(world: World, user: User) -> Iterator[str]:
    """The conversation, then calm; the session must come to rest, answer a last utterance, and end when it is due."""
    user.begin()
    world.time.run(lambda: user.has_finished, LIMIT_US)
    world.calm()
    user.falls_silent()
    if user.ending == "stays away":
        user.leave_for_good()
    else:
        _settle(world, user)
        if user.phase != "ENDED":
            user.come_back()
            _settle(world, user)
        if user.phase == "LISTENING":
            yield from _last_words(world, user)
    at_last = "LISTENING" if user.ending != "stays away" else "ENDED"
    if user.ending == "says goodbye":
        user.goodbye()
        at_last = "ENDED"
    _rest(world)
    in_call = world.owner is not None and world.owner.handler is not None
    if world.policy.goodbye.after_ms or (in_call and world.policy.away.text):
        at_last = "ENDED"
    if user.phase not in (at_last, "ENDED"):
        yield f"it rests in {user.phase}, {at_last} is due"
    if user.phase == "ENDED":
        user.knocks_after_the_end()
        _rest(world)


def _last_words(world: World, user: User) -> Iterator[str]:
    """Nothing goes wrong any more: a plain utterance is answered."""
    before = len(world.log)
    words = user.says_last()
    _settle(world, user)
    new = world.log[before:]
    heard = [n for n, e in enumerate(new) if isinstance(e, derived.TurnStarted) and plain(e.text) == plain(words)]
    since = new[heard[0] :] if heard else []
    ended = [event.outcome for event in since if isinstance(event, derived.AnswerEnded | derived.TurnEnded)]
    reasons = ("time_limit", "user_away")  # it was said too late
    was_time = any(isinstance(event, derived.SessionEnded) and event.reason in reasons for event in new)
    if ended[:2] != ["finished", "completed"] and not was_time:
        yield f"{words!r} was heard {len(heard)} times and answered {ended}; it rests in {user.phase}"


def _rest(world: World) -> None:
    world.time.run(lambda: False, LIMIT_US)


def _settle(world: World, user: User) -> None:
    """Until the session has been listening for a while, and nobody speaks; or until it has ended."""
    end_us, since_us = world.time.now_us + LIMIT_US, world.time.now_us
    while user.phase != "ENDED" and world.time.now_us < end_us:
        waits_us = max(since_us, world.log_us, user.busy_until_us) + SETTLED_US - world.time.now_us
        world.time.after(waits_us, lambda: None)
        world.time.run(lambda: False, waits_us)
        owner = world.owner
        is_silent = owner is None or owner.handler is None or not owner.handler.ear.speaking
        if user.phase == "LISTENING" and is_silent and world.log_us + SETTLED_US <= world.time.now_us:
            return
        since_us = world.time.now_us


def _judge(run: Simulated) -> list[Violation]:
    """Read the log once, and let every checker look at every step."""
    book, violations = Book(), run.violations[:0]
    for step in run.seen:
        violations += _check(BEFORE, book, step)
        book.absorb(step)
        violations += _check(AFTER, book, step)
        run.phases.add(book.phase)
    return violations


def _check(checkers: tuple[tuple[str, Checker], ...], book: Book, step: Seen) -> Iterator[Violation]:
    for invariant, checker in checkers:
        for message in checker(book, step):
            yield Violation(invariant, checker.__name__, step.input.version, message)


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
    recording = parse(run.recording(), f"seed {run.seed}")
    if [*recording.events()] != run.log:
        yield Violation("I-3", "what_is_said_can_be_read_back", len(run.log), "the log is not what was said")
    divergence = replay(recording).divergence
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
