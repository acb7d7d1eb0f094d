"""Tool calls and requests to a model in an answer function: `Request.once` and `Request.ask_model`."""

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from orchestrator.services.failures import ToolError
from orchestrator.services.journal import ModelReply, PendingToolCall
from orchestrator.services.ports import Request
from orchestrator.services.user_functions import UserFunction
from orchestrator.session.digest import digest

MAX_CHARACTERS = 8_000
"""Longest arguments, and longest result, of a tool call."""
KEY = "idempotency_key"


async def once(
    request: Request,
    name: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    is_cancellable: bool,
) -> Any:
    """Run a call of a function, or get its recorded result. Raises ToolError, and TypeError for arguments that the
    function does not take.
    """
    request.attempt.speak_now()
    pending = replace(_pending(name, function, args, kwargs), is_cancellable=is_cancellable)
    return json.loads(await request.attempt.journal.call(pending))


def _pending(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> PendingToolCall:
    parameters = inspect.signature(function)
    wants_key = KEY in parameters.parameters and KEY not in kwargs
    bound = parameters.bind(*args, **kwargs, **({KEY: ""} if wants_key else {}))
    if wants_key:
        del bound.arguments[KEY]

    async def run(key: str) -> str:
        own = {**kwargs, KEY: key} if wants_key else kwargs
        user_function = UserFunction(partial(function, *args, **own))
        user_function.name = name
        return as_json(await user_function.call(), f"the result of {name}")

    return PendingToolCall(name, as_json(bound.arguments, f"the arguments of {name}"), run)


async def ask_model(request: Request, ask: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Ask a model, or get its recorded response."""

    async def respond() -> tuple[str, ModelReply]:
        given = await ask(*args, **kwargs)
        reply = given if isinstance(given, ModelReply) else ModelReply(given)
        return _to_json(reply.value, "the response of the model"), reply

    return json.loads(await request.attempt.journal.respond(respond, _digest((args, kwargs))))


def _digest(request: object) -> str:
    """A digest of a request to a model; empty: JSON cannot hold it."""
    try:
        return digest(to_json(request))
    except (PydanticSerializationError, ValueError):
        return ""


def as_json(value: Any, what: str) -> str:
    """Return the arguments or the result of a tool call as JSON, also of models and dataclasses. Raises ToolError that
    names `what` if JSON cannot hold the value, such as NaN, or if it has more than MAX_CHARACTERS characters.
    """
    text = _to_json(value, what)
    try:
        json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        raise _no_json(what, error) from error
    if len(text) > MAX_CHARACTERS:
        problem = f"{what} has {len(text)} characters of JSON; at most {MAX_CHARACTERS} are allowed"
        raise ToolError(problem, in_our_words=problem)
    return text


def _to_json(value: Any, what: str) -> str:
    """Return a value as JSON as Python reads it: NaN and Infinity stay, such as a token's log probability in a response
    of a model, which only this program reads again. Raises ToolError that names `what`.
    """
    try:
        return to_json(value).decode()
    except (PydanticSerializationError, ValueError) as error:
        raise _no_json(what, error) from error


def _no_json(what: str, error: Exception) -> ToolError:
    problem = f"{what} cannot be written as JSON"
    return ToolError(f"{problem}: {str(error)[:200]}", in_our_words=problem)


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")
