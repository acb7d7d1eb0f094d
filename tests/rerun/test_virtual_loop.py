"""The loop of a rerun skips waiting, but not for sockets and threads."""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from orchestrator.reruns.virtual_loop import VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def took_s(loop: VirtualLoop, work: Coroutine[Any, Any, object]) -> tuple[float, float]:
    """Seconds that it took: virtual, and real."""
    began_s, really_s = loop.time(), time.monotonic()
    loop.run_until_complete(work)
    return loop.time() - began_s, time.monotonic() - really_s


def test_sleeping_takes_virtual_time_alone(loop: VirtualLoop) -> None:
    virtual_s, real_s = took_s(loop, asyncio.sleep(3_600))
    assert virtual_s == pytest.approx(3_600)
    assert real_s < 60


def test_sleepers_wake_in_the_order_of_their_times(loop: VirtualLoop) -> None:
    woke: list[int] = []

    async def sleep(seconds: int) -> None:
        await asyncio.sleep(seconds)
        woke.append(seconds)

    async def all_of_them() -> None:
        await asyncio.gather(sleep(30), sleep(10), sleep(20))

    assert took_s(loop, all_of_them())[0] == pytest.approx(30)
    assert woke == [10, 20, 30]


def test_a_deadline_ends_what_waits_for_ever(loop: VirtualLoop) -> None:
    async def hangs() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 60)

    assert took_s(loop, hangs())[0] == pytest.approx(60)


def test_a_thread_takes_the_time_it_takes(loop: VirtualLoop) -> None:
    """A deadline of a minute is not skipped to meanwhile. Less only by what the loop computed, which takes no time."""
    work = asyncio.wait_for(asyncio.to_thread(time.sleep, 0.2), 60)
    virtual_s, real_s = took_s(loop, work)
    assert 0 < virtual_s <= real_s < 60


def test_after_a_thread_time_is_skipped_again(loop: VirtualLoop) -> None:
    loop.run_until_complete(asyncio.to_thread(int))
    virtual_s, real_s = took_s(loop, asyncio.sleep(3_600))
    assert virtual_s >= 3_600
    assert real_s < 60


def test_a_socket_is_waited_for(loop: VirtualLoop) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async def asks() -> None:
        async with await asyncio.start_server(answers, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            assert await asyncio.wait_for(reader.read(), 3_600) == b"hello\n"
            writer.close()

    assert took_s(loop, asks())[0] < 60
