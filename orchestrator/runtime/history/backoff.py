"""Backoff of the SQL history after failures, and the text of a failure for the log."""

from dataclasses import dataclass


@dataclass(slots=True)
class Pause:
    """Backoff of a shard that could not be written to SQL: failures in a row, and event loop time of the next try."""

    failures: int = 0
    until: float = 0.0


def pause_s(failures: int) -> float:
    """Backoff in seconds after `failures` failures, slower than for Redis: no session waits for the database."""
    return min(30.0, 0.25 * 2.0 ** min(failures, 7))


def first_line(error: Exception) -> str:
    """Return the error's message without the SQL statement and values that SQLAlchemy adds: they may contain
    conversation text.
    """
    return str(error).partition("\n")[0] or type(error).__name__
