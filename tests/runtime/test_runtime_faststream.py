"""The contract with FastStream (docs/decisions/002): what we reach into is still there and does what we rely on."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable

import faststream.redis.subscriber.usecases.stream_subscriber as stock
import pytest
from redis.asyncio import Redis

from orchestrator.runtime.redis import subscribers
from orchestrator.runtime.redis.connection import pause_s
from orchestrator.runtime.redis.subscribers import Entry, Subscription, broker
from tests.runtime.conftest import Place
from tests.runtime.proxy import LossyProxy
from tests.runtime.support import soon


class Reader:
    """What a subscription handed over."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    async def handle(self, batch: list[Entry]) -> None:
        self.batches.append([fields[b"e"].decode() for _, fields in batch])

    @property
    def read(self) -> list[str]:
        return [entry for batch in self.batches for entry in batch]


Subscribe = Callable[..., "asyncio.Future[Subscription]"]


@pytest.fixture
async def subscribe(place: Place) -> AsyncIterator[Subscribe]:
    """Starts subscriptions and stops them."""
    started = []

    async def start(reader: Reader, stream: str, cursor: str = "0-0", url: str = "") -> Subscription:
        owner = broker(url or place.url, 4)
        await owner.connect()
        subscription = Subscription(owner, stream, cursor, reader.handle)
        started.append((owner, subscription))
        await subscription.start()
        return subscription

    yield start  # type: ignore[misc]
    for owner, subscription in started:
        await subscription.stop()
        await owner.stop()


def test_the_read_loop_that_ours_replaces_is_still_this_one() -> None:
    """It reads with _get_msgs while it runs, waits 5 s after a lost connection, and ends with an error reply."""
    loop = inspect.getsource(stock._StreamHandlerMixin._consume)
    assert stock.CONSUME_ERROR_BACKOFF_SECONDS == 5
    for part in (
        "while self.running:",
        "await self._get_msgs(*args)",
        "except ResponseError",
        "raise\n",
        "start_signal",
    ):
        assert part in loop


