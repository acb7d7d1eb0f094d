"""Estimates how long a session's user pauses within an utterance. Endpointing waits longer if the pauses are long."""

from orchestrator.session.policy import Endpointing

MOST_MS = 2_000
"""Longest silence, in ms, that counts as a pause within an utterance."""


def after_pause(pause_ms: int, silence_ms: int) -> int:
    """Return the new estimate of how long, in ms, the user pauses within an utterance, after a silence of `silence_ms`
    that ended with more speech: the longer of the silence and the old estimate `pause_ms`. A silence longer than
    MOST_MS does not change the estimate.
    """
    return max(pause_ms, silence_ms) if silence_ms <= MOST_MS else pause_ms


def after_utterance(pause_ms: int) -> int:
    """Return the new estimate of how long, in ms, the user pauses within an utterance, after an utterance has ended: a
    tenth less than the old estimate `pause_ms`. So endpointing waits less and less for a user who no longer pauses.
    """
    return pause_ms * 9 // 10


def wait_ms(rules: Endpointing, pause_ms: int) -> int:
    """Return how long endpointing waits, in ms, after words that do not look complete: the recogniser has not marked
    them as complete, and they do not end with a phrase of the policy. The wait is a tenth longer than the estimate
    `pause_ms`, but at most `longest_ms` and at least `incomplete_ms` of the policy.
    """
    return max(rules.incomplete_ms, min(rules.longest_ms, pause_ms * 11 // 10))
