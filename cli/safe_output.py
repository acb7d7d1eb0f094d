"""Escapes the output of every command, so that it cannot drive or deceive a terminal. JSON keeps its meaning."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TextIO, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class SafeStream:
    r"""A text stream that writes control, bidirectional and other invisible characters as their code: \u202e.

    In JSON the code is another spelling of the same text, so programs read the same values.
    """

    def __init__(self, stream: TextIO) -> None:
        from orchestrator.safe_text import escaped  # imported late: --help must not load orchestrator

        self._escaped = escaped
        self.raw_text = stream
        """The unescaped stream, for orch's own output that moves the cursor, such as a progress bar."""

    def write(self, text: str) -> int:
        self.raw_text.write(self._escaped(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw_text, name)


def safe_output(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command: escapes all that it prints on standard output and standard error."""

    @wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        out, err = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = SafeStream(out), SafeStream(err)
        try:
            return command(*arguments, **options)
        finally:
            sys.stdout, sys.stderr = out, err

    return run


def raw(stream: TextIO) -> TextIO:
    """The unescaped stream, on which a carriage return moves the cursor."""
    return getattr(stream, "raw_text", stream)
