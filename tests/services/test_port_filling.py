"""Opening and closing of users' ports with the service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Self

import pytest

from orchestrator import port_filling
from orchestrator.port_filling import enter, fill_ports, users_ports
from orchestrator.services.failures import ServiceError
from orchestrator.services.fallback import Health
from orchestrator.services.ports import Answer, Intent, Request
from orchestrator.services.text_functions import whole_answer
from orchestrator.session.policy import Policy
from orchestrator.settings import Settings


class Opened:
    """Notes when it was opened and closed."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __aenter__(self) -> Self:
        self.seen.append("opened")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.seen.append("closed")


class WithAnswer(Opened):
    async def answer(self, request: Request) -> str:
        return request.text


class WithStream(Opened):
    async def stream(self, request: Request) -> AsyncIterator[str]:
        yield request.text


class Called(Opened):
    def __call__(self, text: str) -> str:
        return text


@pytest.mark.parametrize("kind", [WithAnswer, WithStream, Called])
async def test_an_object_is_opened_and_closed_whatever_makes_it_a_port(kind: type[Opened]) -> None:
    """A method `stream`, a method `answer`, or a call of the object itself."""
    thing = kind()
    (port,) = users_ports(answer=thing)["answer"]
    async with AsyncExitStack() as stack:
        await enter(port, stack)
        assert thing.seen == ["opened"]
        assert await whole_answer(port, Request("hi")) == Answer("hi")
    assert thing.seen == ["opened", "closed"]


class Both(WithAnswer):
    async def classify(self, request: Request) -> Intent:
        return Intent("any", 1000)


async def test_one_object_for_two_ports_is_opened_once() -> None:
    both = Both()
    given = users_ports(intent=both, answer=[both, both], tts=lambda _: bytes(2), stt=lambda _: "")
    async with AsyncExitStack() as stack:
        await fill_ports(Settings(), Policy(), given, stack, Health(lambda _: None))
        assert both.seen == ["opened"]
    assert both.seen == ["opened", "closed"]


class Hanging(WithStream):
    async def __aexit__(self, *_: object) -> None:
        await asyncio.Event().wait()


class Broken(WithStream):
    async def __aexit__(self, *_: object) -> None:
        raise RuntimeError("no route to the tool server")


@pytest.mark.parametrize("kind", [Hanging, Broken])
async def test_a_port_that_does_not_close_keeps_no_other_from_closing(
    kind: type[Opened], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names it."""
    monkeypatch.setattr(port_filling, "CLOSE_S", 0.05)
    first = WithAnswer()
    async with asyncio.timeout(10), AsyncExitStack() as stack:
        for port in users_ports(answer=[first, kind()])["answer"]:
            await enter(port, stack)
    assert first.seen == ["opened", "closed"]
    assert kind.__name__ in caplog.text


async def test_a_port_that_cannot_be_opened_is_named() -> None:
    class Closed(WithAnswer):
        async def __aenter__(self) -> Self:
            raise RuntimeError("no key")

    with pytest.raises(ServiceError, match=r"cannot be opened: RuntimeError: no key"):
        async with AsyncExitStack() as stack:
            await enter(users_ports(answer=Closed())["answer"][0], stack)
