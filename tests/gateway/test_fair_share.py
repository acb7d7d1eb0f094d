"""Fair shares: whose input is handled first when more is sent than the node takes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from orchestrator.gateway import fair_share
from orchestrator.gateway.fair_share import BURST, FREE_IN_A_ROW, FairShare, Share
from orchestrator.token_bucket import TokenBucket
from tests.runtime.support import PATIENCE_S, soon

NEVER_PER_S = 1e-6


@pytest.fixture
async def shares(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FairShare]:
    """Of a node that never has a turn for hasty conversations, and looks again after an hour unless somebody comes."""
    monkeypatch.setattr(fair_share, "HASTY_PER_S", NEVER_PER_S)
    monkeypatch.setattr(fair_share, "TICK_S", 3_600.0)
    async with FairShare(1_000, Counter()) as shares:
        yield shares


def conversation() -> Share:
    return Share(TokenBucket(1.0, BURST))


async def test_a_patient_caller_does_not_wait_behind_a_hasty_one(shares: FairShare) -> None:
    """Neither for their turn nor for the next look at the queue, with hasty conversations in the queue all the time."""
    hasty = [asyncio.create_task(shares.turn(conversation(), lambda: True)) for _ in range(5)]
    await soon(lambda: shares.waiting == len(hasty))
    for _ in range(5):
        async with asyncio.timeout(PATIENCE_S):
            await shares.turn(conversation(), lambda: False)
    assert not any(task.done() for task in hasty)
    for task in hasty:
        task.cancel()
    await asyncio.gather(*hasty, return_exceptions=True)
    assert shares.waiting == 0


async def test_a_new_conversation_is_hasty_when_it_sends_more_than_two_in_a_row(shares: FairShare) -> None:
    """Its burst counts against those of the hasty: conversations that are opened again and again bring no new turns."""
    new = conversation()
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(FREE_IN_A_ROW):
            await shares.turn(new, lambda: False)
    third = asyncio.create_task(shares.turn(new, lambda: False))
    await soon(lambda: shares.waiting == 1)
    async with asyncio.timeout(PATIENCE_S):
        await shares.turn(conversation(), lambda: False)
    assert not third.done()
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