async def test_a_stream_that_redis_refuses_to_read_is_not_asked_in_a_hot_loop(
    place: Place, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that Redis replies: each attempt waits longer than the last; when the cause is gone, reading goes on."""
    stream, reader, failures = f"{place.keys.prefix}:s", Reader(), list[int]()

    def noted(failed: int) -> float:
        failures.append(failed)
        return 0.001

    monkeypatch.setattr(subscribers, "pause_s", noted)
    await place.redis.set(stream, "no stream")
    subscription = await subscribe(reader, stream)
    await soon(lambda: len(failures) >= 5)
    assert failures[:5] == [0, 1, 2, 3, 4]
    assert subscription.running
    await place.redis.delete(stream)
    await place.redis.xadd(stream, {"e": "1"})
    await soon(lambda: reader.read == ["1"])


def test_pauses_grow_and_stay_short() -> None:
    """Soon at first, and never more than half a second later than Redis is back; also after a night without it."""
    assert 0.025 <= pause_s(0) <= 0.05
    assert all(0.25 <= pause_s(failures) <= 0.5 for failures in (4, 10, 100_000))


async def test_a_subscription_whose_reading_has_ended_is_seen(place: Place, subscribe: Subscribe) -> None:
    """However it ended: the node gives up what it does not read any more."""
    subscription = await subscribe(Reader(), f"{place.keys.prefix}:s")
    assert subscription.running
    for task in subscription._subscriber.tasks:
        task.cancel()
    await soon(lambda: not subscription.running)


async def test_the_prefix_override_is_called_with_no_prefix(
    place: Place, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """add_prefix is how the stock class reads its own options; ours hands back itself."""
    prefixes: list[str] = []
    ours = subscribers._CursorSub.add_prefix

    def noted(self: subscribers._CursorSub, prefix: str) -> subscribers._CursorSub:
        prefixes.append(prefix)
        return ours(self, prefix)

    monkeypatch.setattr(subscribers._CursorSub, "add_prefix", noted)
    await subscribe(Reader(), f"{place.keys.prefix}:s")
    assert prefixes
    assert set(prefixes) == {""}


async def test_entries_after_the_cursor_are_read_in_order_and_no_others(place: Place, subscribe: Subscribe) -> None:
    """A backlog beyond one batch, from the middle of the stream, then what comes live."""
    stream, reader = f"{place.keys.prefix}:s", Reader()
    for number in range(1, 201):
        await place.redis.xadd(stream, {"e": str(number)}, id=f"{number}-0")
    await subscribe(reader, stream, "20-0")
    await place.redis.xadd(stream, {"e": "201"}, id="201-0")
    await soon(lambda: "201" in reader.read)
    assert reader.read == [str(number) for number in range(21, 202)]
    assert max(map(len, reader.batches)) <= 64


async def test_nothing_is_stored_on_the_server(place: Place, subscribe: Subscribe) -> None:
    """Cursor mode: no consumer group that could strand entries."""
    stream, reader = f"{place.keys.prefix}:s", Reader()
    await place.redis.xadd(stream, {"e": "1"})
    await subscribe(reader, stream)
    await soon(lambda: reader.read == ["1"])
    assert await place.redis.xinfo_groups(stream) == []


async def test_a_handler_that_is_slow_gets_one_batch_at_a_time(place: Place, subscribe: Subscribe) -> None:
    """No second batch while the first is in hand; that is what keeps order."""
    stream, running, most = f"{place.keys.prefix}:s", 0, 0
    read: list[str] = []

    class Slow(Reader):
        async def handle(self, batch: list[Entry]) -> None:
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            await asyncio.sleep(0)
            read.extend(fields[b"e"].decode() for _, fields in batch)
            running -= 1

    await subscribe(Slow(), stream)
    for number in range(100):
        await place.redis.xadd(stream, {"e": str(number)})
    await soon(lambda: len(read) == 100)
    assert read == [str(number) for number in range(100)]
    assert most == 1


async def test_reading_goes_on_soon_after_the_connection_was_lost(place: Place, subscribe: Subscribe) -> None:
    """The server is away for a moment: the same subscription reads the next entry on its return, none twice."""
    stream, reader = f"{place.keys.prefix}:s", Reader()
    async with LossyProxy(place.url.removeprefix("unix://")) as proxy:
        subscription = await subscribe(reader, stream, url=proxy.url)
        await place.redis.xadd(stream, {"e": "1"})
        await soon(lambda: reader.read == ["1"])
        proxy.refuse = True
        proxy.cut()
        await place.redis.xadd(stream, {"e": "2"})
        proxy.refuse = False
        await soon(lambda: reader.read == ["1", "2"])
        assert subscription.running
        await subscription.stop()


async def test_stopping_waits_for_the_batch_in_hand(place: Place, subscribe: Subscribe) -> None:
    """A commit that has begun is finished before anything is given up."""
    stream, release, entered, done = f"{place.keys.prefix}:s", asyncio.Event(), asyncio.Event(), []

    class Held(Reader):
        async def handle(self, batch: list[Entry]) -> None:
            entered.set()
            await release.wait()
            done.append(len(batch))

    subscription = await subscribe(Held(), stream)
    await place.redis.xadd(stream, {"e": "1"})
    await entered.wait()
    stopping = asyncio.create_task(subscription.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    release.set()
    await stopping
    assert done == [1]
    assert not subscription.running


async def test_a_stopped_subscription_holds_no_connection(place: Place) -> None:
    """Leases come and go: connections must not add up."""
    owner = broker(place.url, 64)
    await owner.connect()
    async with Redis.from_url(place.url) as redis:
        before = len(await redis.client_list())
        for number in range(5):
            subscription = Subscription(owner, f"{place.keys.prefix}:{number}", "0-0", Reader().handle)
            await subscription.start()
            await subscription.stop()
        await soon(lambda: not [task for task in asyncio.all_tasks() if "_consume" in repr(task.get_coro())])
        assert len(await redis.client_list()) <= before + 1
        await owner.stop()
