"""Counters of what would otherwise leave no trace: repetitions, rejected inputs, dead letters."""

from collections import Counter


class Counters(Counter[str]):
    """Names are fixed: inputs, duplicates, rejected, dead_letters, take_overs; and what an operator is to be told of:
    reducer_failures (a bug of ours, set aside as a dead letter), unrecoverable (a log that cannot be read any more),
    lost_versions (Redis had committed them, and has them no more), overflows (callers were sent away, because Redis
    did not answer for too long). Of the history: projected (events), projection_failures, projection_forks (a feed that
    did not go on from what was projected), projection_rebuilds (sessions that were made right).
    """
