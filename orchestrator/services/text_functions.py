"""Makes intent and answer ports from the user's Python: a function, sync or async, or an object with the method.

A function takes the text, or the whole Request if its parameter is annotated so. Its exceptions become ServiceError; a
sync function runs in a thread. An object that cannot be a port raises TypeError when it is wired.
"""

import inspect
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, cast

from orchestrator.services.generators import guarded, threaded
from orchestrator.services.ports import (
    Answer,
    AnswerPort,
    Intent,
    IntentPort,
    Request,
    well_formed,
)
from orchestrator.services.user_functions import Function, UserFunction, checked_function


def intent_port(thing: object) -> IntentPort:
    """An IntentPort from an object with `classify`, or a function of the text returning a name or an Intent."""
    if callable(getattr(thing, "classify", None)):
        return cast("IntentPort", thing)
    return _FunctionIntent(checked_function(thing, "an intent service", "classify(request)"))


def answer_port(thing: object) -> AnswerPort:
    """An AnswerPort from an object with `stream`, or with `answer`, or from a function of the text.

    The function or the method `answer` returns a text or an Answer, or yields the pieces of a text, and an Answer with
    its sources as the last one if it likes. It may be sync or async.
    """
    if callable(getattr(thing, "stream", None)):
        return cast("AnswerPort", thing)
    method = getattr(thing, "answer", None)
    function = method if callable(method) and not isinstance(thing, type) else thing
    return _FunctionAnswer(checked_function(function, "an answer service", "answer(request)"), method is not None)


async def whole_answer(port: AnswerPort, request: Request) -> Answer:
    """The whole answer of a port, also if it comes in pieces. Raises ServiceError."""
    texts: list[str] = []
    sources: tuple[str, ...] = ()
    async with aclosing(port.stream(request)) as pieces:
        async for piece in pieces:
            texts.append(piece.answer if isinstance(piece, Answer) else piece)
            if isinstance(piece, Answer):
                sources = piece.sources
    return Answer("".join(texts), sources)


class _FunctionIntent:
    """IntentPort by a user's function."""

    def __init__(self, function: Function) -> None:
        self._function = UserFunction(function)

    async def classify(self, request: Request) -> Intent:
        """Classify a text. A bare name counts as certain. Raises ServiceError."""
        result = await self._function.call(self._function.argument(request))
        if isinstance(result, Intent):
            return result
        if isinstance(result, str):
            return self._function.checked(Intent, result, 1000)
        raise self._function.wrong_result(result, "a text or an Intent")


class _FunctionAnswer:
    """AnswerPort by a user's function."""

    def __init__(self, function: Function, is_method: bool) -> None:
        self._function = UserFunction(function)
        self._is_method = is_method
        """The method of a port: it always takes the whole request."""

    async def stream(self, request: Request) -> AsyncGenerator[str | Answer, None]:
        """The answer whole, or its pieces as the function yields them. Raises ServiceError."""
        function = self._function
        argument = request if self._is_method else function.argument(request)
        is_generator = inspect.isasyncgenfunction(function.function)
        result = function.function(argument) if is_generator else await function.call(argument)
        if isinstance(result, str):
            result = function.checked(Answer, result)
        if isinstance(result, Answer):
            yield result
            return
        async with aclosing(self._pieces(result)) as pieces:
            async for piece in pieces:
                if not isinstance(piece, str | Answer):
                    raise function.wrong_result(piece, "pieces of a text, or an Answer")
                yield piece if isinstance(piece, Answer) else well_formed(piece)

    def _pieces(self, result: Any) -> AsyncGenerator[Any, None]:
        if hasattr(result, "__aiter__"):
            return guarded(self._function, result)
        if isinstance(result, Iterator):
            return threaded(self._function, result)
        raise self._function.wrong_result(result, "a text or an Answer, or a generator of a text")
