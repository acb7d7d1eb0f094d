"""Calls that end in ugly ways free their lines at once and leave nothing behind: the short form of endings.py."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from orchestrator import Orchestrator
from tests.calls.endings import LINES, WAYS, end_ten, measure, ten_lines

pytestmark = [pytest.mark.calls, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Orchestrator]:
    async with ten_lines() as service:
        for name in WAYS:  # what is loaded and opened once
            await end_ten(name, service.url)
        yield service


@pytest.mark.parametrize("way", WAYS)
async def test_ten_calls_free_their_lines_and_leave_nothing(way: str, service: Orchestrator) -> None:
    assert await measure(service, way, LINES)
