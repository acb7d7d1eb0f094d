"""Appending: order, and waiting that ends, whatever else is going on."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from events.codec import decode
from events.inputs import SttPartial
from orchestrator.runtime.inbox import Inbox
from orchestrator.runtime.redis.connection import connect
from tests.runtime.conftest import Place
from tests.runtime.proxy import LossyProxy
from tests.runtime.support import PATIENCE_S, Running, a_session_on, soon
from tests.runtime.test_runtime_entries import line, to_ingress


@pytest.fixture
async def proxy(place: Place) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(place.url.removeprefix("unix://")) as proxy:
        yield proxy


@pytest.fixture
async def inbox(place: Place, proxy: LossyProxy) -> AsyncIterator[Inbox]:
    """An inbox behind a proxy."""
    redis = connect(proxy.url)
    inbox = Inbox(redis, place.keys)
    yield inbox
    await inbox.close()
    await redis.aclose()


async def texts(place: Place, shard: int) -> list[str]:
    return [decode(fields[b"e"]).text for _, fields in await place.redis.xrange(place.keys.inbox(shard))]  # type: ignore[attr-defined]


async def test_what_is_queued_arrives_in_order_in_a_few_batches(inbox: Inbox, place: Place) -> None:
    """A thousand events on two shards; each shard has its own in order, under one producer's sequence."""
    for number in range(1_000):
        inbox.append(SttPartial(session_id=a_session_on(place.keys, number % 2), text=str(number)))
    await inbox.flush()
    for shard in (0, 1):
        assert await texts(place, shard) == [str(number) for number in range(1_000) if number % 2 == shard]


async def test_flush_does_not_wait_for_what_is_queued_later(inbox: Inbox, place: Place) -> None:
    """A busy shard must not hold an ingress up: it waits for its own events alone."""
    busy = True

    def again(_: object = None) -> None:
        if busy:
            inbox.append(SttPartial(session_id=a_session_on(place.keys, 1), text="busy"))
            asyncio.get_running_loop().call_soon(again)

    again()
    inbox.append(SttPartial(session_id=a_session_on(place.keys, 0), text="mine"))
    async with asyncio.timeout(10):
        await inbox.flush()
    busy = False
    assert await texts(place, 0) == ["mine"]


async def test_an_ingress_waits_for_no_shard_that_its_events_do_not_go_to(running: Running, place: Place) -> None:
    """The node's own events for another shard cannot be appended: they wait, and what comes from outside goes on."""
    live, other = await running.listening(), await running.listening()
    while place.keys.shard_of(other.session_id) == place.keys.shard_of(live.session_id):
        other = await running.listening()
    inbox = place.keys.inbox(place.keys.shard_of(other.session_id))
    await place.redis.delete(inbox)
    await place.redis.set(inbox, "no stream")
    running.node.report(SttPartial(session_id=other.session_id, text="waits"))
    for number in (1, 2):  # the second is read when the cursor has moved past the first
        await to_ingress(place, line(live.session_id, text=str(number)))
        await running.watch.event(live.session_id, SttPartial, number)
    assert running.node.queued == 1
    await place.redis.delete(inbox)
    await running.watch.event(other.session_id, SttPartial, text="waits")


async def test_a_redis_that_is_away_is_said_once_and_nothing_is_lost(
    inbox: Inbox, proxy: LossyProxy, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Many attempts, two lines in the log: it fails, it works again."""
    caplog.set_level(logging.WARNING)
    proxy.refuse = True
    for number in range(5):
        inbox.append(SttPartial(session_id=a_session_on(place.keys, 0), text=str(number)))
    await soon(lambda: proxy.refused >= 3)
    proxy.refuse = False
    await inbox.flush()
    assert await texts(place, 0) == list("01234")
    assert [message.split(" (")[0] for message in caplog.messages] == [
        f"append to {place.keys.inbox(0)} failed",
        f"appending to {place.keys.inbox(0)} works again",
    ]


async def test_a_sender_goes_on_after_an_error_that_nobody_foresaw(
    inbox: Inbox, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else its queue would wait for ever, and with it an ingress that has forwarded an event. The first error of its
    kind comes into the log with its traceback, the others pass.
    """
    call, errors = inbox._wire.call, [KeyError("first"), KeyError("second"), RuntimeError("third")]
    asked: list[int] = []

    async def breaks(key: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        if errors:
            raise errors.pop(0)
        return await call(key, commands)

    def pause_s(failures: int) -> float:
        asked.append(failures)
        return 0

    monkeypatch.setattr(inbox._wire, "call", breaks)
    monkeypatch.setattr("orchestrator.runtime.inbox.pause_s", pause_s)
    inbox.append(SttPartial(session_id=a_session_on(place.keys, 0), text="arrives"))
    async with asyncio.timeout(PATIENCE_S):
        await inbox.flush()
    assert await texts(place, 0) == ["arrives"]
    assert asked == [0, 1, 2]
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info] == [("first",), ("third",)]  # type: ignore[union-attr]
    assert inbox.queued == 0
