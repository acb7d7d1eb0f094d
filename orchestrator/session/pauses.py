"""How long this caller pauses within an utterance, so that endpointing waits for them and for nobody else."""

from orchestrator.session.policy import Endpointing

MOST_MS = 2_000
"""A longer silence is no pause within an utterance."""


def after_pause(pause_ms: int, silence_ms: int) -> int:
    """Return the estimate of a caller's pauses when they speak on after a silence."""
    return max(pause_ms, silence_ms) if silence_ms <= MOST_MS else pause_ms


def after_utterance(pause_ms: int) -> int:
    """Return the estimate after the end of an utterance: a caller who pauses no more is waited for less and less."""
    return pause_ms * 9 // 10


def wait_ms(rules: Endpointing, pause_ms: int) -> int:
    """Return how long to wait after incomplete words: a tenth longer than the caller's pauses, within the bounds of the
    policy.
    """
    return max(rules.incomplete_ms, min(rules.longest_ms, pause_ms * 11 // 10))
