"""Tool calls and requests to a model in an answer function: `Request.once` and `Request.ask_model`."""

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from orchestrator.services.failures import ToolError
from orchestrator.services.journal import ModelReply, Work
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
    work = replace(_work(name, function, args, kwargs), is_cancellable=is_cancellable)
    return json.loads(await request.attempt.journal.call(work))


def _work(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Work:
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

    return Work(name, as_json(bound.arguments, f"the arguments of {name}"), run)


async def ask_model(request: Request, ask: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Ask a model, or get its recorded response."""

    async def respond() -> tuple[str, ModelReply]:
        given = await ask(*args, **kwargs)
        reply = given if isinstance(given, ModelReply) else ModelReply(given)
        return as_json(reply.value, "the response of the model", most=0), reply

    return json.loads(await request.attempt.journal.respond(respond, _digest((args, kwargs))))


def _digest(request: object) -> str:
    """A digest of a request to a model; empty: JSON cannot hold it."""
    try:
        return digest(to_json(request))
    except (PydanticSerializationError, ValueError):
        return ""


def as_json(value: Any, what: str, most: int = MAX_CHARACTERS) -> str:
    """A value as JSON, also of models and dataclasses. Raises ToolError that names `what` cannot be written; 0: it may
    have any length.
    """
    try:
        text = to_json(value).decode()
    except (PydanticSerializationError, ValueError) as error:
        problem = f"{what} cannot be written as JSON"
        raise ToolError(f"{problem}: {str(error)[:200]}", in_our_words=problem) from error
    if most and len(text) > most:
        problem = f"{what} has {len(text)} characters of JSON; at most {most} are allowed"
        raise ToolError(problem, in_our_words=problem)
    return text
