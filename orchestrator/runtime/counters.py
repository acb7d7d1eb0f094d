"""Counters of what would otherwise leave no trace: repetitions, rejected inputs, dead letters."""

from collections import Counter


class Counters(Counter[str]):
    """Names are fixed: inputs, duplicates, rejected, dead_letters, take_overs."""
