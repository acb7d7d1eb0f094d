"""Maps the errors of commands to exit codes, and prints them."""

import os
import sys
import traceback

from cli.exits import FAULT, READER_GONE, UNUSABLE, USAGE
from cli.terminal import UsageError, say, words


class OutputError(Exception):
    """Standard output cannot be written."""


def exit_code_of(error: Exception) -> int:
    """Print an error and return its exit code. An error that no user can cause is printed with its traceback."""
    if (problem := _output_problem(error)) is not None:
        if isinstance(problem, BrokenPipeError):
            return READER_GONE
        say(f"✗ standard output cannot be written: {words(problem)}")
        return UNUSABLE
    if isinstance(error, _usage()):
        say(f"✗ {words(error)}")
        return USAGE
    if isinstance(error, _unusable()):
        say(f"✗ {words(error)}")
        return UNUSABLE
    from orchestrator.safe_text import safe_traceback

    say(f"Traceback (most recent call last):\n{safe_traceback(error)}")
    say(f"✗ a fault in orch: {type(error).__name__}; please report it with the lines above")
    return FAULT


def _output_problem(error: Exception) -> OSError | None:
    """The error of writing standard output, or None. Redirects it to /dev/null then: Python would try again on exit."""
    cause = error.__cause__ if isinstance(error, OutputError) else error
    if not isinstance(cause, OSError):
        return None
    try:
        sys.stdout.flush()
    except OSError as problem:
        cause = problem
    else:
        if cause.filename or not _was_printed(cause):
            return None
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return cause


def _was_printed(error: OSError) -> bool:
    """Whether the failing call was made by a command itself, as print is. Sockets and files fail within a library."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals["__name__"]).partition(".")[0] in ("cli", "typer")


def _usage() -> tuple[type[Exception], ...]:
    """The exceptions for mistakes in the command line."""
    from orchestrator.replay.place import BadPlaceError, NoSuchEventError

    return UsageError, BadPlaceError, NoSuchEventError


def _unusable() -> tuple[type[Exception], ...]:
    """The exceptions that a user can cause. Imported only on an error, so that success is fast."""
    from aiohttp import ClientError
    from redis.exceptions import RedisClusterException, RedisError

    from cli.store import NoHistoryError, UnusableHistoryError, UnusableRedisError
    from events.codec import BadEventError
    from events.recording import BadRecordingError
    from orchestrator.replay.fold_on import UnsoundLogError
    from orchestrator.runtime.redis.embedded import NoRedisServerError
    from orchestrator.runtime.redis.logs import UnknownSessionError
    from orchestrator.services.failures import ServiceError
    from orchestrator.settings import SettingsError
    from projections.history.store import BadDatabaseError, HistoryError

    return (
        BadEventError,
        BadRecordingError,
        UnsoundLogError,
        SettingsError,
        ServiceError,
        NoRedisServerError,
        UnusableRedisError,
        UnknownSessionError,
        NoHistoryError,
        UnusableHistoryError,
        BadDatabaseError,
        HistoryError,
        ClientError,
        RedisError,
        RedisClusterException,
        OSError,
    )
