"""Estimates how long a session's user pauses within an utterance. Endpointing waits longer if the pauses are long."""

from orchestrator.session.policy import Endpointing

MOST_MS = 2_000
"""Longest silence, in ms, that counts as a pause within an utterance."""


def after_pause(pause_ms: int, silence_ms: int) -> int:
    """Update the estimate of the user's pauses within an utterance (`pause_ms`): the user was silent for `silence_ms`,
    then spoke on. Returns the new estimate in ms: the longer of the two. A silence longer than MOST_MS does not change
    the estimate.
    """
    return max(pause_ms, silence_ms) if silence_ms <= MOST_MS else pause_ms


def after_utterance(pause_ms: int) -> int:
    """Update the estimate of the user's pauses within an utterance (`pause_ms`) after an utterance. Returns the new
    estimate in ms: a tenth less, so that the estimate falls if the user no longer pauses.
    """
    return pause_ms * 9 // 10


def wait_ms(rules: Endpointing, pause_ms: int) -> int:
    """Return how long endpointing waits, in ms, if the transcript does not look complete. The wait is a tenth longer
    than the user's pauses (`pause_ms`), but at most `longest_ms` and at least `incomplete_ms` of the policy.
    """
    return max(rules.incomplete_ms, min(rules.longest_ms, pause_ms * 11 // 10))
