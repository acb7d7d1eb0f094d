"""The record of the work on a question, as an attempt at its answer sees it: tool calls, and requests to a model."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from orchestrator.services.failures import ServiceError, ToolError


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A response of a model, for `Request.ask_model`, with what observers want to know of it.

    `value` is what JSON can hold; the tokens are those of the request and of the response.
    """

    value: Any
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PendingToolCall:
    """A tool call that is to run: `run` takes its idempotency key and returns its result as JSON.

    `call_id` distinguishes it from other calls of its question; empty: its name, arguments and order do.
    """

    name: str
    arguments: str
    run: Callable[[str], Awaitable[str]]
    is_cancellable: bool = False
    call_id: str = ""


Response = Callable[[], Awaitable[tuple[str, ModelReply]]]
"""Asks a model; its response as JSON, and as it came."""


class JournalPort(Protocol):
    """The record of the work on a question."""

    def begin(self) -> None:
        """An attempt at the answer begins: calls of the same name and arguments are counted anew."""

    async def call(self, pending: PendingToolCall) -> str:
        """The recorded result of the call as JSON; else run it and record its result. Raises ToolError."""
        ...

    async def respond(self, ask: Response, request: str) -> str:
        """The recorded response to this request to a model as JSON; else ask, and record the response. `request` is a
        digest of the request; empty: it is not known.
        """
        ...


@runtime_checkable
class ProviderJournals(Protocol):
    """What a JournalPort may have as well: it keeps the model responses of several providers apart."""

    def begin_provider(self, number: int) -> None:
        """An attempt of the provider with this number begins; the first choice has 1."""


class NoJournal:
    """Records nothing: for a Request that is made by hand, as in a test of an answer function."""

    def begin(self) -> None:
        pass

    async def call(self, pending: PendingToolCall) -> str:
        try:
            return await pending.run("")
        except ServiceError as error:
            raise ToolError(str(error), in_our_words=error.in_our_words) from error

    async def respond(self, ask: Response, request: str) -> str:  # noqa: ARG002 - it has no record
        return (await ask())[0]
