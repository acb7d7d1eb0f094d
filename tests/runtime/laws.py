"""The laws that hold for everything a test leaves in Redis, read back from Redis alone."""

from redis.asyncio import Redis

from events.codec import decode
from events.recording import Header, dump, parse
from orchestrator.replay.replay import replay
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import list_sessions, read_lines
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.evolve import fold


async def check_laws(redis: Redis, keys: Keys) -> int:
    """Raise AssertionError unless every session under this prefix obeys; returns how many there are."""
    covered = await _feeds(redis, keys)
    sessions = await list_sessions(redis, keys)
    for session_id, live in sessions.items():
        last = await _check_session(redis, keys, session_id, live=live)
        assert covered.pop(session_id, None) == last, f"{session_id}: the feed does not cover its log"
    assert not covered, f"the feed names sessions without a log: {covered}"
    return len(sessions)


async def _check_session(redis: Redis, keys: Keys, session_id: str, *, live: bool) -> int:
    lines = await read_lines(redis, keys, session_id)
    log = [decode(line) for line in lines]
    assert [event.version for event in log] == list(range(1, len(log) + 1)), f"{session_id}: versions have gaps"
    assert {event.session_id for event in log} == {session_id}, f"{session_id}: foreign events in its log"
    state = fold(log)
    stored = {name.decode(): value.decode() for name, value in (await redis.hgetall(keys.state(session_id))).items()}
    assert state.hash() == log[-1].state_hash == stored["state_hash"], f"{session_id}: the law is broken"
    assert int(stored["version"]) == len(log)
    assert live == (state.phase != "ENDED"), f"{session_id}: {state.phase}, but live={live}"
    replayed = replay(parse(dump(Header(reducer_version=REDUCER_VERSION), lines), session_id))
    assert replayed.divergence is None, f"{session_id}: {replayed.divergence}"
    assert replayed.states[session_id].hash() == state.hash()
    return len(log)


async def _feeds(redis: Redis, keys: Keys) -> dict[str, int]:
    """Session → last version in the feeds, whose ids and ranges have no gaps."""
    covered: dict[str, int] = {}
    for shard in range(keys.shards):
        entries = await redis.xrange(keys.feed(shard))
        assert [entry_id for entry_id, _ in entries] == [f"0-{n}".encode() for n in range(1, len(entries) + 1)]
        for _, fields in entries:
            session_id = fields[b"s"].decode()
            assert keys.shard_of(session_id) == shard
            assert int(fields[b"f"]) == covered.get(session_id, 0) + 1, f"{session_id}: the feed has a gap"
            covered[session_id] = int(fields[b"t"])
    return covered
