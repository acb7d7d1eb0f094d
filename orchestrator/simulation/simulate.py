"""Runs whole conversations in virtual time, with faults drawn from a seed: `simulate()`.

A seed determines everything, so `simulate(seed).trace()` shows a conversation again. The user and the faults of a seed
are the same under any policy, until a decision differs that they react to:

    patient = Policy(interruption=Interruption(min_words=2))
    for policy in (Policy(), patient):
        runs = [simulate(seed, policy, Faults()) for seed in range(500)]
        print(sum((run.decisions for run in runs), Counter()))
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from events import derived
from events.codec import encode
from events.derived import CommandIssued
from events.envelope import Event, Input
from events.recording import Header, dump, parse
from orchestrator.replay.decisions import decisions
from orchestrator.replay.replay import replay
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.policy import Policy
from orchestrator.simulation.fault_injector import FaultInjector
from orchestrator.simulation.faults import Faults
from orchestrator.simulation.policies import drawn
from orchestrator.simulation.steps import Seen, plain
from orchestrator.simulation.user import User
from orchestrator.simulation.virtual_time import START_US
from orchestrator.simulation.world import BrokenReducerError, World
from projections.golden_log import golden

TURNS = 3
LEAST_LIMIT_US = 400_000_000
"""Time limit for each stage of the simulation, beside the waits of the policy."""
SETTLED_US = 3_500_000
"""A session in LISTENING that commits nothing for this time is waiting only for its user."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A violated invariant, and the version of the log where the violation shows."""

    invariant: str
    checker: str
    version: int
    message: str


Observer = Callable[[Seen], Iterable[Violation] | None]
"""Called with each step of the conversation, in order; returns the violations that it finds in it, or None."""


@dataclass(slots=True)
class Simulated:
    """A simulated conversation, and the violations that the simulation and its observers found."""

    seed: int
    policy: Policy
    faults: Faults
    log: list[Event] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)
    """Names of injected events and faults that the log does not show."""
    phases: set[str] = field(default_factory=set)
    """The phases in which a step ended."""

    @property
    def golden(self) -> list[str]:
        return golden(self.log)

    @property
    def decisions(self) -> Counter[str]:
        """Decision → how often it was made, to compare the same seeds under two policies."""
        return decisions(self.log)

    def recording(self) -> bytes:
        header = Header(reducer_version=REDUCER_VERSION, story=f"simulated from seed {self.seed}")
        return dump(header, map(encode, self.log))

    def trace(self) -> str:
        """One line per event: the world's time, version, type and fields. Violations follow their event."""
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
    observers: Iterable[Observer] = (),
) -> Simulated:
    """Simulate one conversation, of at most `turns` utterances. A missing policy or missing faults are drawn.

    Checks that the reducer never raises, that the conversation comes to rest, that each input is logged once, that the
    state at each takeover is the fold of the log, and, with `replayed`, that a replay of the log is equal.
    Observers see every step and may report further violations:

        took_ms: list[int] = []

        def note(step: Seen) -> None:
            took_ms.extend(e.elapsed_us // 1000 for e in step.said if isinstance(e, derived.ProcessingComplete))

        simulate(7, observers=[note])
    """
    policy = policy or drawn(Random(f"{seed}:policy"))  # Random hashes a text seed itself, not by PYTHONHASHSEED
    run = Simulated(seed, policy, faults or Faults.drawn(Random(f"{seed}:faults")))
    world = World(seed, run.policy, run.faults)
    user, injector = User(world, turns), FaultInjector(world)
    watching = tuple(observers)

    def listen(event: Event) -> None:
        user.notice(event)
        injector.notice(event)

    def observe(step: Seen) -> None:
        changes = [event.to_phase for event in step.said if isinstance(event, derived.StateChanged)]
        run.phases.add(changes[-1] if changes else user.phase or "NEW")
        for observer in watching:
            run.violations += observer(step) or ()

    world.listener, world.observer = listen, observe
    world.owner_lost, world.call_lost = user.lost, user.loses_the_call
    run.log, run.seen, run.marks = world.log, world.seen, world.marks
    liveness: list[str] = []
    try:
        liveness += _live(world, user)
    except BrokenReducerError as error:
        run.violations.append(Violation("I-12", "the_reducer_is_total", len(world.log), str(error)))
    run.violations += [Violation("liveness", "it_comes_to_rest", len(run.log), wrong) for wrong in liveness]
    run.violations += [Violation("I-2", "the_state_is_the_fold", at, "of the log") for at in world.unlike_its_log]
    run.violations += _each_input_once(world)
    if replayed:
        run.violations += _replays(run)
    return run


