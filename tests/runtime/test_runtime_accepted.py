"""Inbox entries that Redis lost after it had accepted them are appended again, before anything newer."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ClusterDownError, MovedError, NoPermissionError, ResponseError

from events.codec import decode_input, encode
from events.envelope import Input
from events.inputs import SessionCloseRequested, SessionResumed, SttFinal, SttPartial
from orchestrator.runtime.inbox import Inbox
from orchestrator.runtime.redis.connection import connect
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import read_log
from orchestrator.runtime.redis.lost_writes import LOSS_S, TOO_LATE_S, Accepted, SecondLifeError
from tests.runtime.redis_server import Server
from tests.runtime.support import soon
from tests.runtime.test_runtime_second_life import set_back, started

KEYS = Keys(shards=1)


def line(text: str, session_id: str = "auto_session_1") -> bytes:
    return encode(SttPartial(session_id=session_id, text=text, producer="node-1", producer_seq=1))


class Master:
    """A server as `compare` sees it: who it is, and what the inboxes of its shards hold. It has no sessions."""

    def __init__(self, run_id: str = "first", replication_id: str = "first", shards: Sequence[int] = (0,)) -> None:
        self.run_id, self.replication_id = run_id, replication_id
        self.streams: dict[str, dict[bytes, bytes]] = {Keys(shards=8).inbox(shard): {} for shard in shards}
        self.last_id = b"0-0"
        self.error: Exception | None = None
        self.ended: set[str] = set()

    def has(self, stream: str, entry: bytes, text: str) -> None:
        self.streams[stream][entry] = line(text)
        self.last_id = entry

    async def exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        return [self._reply(*command) for command in commands]

    def _reply(self, name: str, what: str, *rest: Any) -> Any:
        match name:
            case "INFO" if what == "server":
                return f"# Server\r\nrun_id:{self.run_id}\r\n".encode()
            case "INFO":
                return f"# Replication\r\nmaster_replid:{self.replication_id}\r\n".encode()
            case "SISMEMBER":
                return 0
            case "EXISTS" if what.endswith(":state"):
                return int(any(session_id in what for session_id in self.ended))
        stream = rest[0] if name == "XINFO" else what
        if stream not in self.streams:
            return MovedError("1 127.0.0.1:7001")
        if self.error is not None and (name == "XINFO" or "no such key" not in str(self.error)):
            return self.error
        if name == "EXISTS":
            return 1
        if name == "XINFO":
            return [b"last-generated-id", self.last_id]
        entries = self.streams[stream]
        return [[rest[0], [b"e", entries[rest[0]]]]] if rest[0] in entries else []


async def on(master: Master, keys: Keys = KEYS, **options: Any) -> Accepted:
    """A memory that is connected to a master."""
    accepted = Accepted(keys, **options)
    await accepted.compare(master.exchange)
    return accepted


@pytest.mark.parametrize("error", [ClusterDownError("down"), NoPermissionError("no"), ResponseError("TRYAGAIN")])
async def test_an_error_is_no_loss(error: ResponseError) -> None:
    """Only a stream that is gone, or lacks entries, has lost them; after an error the connection is made again."""
    accepted, second = await on(Master()), Master("second", "second")
    accepted.note(0, [b"5-0"], [line("lost")])
    second.error = error
    with pytest.raises(type(error)):
        await accepted.compare(second.exchange)
    assert accepted.lost == {}
    second.error = ResponseError("no such key")
    with pytest.raises(SecondLifeError):
        await accepted.compare(second.exchange)
    assert accepted.lost == {0: [line("lost")]}


async def test_appends_to_another_master_disturb_no_comparison() -> None:
    """Each master of a cluster has its own connection, and all share the memory: entries are acknowledged by one while
    another is asked. The first look at the other finds that its shards are elsewhere.
    """
    keys = Keys(shards=8)
    accepted = await on(Master(shards=[0]), keys)
    accepted.note(0, [b"5-0"], [line("here")])
    others, other = iter(range(1, 8)), Master("other", "other", shards=[])

    async def exchange(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        accepted.note(next(others), [b"5-0"], [line("elsewhere")])
        return await other.exchange(commands)

    await accepted.compare(exchange)
    assert accepted.lost == {}


@pytest.mark.parametrize("second", [Master("second", "second"), Master("first", "second")], ids=["restart", "failover"])
async def test_entries_with_higher_ids_of_others_hide_no_loss(second: Master) -> None:
    """Redis has lost both entries of this process, and has accepted a newer one of another. After a failover and one
    back, the server is the same, and its data is that of the other.
    """
    accepted = await on(Master())
    accepted.note(0, [b"100-0", b"100-1"], [line("a"), line("b")])
    second.has(KEYS.inbox(0), b"250-0", "of another")
    with pytest.raises(SecondLifeError):
        await accepted.compare(second.exchange)
    assert accepted.lost == {0: [line("a"), line("b")]}
    await accepted.compare(second.exchange)  # they are forgotten: only `lost` has them
    accepted.note(0, [b"251-0", b"251-1"], [line("a"), line("b")])
    assert accepted.lost == {}


async def test_where_the_newest_entry_is_there_nothing_is_appended_again() -> None:
    """Redis loses the end of what it accepted: what came before the newest entry cannot be lost."""
    accepted, second = await on(Master()), Master("second", "second")
    accepted.note(0, [b"100-0", b"100-1"], [line("a"), line("b")])
    second.has(KEYS.inbox(0), b"100-1", "b")
    second.has(KEYS.inbox(0), b"250-0", "of another")
    await accepted.compare(second.exchange)
    assert accepted.lost == {}


async def test_the_id_of_a_lost_entry_may_belong_to_another_entry_now() -> None:
    """The clock of Redis was set back: an id proves nothing."""
    accepted, second = await on(Master()), Master("second", "second")
    accepted.note(0, [b"100-0"], [line("mine")])
    second.has(KEYS.inbox(0), b"100-0", "of another")
    with pytest.raises(SecondLifeError):
        await accepted.compare(second.exchange)
    assert accepted.lost == {0: [line("mine")]}


async def test_a_connection_that_broke_loses_nothing() -> None:
    """The same server, with the same data: an entry that is missing was handled and trimmed."""
    master = Master()
    accepted = await on(master)
    accepted.note(0, [b"100-0"], [line("handled")])
    await accepted.compare(master.exchange)
    assert accepted.lost == {}


async def test_words_of_a_purged_session_do_not_come_back() -> None:
    """Redis knows nothing of it any more, as if it had lost it; this node knows that it ended."""
    accepted, second = await on(Master()), Master("second", "second")
    accepted.note(0, [b"100-0", b"100-1"], [line("purged", "auto_session_2"), line("going on")])
    accepted.note_end("auto_session_2")
    second.has(KEYS.inbox(0), b"250-0", "of another")
    with pytest.raises(SecondLifeError):
        await accepted.compare(second.exchange)
    assert accepted.lost == {0: [line("going on")]}


@pytest.mark.parametrize(
    ("silent_s", "again"), [(0.0, ["recent", "newest"]), (TOO_LATE_S - 1, ["recent", "newest"]), (TOO_LATE_S + 1, [])]
)
async def test_what_may_be_lost_is_what_came_in_the_last_seconds(silent_s: float, again: list[str]) -> None:
    """Before the last sign of life of the server: an outage may be long. Long after it, nothing is repeated: the
    reducer may have forgotten the event ids.
    """
    now_s = [0.0]
    accepted, second = await on(Master(), now_s=lambda: now_s[0]), Master("second", "second")
    for at_s, text in enumerate(["old", "recent", "newest"]):
        now_s[0] = at_s * (LOSS_S - 1)
        accepted.note(0, [b"%d-0" % (100 + at_s)], [line(text)])
    now_s[0] += silent_s
    second.has(KEYS.inbox(0), b"250-0", "of another")
    if again:
        with pytest.raises(SecondLifeError):
            await accepted.compare(second.exchange)
    else:
        await accepted.compare(second.exchange)
    assert accepted.lost.get(0, []) == [line(text) for text in again]


async def test_entries_of_ended_sessions_are_not_appended_again() -> None:
    """They would be dead letters: what somebody typed before the end, say."""
    accepted, second = await on(Master()), Master("second", "second")
    accepted.note(0, [b"100-0", b"100-1"], [line("bye", "auto_session_over"), line("live")])
    second.ended = {"auto_session_over"}
    second.has(KEYS.inbox(0), b"250-0", "of another")
    with pytest.raises(SecondLifeError):
        await accepted.compare(second.exchange)
    assert accepted.lost == {0: [line("live")]}


async def test_an_old_master_that_answers_late_hides_no_loss() -> None:
    """An append was on its way to it when the replica that took its place was compared. The append did not begin with
    the lost entries, and is lost itself.
    """
    accepted, replica = await on(Master()), Master("replica", "replica")
    accepted.note(0, [b"100-0"], [line("a")])
    sent_to = accepted.server(0)
    replica.has(KEYS.inbox(0), b"250-0", "of another")
    with pytest.raises(SecondLifeError):
        await accepted.compare(replica.exchange)
    accepted.note(0, [b"101-0"], [line("b")], sent_to)
    assert accepted.lost == {0: [line("a")]}
    with pytest.raises(SecondLifeError):
        await accepted.compare(replica.exchange)
    assert accepted.lost == {0: [line("a"), line("b")]}


async def stored(redis: Redis) -> list[Input]:
    return [decode_input(fields[b"e"]) for _, fields in await redis.xrange(KEYS.inbox(0))]


def words(events: list[Input]) -> list[str]:
    """The text of each event, but for repetitions."""
    return list(dict.fromkeys(event.text for event in events if isinstance(event, SttPartial)))


async def test_lost_entries_are_appended_again_also_if_another_process_was_first(server: Server) -> None:
    """Two processes write to one inbox, as the owner of a shard and of an ingress do. The first one's lost entry comes
    before all that is newer in that process.
    """
    redis = connect(server.url)
    first, second = Inbox(redis, KEYS), Inbox(redis, KEYS)
    first.append(SttPartial(session_id="auto_session_1", text="kept"))
    await first.flush()
    length = server.written
    first.append(SttPartial(session_id="auto_session_1", text="lost"))
    await first.flush()
    await set_back(server, length)
    for number in range(3):
        second.append(SttPartial(session_id="auto_session_1", text=f"other {number}"))
    await second.flush()
    first.append(SttPartial(session_id="auto_session_1", text="new"))
    await first.flush()
    assert words(await stored(redis)) == ["kept", "other 0", "other 1", "other 2", "lost", "new"]
    numbers = [event.producer_seq for event in await stored(redis) if first.has_stamped(event)]
    assert numbers == [1, 1, 2, 3]  # the reducer recognises the second of them
    await first.close()
    await second.close()
    await redis.aclose()


async def ingest(redis: Redis, session_id: str, **fields: Any) -> None:
    event = f'{{"type": "STT_PARTIAL", "session_id": "{session_id}", "text": "hel"'
    event += "".join(f', "{name}": {value}' for name, value in fields.items()) + "}"
    await redis.xadd(KEYS.ingress(0), {"e": event})


async def test_entries_of_every_kind_that_were_not_lost_are_passed_over(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis was restarted, has lost nothing, and what was handled is trimmed. The node appends its entries again: those
    with and without a sequence number, its own and those of outside producers. None counts twice, none is an error.
    """
    running = await started(server)
    live, over = await running.listening(), await running.listening()
    async with Redis.from_url(server.url) as redis:
        running.node.report(SttFinal(session_id=over.session_id, event_id="typed", text="bye", via="text"))
        await running.watch.phase(over.session_id, "LISTENING", 2)
        running.node.report(SessionCloseRequested(session_id=over.session_id))
        await running.watch.phase(over.session_id, "ENDED")
        await ingest(redis, live.session_id)
        await ingest(redis, live.session_id, event_id='"outside"')
        await ingest(redis, live.session_id, producer='"stt"', producer_seq=1)
        running.node.report(SttFinal(session_id=live.session_id, event_id="typed", text="hello", via="text"))
        await running.watch.phase(live.session_id, "LISTENING", 2)
        await redis.xtrim(KEYS.inbox(0), maxlen=0, approximate=False)
        before = await read_log(redis, KEYS, live.session_id)
        handled, counters = [one for one in before if isinstance(one, Input)], running.node.counters
        assert {bool(one.producer_seq) for one in handled} == {True, False}
        entries, duplicates = len(running.node._inbox._accepted._last[0]), counters["duplicates"]
        await set_back(server, server.written)
        await running.watch.event(live.session_id, SessionResumed)
        await soon(lambda: counters["duplicates"] >= duplicates + len(handled))
        assert counters["duplicates"] < duplicates + entries  # the ended session's entries did not come again
        later = (await read_log(redis, KEYS, live.session_id))[len(before) :]
        again = [type(one) for one in later if isinstance(one, Input) and not isinstance(one, SessionResumed)]
        assert not [kind for kind in again if kind in {type(one) for one in handled}]
        assert counters["dead_letters"] == counters["lost_versions"] == 0
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
        await running.node.stop()
