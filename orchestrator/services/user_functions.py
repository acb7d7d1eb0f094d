"""Calls the user's Python functions, sync or async: their exceptions become ServiceError, sync ones run in threads."""

import asyncio
import contextlib
import inspect
import logging
import threading
import typing
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar

from orchestrator.safe_text import safe_error
from orchestrator.services.failures import ServiceError, cancellation_from_within_fails
from orchestrator.services.ports import Request

_log = logging.getLogger(__name__)

T = TypeVar("T")
Function = Callable[..., Any]


async def _in_daemon_thread(function: Callable[[], T]) -> T:
    """Run a function that raises nothing in a thread of its own.

    The executor of asyncio.to_thread has few threads, so some functions that hang would hold up every call; and it is
    joined at exit, so one of them would keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    returned: asyncio.Future[T] = loop.create_future()

    def settle(result: T) -> None:
        if not returned.done():  # cancelled meanwhile
            returned.set_result(result)

    def work() -> None:
        result = function()
        with contextlib.suppress(RuntimeError):  # the event loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=copy_context().run, args=(work,), name="user's function", daemon=True).start()
    return await returned


def _ours(message: str) -> ServiceError:
    """A ServiceError whose message quotes no user or service, so masked logs show all of it."""
    return ServiceError(message, in_our_words=message)


class UserFunction:
    """Calls a user's function with one argument, whether it is sync or async."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.name = str(getattr(function, "__qualname__", type(function).__name__))
        self._wants_request = _wants_request(function)

    def argument(self, request: Request) -> Request | str:
        return request if self._wants_request else request.text

    async def call(self, *arguments: object) -> Any:
        """Call the function and return its result. A sync function runs in a thread that cancelling cannot stop."""
        if is_async(self.function):
            return await self.guard(self.function(*arguments))
        result = await self.in_thread(self.function, *arguments)
        return await self.guard(result) if inspect.isawaitable(result) else result

    async def guard(self, awaitable: Awaitable[Any]) -> Any:
        """Await the user's awaitable. Its exceptions become ServiceError; a cancellation of this task is raised."""
        try:
            with cancellation_from_within_fails(self.name):
                return await awaitable
        except Exception as error:
            raise self.failed(error) from error

    async def in_thread(self, function: Function, *arguments: object) -> Any:
        """Run a sync function in a thread; its exceptions become ServiceError there."""

        def run() -> tuple[Any, BaseException | None]:
            # Caught in the thread: a StopIteration cannot be set on a future, so the caller would wait for ever. A
            # SystemExit would end the thread alone.
            try:
                return function(*arguments), None
            except BaseException as error:  # noqa: BLE001 - handed over and raised below
                return None, error

        result, error = await _in_daemon_thread(run)
        if error is not None:
            raise self.failed(error) from error
        return result

    def failed(self, error: BaseException) -> ServiceError:
        """The ServiceError for a failure. Logs the traceback unless the user's function raised ServiceError itself."""
        if isinstance(error, ServiceError):
            return error
        _log.error("%s raised %s", self.name, type(error).__name__, exc_info=error)
        ours = f"{self.name} raised {type(error).__name__}"
        return ServiceError(f"{ours}: {safe_error(error)}"[:500], in_our_words=ours)

    def checked(self, make: Callable[..., T], *values: Any) -> T:
        """Convert the function's result into a port's result. Raises ServiceError that names the function."""
        try:
            return make(*values)
        except ServiceError as error:
            ours = f"{self.name}: {error.in_our_words}"
            raise ServiceError(f"{self.name}: {error}", in_our_words=ours) from error

    def wrong_result(self, result: object, expected: str) -> ServiceError:
        return _ours(f"{self.name} returned {type(result).__name__}; expected {expected}")


def checked_function(thing: object, role: str, method: str) -> Function:
    """Return `thing` if it can be called with one argument. Raises TypeError that names the expected form."""
    if not callable(thing) or isinstance(thing, type):
        raise TypeError(
            f"{thing!r} cannot be {role}: give a function of one text, or an object with a method {method}"
            + (" (this is a class: did you mean an instance of it?)" if isinstance(thing, type) else "")
        )
    try:
        inspect.signature(thing).bind("text")
    except TypeError as error:
        raise TypeError(f"{thing!r} cannot be {role}: it must take one argument, the text ({error})") from None
    except ValueError:  # some C functions have no signature: a mismatch shows at the first call
        pass
    return thing


def is_async(function: Function) -> bool:
    """Whether a call returns a coroutine; also true for objects with an async __call__."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _wants_request(function: Function) -> bool:
    """Whether the first parameter is annotated as a Request. Other annotations do not matter: a type checker's imports
    may not exist at run time.
    """
    try:
        first = next(iter(inspect.signature(function).parameters.values())).annotation
    except (TypeError, ValueError, StopIteration):  # no readable signature: a function of a text
        return False
    if typing.get_origin(first) is typing.Annotated:
        first = first.__origin__
    if not isinstance(first, str):
        return first is Request
    while isinstance(function, partial):
        function = function.func
    target = inspect.unwrap(function if inspect.isroutine(function) else type(function).__call__)
    known = getattr(target, "__globals__", {})
    try:
        return typing.get_type_hints(SimpleNamespace(__annotations__={"first": first}), known)["first"] is Request
    except Exception:  # noqa: BLE001 - its name is imported for type checkers alone, or inside a function
        return first.rpartition(".")[2] == Request.__name__
