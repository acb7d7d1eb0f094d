"""Fixtures of the media tests: spoken sentences, and calls that are hung up whatever happens."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.media.speech import speak
from tests.media.stubs import Call, connect


@pytest.fixture(scope="session")
def sentence() -> bytes:
    """About 1.5 s of speech without a pause in it, 16 kHz mono."""
    return speak("Turn on the light in the kitchen")


@pytest.fixture(scope="session")
def word() -> bytes:
    """Half a second of speech, 16 kHz mono."""
    return speak("Hello there")


@pytest.fixture
async def make_call() -> AsyncIterator[Callable[..., Awaitable[Call]]]:
    """Connects calls and hangs all of them up after the test."""
    calls: list[Call] = []

    async def make(*args: object, **kwargs: object) -> Call:
        calls.append(await connect(*args, **kwargs))  # type: ignore[arg-type]
        return calls[-1]

    yield make
    for call in calls:
        await call.handler.close()
        await call.peer.close()


@pytest.fixture
async def call(make_call: Callable[..., Awaitable[Call]]) -> Call:
    """One connected call with the default settings."""
    return await make_call()
