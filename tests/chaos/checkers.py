"""Nothing lost, doubled or mixed up: what must hold when all is over, by Redis and what was written down outside."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from redis.asyncio import Redis

from events.codec import decode
from events.derived import CommandIssued, EventRejected, TurnStarted
from events.envelope import Event, Input
from events.inputs import IntentResolved, PlaybackDone, RagAnswered, ServiceFailed, SessionResumed, TimerFired
from events.recording import Header, dump, parse
from orchestrator.replay.replay import replay
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import list_sessions
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.evolve import fold
from tests.chaos.caller import Caller
from tests.chaos.producer import Producer
from tests.chaos.questions import answer_to, intent_of
from tests.chaos.watch import lags, ownables

LAST_WORDS = (IntentResolved, PlaybackDone, RagAnswered, ServiceFailed, TimerFired)
"""After one that counts, its command is answered for good."""


@dataclass
class Findings:
    """What was counted, what is wrong, and what was lost."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    lost: list[tuple[str, str, int]] = field(default_factory=list)
    """Acknowledged to a producer, and nowhere: producer, session, sequence number."""
    delays_ms: list[float] = field(default_factory=list)
    """From the producer's clock to the owner's, per event."""


async def check(
    redis: Redis,
    keys: Keys,
    producers: list[Producer],
    callers: list[Caller],
    notes: Path,
    *,
    may_lose: bool = False,
) -> Findings:
    """Everything. `may_lose`: the end of the append-only file was cut off, so what is missing is counted, not wrong."""
    found = Findings()
    found.violations += [f"{name} has {count} entries left" for name, count in (await lags(redis, keys)).items()]
    pointers = await _feeds(redis, keys, found)
    logs: dict[str, list[Event]] = {}
    for session_id, live in (await list_sessions(redis, keys)).items():
        logs[session_id] = await _session(redis, keys, session_id, live=live, found=found)
        last = pointers.pop(session_id, None)
        if last is not None and last != len(logs[session_id]):
            found.violations.append(f"{session_id}: the feed ends at {last}, the log at {len(logs[session_id])}")
    found.violations += [f"the feed names {session_id}, which has no log" for session_id in pointers]
    refused = await _dead_letters(redis, keys, found)
    _producers(logs, refused, producers, found, may_lose=may_lose)
    _performed(logs, notes, found, may_lose=may_lose)
    _shown(logs, callers, found, may_lose=may_lose)
    return found


async def _feeds(redis: Redis, keys: Keys, found: Findings) -> dict[str, int]:
    """Session → last version in the feeds. What there is has no gaps and goes to the end; its beginning may be gone."""
    last: dict[str, int] = {}
    for shard in range(keys.shards):
        entries = await redis.xrange(keys.feed(shard))
        end = int(await redis.hget(keys.shard(shard), "feed") or 0)  # type: ignore[misc]
        ids = [int(entry_id.decode().partition("-")[2]) for entry_id, _ in entries]
        if ids and ids != list(range(end - len(ids) + 1, end + 1)):
            found.violations.append(
                f"the feed of shard {shard} has gaps, or does not end at {end}: {ids[:3]}…{ids[-3:]}"
            )
        for _, fields in entries:
            session_id, first = fields[b"s"].decode(), int(fields[b"f"])
            known = last.get(session_id, 0 if ids[0] == 1 else first - 1)
            if first != known + 1 or keys.shard_of(session_id) != shard:
                found.violations.append(f"{session_id}: the feed goes from {known} to {first}")
            last[session_id] = int(fields[b"t"])
    return last


async def _session(redis: Redis, keys: Keys, session_id: str, *, live: bool, found: Findings) -> list[Event]:
    """The laws of one log (tests/runtime/laws.py has them too), and of what its commands led to."""
    entries = await redis.xrange(keys.log(session_id))
    steps = [[decode(line) for line in fields[b"e"].split(b"\n")] for _, fields in entries]
    log = [event for step in steps for event in step]
    lines = [line for _, fields in entries for line in fields[b"e"].split(b"\n")]
    found.counts["sessions"] += 1
    found.counts["inputs"] += len(steps)
    found.counts["events"] += len(log)
    stored = await redis.hgetall(keys.state(session_id))  # type: ignore[misc]
    state = fold(log)
    replayed = replay(parse(dump(Header(reducer_version=REDUCER_VERSION), lines), session_id))
    laws = {
        "versions have gaps": [event.version for event in log] == list(range(1, len(log) + 1)),
        "an entry is not named by its last version": [e.decode() for e, _ in entries]
        == [f"0-{step[-1].version}" for step in steps],
        "foreign events": {event.session_id for event in log} == {session_id},
        "the fold is not what was decided": state.hash() == log[-1].state_hash == stored[b"state_hash"].decode(),
        "the stored version is another": int(stored[b"version"]) == len(log),
        f"{state.phase}, but live={live}": live == (state.phase != "ENDED"),
        f"replay diverges: {replayed.divergence}": replayed.divergence is None,
        "two owners at once": _one_owner_after_the_other(log),
    }
    found.violations += [f"{session_id}: {what}" for what, holds in laws.items() if not holds]
    found.violations += [f"{session_id}: {what}" for what in _results(log, found)]
    return log


