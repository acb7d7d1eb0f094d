"""What of a state is more than bookkeeping: the part that a rejected input must not change."""

from dataclasses import fields
from typing import Any

from orchestrator.session.state import State

BOOKKEEPING = {"version", "inputs", "at_us", "producers", "recent_ids"}
OF_THE_UTTERANCE = {"utterance", "partial_text", "partial_is_complete", "user_is_speaking"}
"""What a final ends that comes late and is rejected: its words have counted as a partial."""


def essence(state: State, leaves_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A state without its bookkeeping."""
    return {f.name: getattr(state, f.name) for f in fields(state) if f.name not in BOOKKEEPING | leaves_out}
