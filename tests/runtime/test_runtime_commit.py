"""Commits and appends: what the scripts refuse, and what happens when a reply is lost after the server did the work."""

from collections.abc import Sequence
from typing import Any, cast
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from events.derived import TurnStarted
from events.inputs import SttFinal, SttPartial, TtsChunkReady
from orchestrator.runtime.fleet import lease as leases
from orchestrator.runtime.redis.commit import Committer, Move
from orchestrator.runtime.redis.connection import connect, evalsha, load_scripts, run_id, sha
from orchestrator.runtime.redis.keys import Keys
from tests.runtime.conftest import MakeNode, Place
from tests.runtime.proxy import LossyProxy
from tests.runtime.support import Running, soon


def commit_call(keys: Keys, owner: str, **changes: Any) -> tuple[Any, ...]:
    """A commit that is right, but for the changes."""
    session_id = "auto_session_1"
    shard = keys.shard_of(session_id)
    right = {"token": owner, "cursor": "0-0", "next": "1-0", "version": 0, "new_version": 1}
    values = right | changes
    return evalsha(
        "commit",
        [
            keys.shard(shard),
            keys.log(session_id),
            keys.state(session_id),
            keys.sessions(shard),
            keys.feed(shard),
            keys.inbox(shard),
            keys.positions(shard),
        ],
        [*values.values(), b"{}", session_id, "hash", "", ""],
    )


async def everything(redis: Redis, prefix: str) -> dict[bytes, bytes]:
    """All that is under a prefix, serialised, but for what expires."""
    return {key: await redis.dump(key) async for key in redis.scan_iter(match=f"{prefix}*") if b"lease" not in key}


@pytest.fixture
async def owned(redis_url: str) -> Any:
    """A shard owned by hand, outside the place that obeys the laws: token, keys, redis."""
    keys = Keys(shards=1, prefix=f"script-{uuid4().hex[:8]}")
    async with Redis.from_url(redis_url) as redis:
        await load_scripts(redis)
        (lease,) = await leases.acquire(redis, [leases.shard(keys, 0)], 60_000, "here")
        yield lease, keys, redis


async def test_a_commit_with_everything_right_is_done_once(owned: Any) -> None:
    """OK, and the same call again is refused by the cursor."""
    lease, keys, redis = owned
    call = commit_call(keys, lease.token)
    assert await redis.execute_command(*call) == b"OK"
    before = await everything(redis, keys.prefix)
    assert await redis.execute_command(*call) == b"CURSOR"
    assert await everything(redis, keys.prefix) == before
    assert await redis.smembers(keys.sessions(0)) == {b"auto_session_1"}


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"token": "somebody else"}, b"NOT_OWNER"),
        ({"token": ""}, b"NOT_OWNER"),
        ({"cursor": "7-0"}, b"CURSOR"),
        ({"version": 3, "new_version": 4}, b"VERSION"),
    ],
)
async def test_a_commit_that_fails_a_check_writes_nothing(owned: Any, changes: Any, refusal: bytes) -> None:
    """NOT_OWNER, CURSOR, VERSION: not a key differs afterwards."""
    lease, keys, redis = owned
    before = await everything(redis, keys.prefix)
    assert await redis.execute_command(*commit_call(keys, lease.token, **changes)) == refusal
    assert await everything(redis, keys.prefix) == before


async def test_after_a_release_nobody_commits(owned: Any) -> None:
    """The token goes with the lease: a call that a dead connection carries out late is refused."""
    lease, keys, redis = owned
    await leases.release(redis, [lease])
    assert await redis.execute_command(*commit_call(keys, lease.token)) == b"NOT_OWNER"
    assert not await redis.exists(keys.log("auto_session_1"))


