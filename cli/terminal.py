"""Terminal functions of all commands: data goes to standard output, messages to standard error."""

import codecs
import io
import os
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

STANDARD_INPUT = "standard input"
"""Its name in errors."""
ESCAPED = "orch.escaped"
"""Name of the error handler for characters that an encoding does not have."""


class UsageError(Exception):
    """The command line is wrong; the message says what to write instead."""


def no_effect(option: str, beside: str) -> UsageError:
    """The error of an option that another one makes useless."""
    return UsageError(f"{option} has no effect beside {beside}; leave one of them out")


def say(words: str) -> None:
    """Print a message for people on standard error. If it cannot be written, the command goes on."""
    try:
        print(words, file=sys.stderr, flush=True)
    except OSError:  # standard error is full or its reader has gone: discard messages from now on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def words(error: BaseException) -> str:
    """The message of an error, without secrets, never empty and never an errno: `FILE: Is a directory`."""
    from orchestrator.safe_text import without_secrets  # imported late: --help must not load orchestrator

    return without_secrets(_words(error))


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time; is Redis running, and is this machine overloaded?"
    return str(error).strip() or type(error).__name__


@contextmanager
def naming(file: str) -> Iterator[None]:
    """Name the file in an error of reading or writing it: the system names a file only when it is opened."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or file
        raise


def read_line() -> str:
    """The next line of standard input; empty at its end. Raises OSError."""
    with naming(STANDARD_INPUT):
        return sys.stdin.readline()


def prepare_streams() -> None:
    r"""Make the standard streams usable for any parent process and encoding.

    A closed stream becomes /dev/null: otherwise the next socket would take its number. A character that the encoding
    of a stream lacks is written as in JSON (`\u2713`), so that JSON stays valid and a golden log stays readable. With
    PYTHONUNBUFFERED, the streams of Python lose the rest of a write that is done in part, as on a full disk; a buffer
    with flushed lines writes the rest, or raises.
    """
    codecs.register_error(ESCAPED, _escaped)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(raw := getattr(stream, "buffer", None), io.RawIOBase):
            stream = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, line_buffering=True)
            setattr(sys, name, stream)
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors=ESCAPED)
    if (reconfigure := getattr(sys.stdin, "reconfigure", None)) is not None:
        reconfigure(errors="replace")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    utf_16 = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    units = (utf_16[at : at + 2].hex() for at in range(0, len(utf_16), 2))
    return "".join(f"\\u{unit}" for unit in units), error.end


def run(work: Coroutine[object, object, T]) -> T:
    """Run a coroutine in an event loop; uses uvloop if it is installed."""
    import asyncio  # imported late: it takes a tenth of the time of --help

    try:
        import uvloop
    except ImportError:  # Windows has none
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
