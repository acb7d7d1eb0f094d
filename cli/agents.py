"""Loads the agent that `orch serve MODULE:NAME` names: an answer function or object, a factory of one, or a service."""

import importlib
import inspect
import sys
import traceback
from pathlib import Path
from typing import Any

from cli.terminal import UsageError
from orchestrator.app import Orchestrator
from orchestrator.safe_text import named_error
from orchestrator.settings import Settings


def load(name: str) -> object:
    """The object NAME of MODULE, found from the working directory. Raises UsageError, with the line of a mistake."""
    module_name, _, attribute = name.partition(":")
    folder = str(Path.cwd())
    if module_name.endswith(".py") or "/" in module_name:
        meant = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise UsageError(f"{name!r} names a file; name the module: {meant}:{attribute or 'agent'}")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UsageError(f"no module {module_name!r} in {folder}; start orch where {module_name}.py is") from None
        raise UsageError(f"{module_name!r} cannot be imported: {_where(error)}") from error
    except Exception as error:
        raise UsageError(f"{module_name!r} cannot be imported: {_where(error)}") from error
    for part in (attribute or "agent").split("."):
        if not hasattr(found, part):
            names = ", ".join(one for one in vars(found) if not one.startswith("_")) or "nothing"
            raise UsageError(f"{module_name!r} has no {part!r}; it has {names}"[:500])
        found = getattr(found, part)
    return found


async def service_of(thing: object, name: str, settings: Settings) -> Orchestrator:
    """The service that runs an agent: the thing itself if it is a service, else a service that answers with it.

    Raises UsageError for a thing that cannot answer, and for a factory that raises.
    """
    thing = await instantiate(thing, name)
    if isinstance(thing, Orchestrator):
        return thing
    try:
        return Orchestrator(settings, answer=thing)
    except TypeError as error:
        raise UsageError(f"{name}: {error}") from None


async def instantiate(thing: object, name: str) -> object:
    """The agent itself. A function or class without required parameters is a factory: it is called. Raises UsageError
    for a factory that raises, or that gives nothing.
    """
    if _is_factory(thing):
        try:
            thing = thing()  # type: ignore[operator] # a class, or a routine
            thing = await thing if inspect.isawaitable(thing) else thing
        except Exception as error:
            raise UsageError(f"{name} cannot be made: {_where(error)}") from error
    if thing is None:
        raise UsageError(f"{name} gives None: expected an answer function or object, or an Orchestrator")
    return thing


def _is_factory(thing: object) -> bool:
    """Whether it is a class, or a function that needs no argument."""
    if isinstance(thing, type):
        return True
    if not inspect.isroutine(thing):
        return False
    try:
        inspect.signature(thing).bind()
    except (TypeError, ValueError):  # some C functions have no signature
        return False
    return True


def _where(error: Exception) -> str:
    """An error of the user's code in one sentence: the last line of theirs that it went through, and what it says."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    folder = str(Path.cwd())
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(folder) and "site-packages" not in frame.filename]
    at = f"{ours[-1].filename}, line {ours[-1].lineno}: " if ours else ""
    return f"{at}{named_error(error)}"