def _one_owner_after_the_other(log: list[Event]) -> bool:
    """An owner that another one has followed says nothing more."""
    owners = [event.incarnation for event in log]
    changes = [owner for owner, before in zip(owners, ["", *owners], strict=False) if owner != before]
    return len(set(changes)) == len(changes)


def _results(log: list[Event], found: Findings) -> Iterator[str]:
    """At most one last word per command; an answer that counts answers the question of its turn."""
    rejected = {event.cause for event in log if isinstance(event, EventRejected)}
    words: Counter[str] = Counter()
    asked = {event.command_id: str(event.payload.get("text", "")) for event in log if isinstance(event, CommandIssued)}
    turns = {event.turn: event.text for event in log if isinstance(event, TurnStarted)}
    for event in log:
        found.counts["take-overs"] += isinstance(event, SessionResumed)
        if not isinstance(event, LAST_WORDS):
            continue
        if event.event_id in rejected:
            found.counts["stale results"] += 1
            continue
        words[event.command_id] += 1
        if isinstance(event, RagAnswered):
            found.counts["answers"] += 1
            if event.answer != answer_to(asked[event.command_id]) or turns[event.turn] != asked[event.command_id]:
                yield f"turn {event.turn} asked {turns[event.turn]!r} and was answered {event.answer!r}"
        elif isinstance(event, IntentResolved) and event.intent != intent_of(turns[event.turn]):
            yield f"turn {event.turn} asked {turns[event.turn]!r} and got {event.intent!r}"
    yield from (f"{command_id} has {count} last words" for command_id, count in words.items() if count > 1)


async def _dead_letters(redis: Redis, keys: Keys, found: Findings) -> set[tuple[str, int]]:
    """Producer and sequence of what was refused with a reason."""
    refused = set()
    for what in ownables(keys):
        for _, fields in await redis.xrange(what.dead_letters):
            found.counts["dead letters"] += 1
            event = json.loads(fields[b"e"] or b"{}")
            refused.add((event.get("producer", ""), event.get("producer_seq", 0)))
    return refused


def _producers(
    logs: dict[str, list[Event]],
    refused: set[tuple[str, int]],
    producers: list[Producer],
    found: Findings,
    *,
    may_lose: bool,
) -> None:
    """What was acknowledged is in its session's log once, in order; or, if the session has ended, a dead letter."""
    ended = {session_id for session_id, log in logs.items() if fold(log).phase == "ENDED"}
    handled = _handled(logs, found)
    for producer in producers:
        found.counts["acknowledged"] += len(producer.acknowledged)
        found.counts["repeated"] += producer.repeated
        for session_id, number in producer.acknowledged:
            excused = (producer.name, number) in refused and (session_id in ended or may_lose)
            if number not in handled[producer.name, session_id] and not excused:
                found.lost.append((producer.name, session_id, number))
    if found.lost and not may_lose:
        found.violations.append(f"{len(found.lost)} acknowledged events are nowhere, {found.lost[0]} among them")


def _handled(logs: dict[str, list[Event]], found: Findings) -> dict[tuple[str, str], set[int]]:
    """Producer and session → what the session handled of it: nothing twice, everything in order."""
    handled: dict[tuple[str, str], list[int]] = defaultdict(list)
    for session_id, log in logs.items():
        for event in log:
            if isinstance(event, Input):
                handled[event.producer, session_id].append(event.producer_seq)
                if event.producer.startswith("chaos-"):
                    found.delays_ms.append((event.at_us - event.observed_at_us) / 1_000)
    for (name, session_id), sequence in handled.items():
        if len(set(sequence)) != len(sequence):
            found.violations.append(f"{session_id} handled something of {name} twice")
        if sequence != sorted(sequence):
            found.violations.append(f"{session_id} handled {name} out of order")
    return defaultdict(set, {key: set(sequence) for key, sequence in handled.items()})


def _performed(logs: dict[str, list[Event]], notes: Path, found: Findings, *, may_lose: bool) -> None:
    """Nothing was asked of a service that was not committed before, and no key stands for two questions."""
    committed = {
        (event.idempotency_key, str(event.payload.get("text", "")))
        for log in logs.values()
        for event in log
        if isinstance(event, CommandIssued) and event.idempotency_key
    }
    asked: dict[str, set[str]] = defaultdict(set)
    for line in notes.read_bytes().splitlines():
        note = json.loads(line)
        found.counts["performed"] += 1
        asked[note["key"]].add(note["text"])
        if (note["key"], note["text"]) not in committed:
            found.counts["performed, then lost"] += 1
            if not may_lose:
                found.violations.append(f"{note['key']} was asked {note['text']!r}, which is in no log")
    if not may_lose:
        found.violations += [f"{key} stands for {texts}" for key, texts in asked.items() if len(texts) > 1]


def _shown(logs: dict[str, list[Event]], callers: Iterable[Caller], found: Findings, *, may_lose: bool) -> None:
    """What a client was shown was committed."""
    for caller in callers:
        found.counts["connections"] += caller.connections
        found.counts["shown"] += len(caller.shown)
        said = {
            event.target: str(event.payload["text"])
            for event in logs.get(caller.session_id, [])
            if isinstance(event, CommandIssued) and event.name == "Speak"
        }
        if not may_lose and not caller.shown.items() <= said.items():
            found.violations.append(f"{caller.session_id} was shown what is not in its log")
        if caller.over:
            found.counts[f"over: {caller.over}"] += 1
