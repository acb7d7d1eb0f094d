"""end_within: what belongs to others ends in time, or is left behind, counted and named in one line."""

import asyncio
import logging
from collections import Counter

import pytest

from orchestrator.teardown import STUCK, _abandoned, end_within


async def stubborn(released: asyncio.Event) -> None:
    """Does not even end when it is cancelled."""
    while not released.is_set():
        try:
            await released.wait()
        except asyncio.CancelledError:
            continue


async def all_have_ended() -> None:
    async with asyncio.timeout(1):
        while _abandoned:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


async def test_what_ends_in_time_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    counters: Counter[str] = Counter()
    assert await end_within("a part", asyncio.sleep(0), counters=counters)
    assert not counters
    assert not caplog.records


async def test_what_does_not_end_is_left_behind_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    """It is cancelled; nothing of it is left when it obeys."""
    counters: Counter[str] = Counter()
    never = asyncio.Event()
    assert not await end_within("a part of theirs", never.wait(), within_s=0.01, counters=counters)
    await all_have_ended()
    assert counters == {STUCK: 1}
    (record,) = caplog.records
    assert "a part of theirs did not end within 0.01 s" in record.getMessage()


async def test_what_ignores_even_that_keeps_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """It is referred to until it ends, or asyncio would complain about it in its own words."""
    released = asyncio.Event()
    assert not await end_within("a stubborn part", stubborn(released), within_s=0.01)
    assert len(_abandoned) == 1
    released.set()
    await all_have_ended()
    assert len(caplog.records) == 1


async def test_what_breaks_does_not_keep_the_rest_from_ending(caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged with what it belongs to."""

    async def breaks() -> None:
        raise OSError("the library broke")

    caplog.set_level(logging.ERROR)
    assert not await end_within("a fragile part", breaks())
    (record,) = caplog.records
    assert "a fragile part broke" in record.getMessage()
    assert "the library broke" in record.exc_text


async def test_whoever_is_cancelled_meanwhile_is_cancelled() -> None:
    """And what it waited for with it."""
    never = asyncio.Event()
    waiting = asyncio.create_task(end_within("a part", never.wait(), within_s=60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await all_have_ended()
