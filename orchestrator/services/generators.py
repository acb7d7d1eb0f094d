"""Iterates generators of the user's, async and sync: their exceptions become ServiceError, and closing closes them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.services.failures import ServiceError, cancellation_from_within_fails
from orchestrator.teardown import END_S

if TYPE_CHECKING:
    from orchestrator.services.user_functions import UserFunction

_log = logging.getLogger(__name__)
_END = object()


async def guarded(function: "UserFunction", pieces: Any) -> AsyncGenerator[Any, None]:
    """The pieces of the user's async iterator. Its exceptions become ServiceError; closing this generator closes it."""
    iterator = aiter(pieces)
    try:
        while (piece := await function.guard(anext(iterator, _END))) is not _END:
            yield piece
            await asyncio.sleep(0)  # an iterator that never waits must not block other calls
    finally:
        if hasattr(iterator, "aclose"):
            await _close(function, iterator.aclose())


async def _close(function: "UserFunction", closing: Awaitable[None]) -> None:
    """Close an async generator within END_S, in the task that has iterated it: what it opened around a `yield` may be
    bound to the context of that task, such as a span of a trace.
    """
    limit = asyncio.timeout(END_S)
    try:
        async with limit:
            with cancellation_from_within_fails(function.name):
                await closing
    except Exception as error:  # noqa: BLE001 - of any kind: the generator is over
        problem = f"did not end within {END_S:g} s" if limit.expired() else "broke while it was ended"
        _log.error("the generator of %s %s", function.name, problem, exc_info=error)


async def threaded(function: "UserFunction", iterator: Iterator[Any]) -> AsyncGenerator[Any, None]:
    """The pieces of the user's sync iterator. Each step and the close run in a thread."""
    step: asyncio.Task[Any] | None = None
    try:
        while True:
            step = asyncio.create_task(function.in_thread(next, iterator, _END))
            # Shielded: a running generator cannot be closed, so the step must run to its end.
            if (piece := await asyncio.shield(step)) is _END:
                return
            yield piece
    finally:
        if hasattr(iterator, "close"):
            _close_later(function, iterator.close, step)


_closing: set[asyncio.Task[None]] = set()


def _close_later(function: "UserFunction", close: Callable[[], None], step: "asyncio.Task[Any] | None") -> None:
    """Close a sync generator in a thread after its running step, without keeping the caller waiting."""

    async def run() -> None:
        try:
            if step is not None:
                await asyncio.wait([step])
                if not step.cancelled():
                    step.exception()  # mark the exception as retrieved: it was already raised, or the caller is gone
            await function.in_thread(close)
        except ServiceError:
            _log.exception("closing the generator of %s failed", function.name)

    task = asyncio.get_running_loop().create_task(run())
    _closing.add(task)
    task.add_done_callback(_closing.discard)
