"""What of a state is more than bookkeeping: the part that a rejected input must not change."""

from dataclasses import fields
from typing import Any

from orchestrator.session.state import State

BOOKKEEPING = {"version", "inputs", "at_us", "producers", "recent_ids"}


def essence(state: State) -> dict[str, Any]:
    """A state without its bookkeeping."""
    return {f.name: getattr(state, f.name) for f in fields(state) if f.name not in BOOKKEEPING}