class BreakingWire:
    """Carries out the first `done` commands of its first call, and then its connection breaks."""

    def __init__(self, redis: Redis, done: int) -> None:
        self.redis = redis
        self.done: int | None = done

    async def call(self, _: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        done, self.done = self.done, None
        replies = [await self.redis.execute_command(*command) for command in commands[:done]]
        if done is not None:
            raise RedisConnectionError("it broke")
        return replies


@pytest.mark.parametrize("done", range(4))
async def test_steps_that_leave_the_cursor_are_committed_once_wherever_the_connection_breaks(
    owned: Any, done: int
) -> None:
    """The steps that open a promised session leave the cursor to the entry that opens it, here a duplicate: what is
    missing is sent, and nothing twice. Else commands of a step that is not committed would run.
    """
    lease, keys, redis = owned
    state, calls = keys.state("auto_session_1"), []
    for version in (0, 1):
        call = commit_call(keys, lease.token, next="0-0", version=version, new_version=version + 1)
        calls.append(call)
    scripts = [(call[3 : 3 + int(call[2])], call[3 + int(call[2]) + 3 :]) for call in calls]
    moves = [
        Move("commit", list(names), "0-0", "0-0", tuple(args), (state, version))
        for version, (names, args) in enumerate(scripts, 1)
    ]
    moves.append(Move("pass", [keys.shard(0), keys.unroutable(0), keys.inbox(0)], "0-0", "1-0", ("", b"", "")))
    wire: Any = BreakingWire(redis, done)
    await Committer(redis, wire, keys.shard(0), lease.token, await run_id(redis, keys.shard(0))).commit(moves)
    assert await redis.hget(keys.shard(0), "cursor") == b"1-0"
    assert [entry for entry, _ in await redis.xrange(keys.log("auto_session_1"))] == [b"0-1", b"0-2"]


class EnoughError(Exception):
    """The test has seen enough attempts."""


class DeadWire:
    """Its connection breaks at each call; the test ends at the sixth."""

    def __init__(self) -> None:
        self.calls = 0

    async def call(self, _: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        self.calls += 1
        if self.calls == 6:
            raise EnoughError
        raise RedisConnectionError(f"it broke before {len(commands)} moves")


async def test_a_connection_that_fails_again_and_again_is_tried_after_growing_pauses(
    owned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with several moves, while Redis answers who owns the shard: else each failure is followed by the next
    attempt at once, as fast as the node can.
    """
    lease, keys, redis = owned
    asked: list[int] = []

    def pause_s(failures: int) -> float:
        asked.append(failures)
        return 0

    monkeypatch.setattr("orchestrator.runtime.redis.commit.pause_s", pause_s)
    names, wire = [keys.shard(0), keys.unroutable(0), keys.inbox(0)], DeadWire()
    moves = [Move("pass", names, before, after, ("", b"", "")) for before, after in (("0-0", "1-0"), ("1-0", "2-0"))]
    committer = Committer(redis, cast("Any", wire), keys.shard(0), lease.token, await run_id(redis, keys.shard(0)))
    with pytest.raises(EnoughError):
        await committer.commit(moves)
    assert asked == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("reason", ["", "it is no event"])
@pytest.mark.parametrize(("token", "cursor", "refusal"), [("x", "0-0", b"NOT_OWNER"), ("", "7-0", b"CURSOR")])
async def test_a_pass_that_fails_a_check_writes_nothing(
    owned: Any, token: str, cursor: str, refusal: bytes, reason: str
) -> None:
    """Neither the cursor moves nor is a dead letter kept."""
    lease, keys, redis = owned
    before = await everything(redis, keys.prefix)
    said = [token or lease.token, cursor, "8-0", reason, b"{}", ""]
    call = evalsha("pass", [keys.shard(0), keys.unroutable(0), keys.inbox(0)], said)
    assert await redis.execute_command(*call) == refusal
    assert await everything(redis, keys.prefix) == before


async def test_a_lease_is_renewed_and_released_by_its_owner_alone(owned: Any) -> None:
    """A stranger's token neither prolongs it nor sets it free, and nobody acquires it twice."""
    lease, keys, redis = owned
    stranger = leases.Lease(lease.what, "stranger", "0-0", (), lease.server_clock)
    assert await leases.acquire(redis, [lease.what], 60_000, "there") == []
    assert await leases.renew(redis, [lease, stranger], 60_000) == [stranger]
    await leases.release(redis, [stranger])
    assert await redis.get(keys.lease(0)) == lease.token.encode()
    assert await redis.hget(keys.shard(0), "owner") == lease.token.encode()


async def test_the_client_never_sends_a_command_twice_by_itself(redis_url: str, place: Place) -> None:
    """One XADD whose reply is lost: an error and one entry. A client with redis-py's defaults makes two of it."""
    async with LossyProxy(redis_url.removeprefix("unix://")) as proxy:
        ours, stock = connect(proxy.url), Redis(unix_socket_path=proxy.url.removeprefix("unix://"))
        proxy.lose_reply(b"XADD")
        with pytest.raises(RedisConnectionError):
            await ours.execute_command("XADD", f"{place.keys.prefix}:ours", "*", "e", "1")
        assert (proxy.requests, proxy.lost) == (1, 1)
        proxy.lose_reply(b"XADD")
        await stock.execute_command("XADD", f"{place.keys.prefix}:stock", "*", "e", "1")
        assert await place.redis.xlen(f"{place.keys.prefix}:ours") == 1
        assert await place.redis.xlen(f"{place.keys.prefix}:stock") == 2
        await ours.aclose()
        await stock.aclose()


async def one_turn(running: Running, proxy: LossyProxy, needle: bytes) -> None:
    """A turn in which one reply is lost: everything happens exactly once all the same."""
    live = await running.listening()
    proxy.lose_reply(needle)
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await running.watch.phase(live.session_id, "LISTENING", 2)
    assert proxy.lost == 1
    assert len(running.watch.all(live.session_id, TurnStarted)) == 1
    for stage in ("intent", "answer"):
        assert len(running.stubs.keys(stage)) == 1
    assert running.clients[0].shown == [] or running.clients[0].shown == ["You said hello."]


async def test_a_commit_whose_reply_is_lost_is_done_once(make_node: MakeNode, place: Place) -> None:
    """The step is committed once and its commands are performed once; the shard is kept."""
    async with LossyProxy(place.url.removeprefix("unix://")) as proxy:
        running = await make_node(url=proxy.url)
        tokens = {number: shard.lease.token for number, shard in running.node.shards.items()}
        await one_turn(running, proxy, sha("commit").encode())
        assert {number: shard.lease.token for number, shard in running.node.shards.items()} == tokens
        await running.node.stop()


async def test_an_append_whose_reply_is_lost_has_no_second_effect(make_node: MakeNode, place: Place) -> None:
    """It is sent again under its sequence number; the second entry is a repetition."""
    async with LossyProxy(place.url.removeprefix("unix://")) as proxy:
        running = await make_node(url=proxy.url)
        await one_turn(running, proxy, b"XADD")
        await soon(lambda: running.node.counters["duplicates"] >= 1)
        await running.node.stop()


async def test_lost_replies_one_after_another_lose_nothing(make_node: MakeNode, place: Place) -> None:
    """Twenty times in one conversation, commits and appends in turn."""
    async with LossyProxy(place.url.removeprefix("unix://")) as proxy:
        running = await make_node(url=proxy.url)
        live = await running.listening()
        for number in range(20):
            proxy.lose_reply(b"XADD" if number % 2 else sha("commit").encode())
            running.node.report(SttPartial(session_id=live.session_id, text=str(number)))
            await running.watch.event(live.session_id, SttPartial, number + 1)
        texts = [event.text for event in running.watch.all(live.session_id, SttPartial)]
        assert texts == [str(number) for number in range(20)]
        assert proxy.lost == 20
        await running.node.stop()


async def test_connections_that_die_in_mid_conversation_lose_nothing(running: Running, place: Place) -> None:
    """CLIENT KILL of every connection, again and again, while a session talks."""
    live = await running.listening()
    for turn in range(1, 6):
        running.node.report(SttFinal(session_id=live.session_id, text=f"turn {turn}", via="text"))
        await place.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await running.watch.phase(live.session_id, "LISTENING", turn + 1)
    texts = [event.text for event in running.watch.all(live.session_id, TurnStarted)]
    assert texts == [f"turn {turn}" for turn in range(1, 6)]
    assert not running.watch.all(live.session_id, TtsChunkReady)


async def test_scripts_that_the_server_forgot_are_taught_again(running: Running, place: Place) -> None:
    """SCRIPT FLUSH in mid-conversation: the conversation goes on, and the shard is kept."""
    live = await running.listening()
    token = running.node.shards[place.keys.shard_of(live.session_id)].lease.token
    for turn in (1, 2):
        await place.redis.script_flush()
        running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
        await running.watch.phase(live.session_id, "LISTENING", turn + 1)
    assert running.node.shards[place.keys.shard_of(live.session_id)].lease.token == token
