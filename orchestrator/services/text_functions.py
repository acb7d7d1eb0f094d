"""Intent and answer services from the user's own Python: a plain function, sync or async, or an object with the method.

A function takes the text, or the whole Request if its parameter is annotated so. What it raises becomes a
ServiceError; a sync function runs in a thread. Whatever cannot be a port is a TypeError when it is wired.
"""

import asyncio
import inspect
import typing
from collections.abc import Awaitable, Callable
from typing import Any, cast

from orchestrator.services.ports import (
    Answer,
    AnswerPort,
    Intent,
    IntentPort,
    Request,
    ServiceError,
)

Function = Callable[..., Any]


def intent_port(thing: object) -> IntentPort:
    """An IntentPort from an object with `classify`, or a function of the text returning a name or an Intent."""
    if callable(getattr(thing, "classify", None)):
        return cast("IntentPort", thing)
    return _FunctionIntent(checked_function(thing, "an intent service", "classify(request)"))


def answer_port(thing: object) -> AnswerPort:
    """An AnswerPort from an object with `answer`, or a function of the text returning a text or an Answer."""
    if callable(getattr(thing, "answer", None)):
        return cast("AnswerPort", thing)
    return _FunctionAnswer(checked_function(thing, "an answer service", "answer(request)"))


class UserFunction:
    """A function of the user's that is asked one thing, whether it is sync or async."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.name = str(getattr(function, "__qualname__", type(function).__name__))
        self._wants_request = _wants_request(function)

    def argument(self, request: Request) -> Request | str:
        return request if self._wants_request else request.text

    async def call(self, *arguments: object) -> Any:
        """Its result. A sync function runs in a thread: one that is cancelled is left to itself there."""
        if is_async(self.function):
            return await self.guard(self.function(*arguments))
        result = await self.in_thread(self.function, *arguments)
        return await self.guard(result) if inspect.isawaitable(result) else result

    async def guard(self, awaitable: Awaitable[Any]) -> Any:
        """Await the user's awaitable; its exceptions become ServiceError, our own cancellation passes."""
        try:
            return await awaitable
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Something inside the function was cancelled, not we: to us that is a failure like any other.
            raise ServiceError(f"{self.name} was cancelled from within") from error
        except Exception as error:
            raise self.failed(error) from error

    async def in_thread(self, function: Function, *arguments: object) -> Any:
        """Run a sync function in a thread; its exceptions become ServiceError there."""

        def run() -> tuple[Any, Exception | None]:
            # Caught in the thread: a StopIteration could not be set on a future, and the caller would wait for ever.
            try:
                return function(*arguments), None
            except Exception as error:  # noqa: BLE001 - handed over and raised below
                return None, error

        result, error = await asyncio.to_thread(run)
        if error is not None:
            raise self.failed(error) from error
        return result

    def failed(self, error: Exception) -> ServiceError:
        if isinstance(error, ServiceError):
            return error
        return ServiceError(f"{self.name} raised {type(error).__name__}: {error}"[:500])

    def wrong_result(self, result: object, expected: str) -> ServiceError:
        return ServiceError(f"{self.name} returned {type(result).__name__}; expected {expected}")


class _FunctionIntent:
    """IntentPort by a user's function."""

    def __init__(self, function: Function) -> None:
        self._function = UserFunction(function)

    async def classify(self, request: Request) -> Intent:
        """A bare name counts as certain. Raises ServiceError."""
        result = await self._function.call(self._function.argument(request))
        if isinstance(result, Intent):
            return result
        if isinstance(result, str):
            return Intent(result, confidence_permille=1000)
        raise self._function.wrong_result(result, "a text or an Intent")


class _FunctionAnswer:
    """AnswerPort by a user's function."""

    def __init__(self, function: Function) -> None:
        self._function = UserFunction(function)

    async def answer(self, request: Request) -> Answer:
        """Raises ServiceError."""
        result = await self._function.call(self._function.argument(request))
        if isinstance(result, Answer):
            return result
        if isinstance(result, str):
            return Answer(result)
        raise self._function.wrong_result(result, "a text or an Answer")


def checked_function(thing: object, role: str, method: str) -> Function:
    """The thing itself if it can be called with one argument; raises TypeError saying what would be right."""
    if not callable(thing) or isinstance(thing, type):
        raise TypeError(
            f"{thing!r} cannot be {role}: give a function of one text, or an object with a method {method}"
            + (" (this is a class: did you mean an instance of it?)" if isinstance(thing, type) else "")
        )
    try:
        inspect.signature(thing).bind("text")
    except TypeError as error:
        raise TypeError(f"{thing!r} cannot be {role}: it must take one argument, the text ({error})") from None
    except ValueError:  # some functions written in C have no signature: the first call will tell
        pass
    return thing


def is_async(function: Function) -> bool:
    """Whether calling it gives a coroutine; also true of objects with an async __call__."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _wants_request(function: Function) -> bool:
    target = function if inspect.isroutine(function) else type(function).__call__
    try:
        hints = typing.get_type_hints(target)
        first = next(iter(inspect.signature(function).parameters))
    except (NameError, TypeError, ValueError, StopIteration):
        # No readable annotations: then it is an ordinary function of a text.
        return False
    return hints.get(first) is Request