def _live(world: World, user: User) -> Iterator[str]:
    """Run the conversation, then stop all faults. The session must come to rest, answer a last utterance, and end when
    it is due. Yields a message for each failure.
    """
    user.begin()
    world.time.run(lambda: user.has_finished, _limit_us(world.policy))
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
    """Check that a plain utterance is answered when no more faults happen."""
    before = len(world.log)
    words = user.says_last()
    _settle(world, user)
    new = world.log[before:]
    heard = [n for n, e in enumerate(new) if isinstance(e, derived.TurnStarted) and plain(e.text) == plain(words)]
    since = new[heard[0] :] if heard else []
    ended = [event.outcome for event in since if isinstance(event, derived.AnswerEnded | derived.TurnEnded)]
    reasons = ("time_limit", "user_away")  # the utterance came too late
    was_time = any(isinstance(event, derived.SessionEnded) and event.reason in reasons for event in new)
    if ended[:2] != ["finished", "completed"] and not was_time:
        yield f"{words!r} was heard {len(heard)} times and answered {ended}; it rests in {user.phase}"


def _limit_us(policy: Policy) -> int:
    """Time limit for each stage of the simulation; longer than all waits of a session under this policy together."""
    repetitions = 1 + policy.away.prompts + policy.tools.calls
    return LEAST_LIMIT_US + 1_000 * repetitions * _waits_ms(policy.model_dump())


def _waits_ms(rules: dict[str, Any]) -> int:
    """The sum of all waits of a policy."""
    return sum(
        _waits_ms(value) if isinstance(value, dict) else value if name.endswith("_ms") else 0
        for name, value in rules.items()
    )


def _rest(world: World) -> None:
    world.time.run(lambda: False, _limit_us(world.policy))


def _settle(world: World, user: User) -> None:
    """Run until the session has ended, or has been quiet in LISTENING for SETTLED_US with a silent user."""
    end_us, since_us = world.time.now_us + _limit_us(world.policy), world.time.now_us
    while user.phase != "ENDED" and world.time.now_us < end_us:
        waits_us = max(since_us, world.log_us, user.busy_until_us) + SETTLED_US - world.time.now_us
        world.time.after(waits_us, lambda: None)
        world.time.run(lambda: False, waits_us)
        owner = world.owner
        is_silent = owner is None or owner.handler is None or not owner.handler.ear.speaking
        if user.phase == "LISTENING" and is_silent and world.log_us + SETTLED_US <= world.time.now_us:
            return
        since_us = world.time.now_us


def _each_input_once(world: World) -> Iterator[Violation]:
    """I-5: every input that reached the inbox is in the log once, in the order of first arrival."""
    arrived = list(dict.fromkeys(event.event_id for event in world.arrived))
    logged = [event.event_id for event in world.log if isinstance(event, Input)]
    if arrived != logged:
        at = next(
            (i for i, (one, other) in enumerate(zip(arrived, logged, strict=False)) if one != other), len(arrived)
        )
        message = f"input {at + 1} of {len(arrived)} that arrived, {len(logged)} are logged"
        yield Violation("I-5", "each_input_once", 0, message)


def _replays(run: Simulated) -> Iterator[Violation]:
    """I-3: a replay of the recording reproduces every event, byte for byte."""
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
    """The trace line of an event."""
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
