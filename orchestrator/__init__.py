"""orch: an event-sourced orchestrator for live voice conversations.

Users import from here and nowhere else. The exports are lazy (PEP 562), so that neither `orch --help` nor the session
core pays for the runtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator
    from orchestrator.services.ports import (
        Answer,
        Intent,
        Line,
        Request,
        ServiceError,
        SpeechChunk,
        SpokenWord,
        Transcript,
    )
    from orchestrator.session.policy import Policy
    from orchestrator.settings import Settings, SettingsError
    from orchestrator.testing.conversation import Conversation, given
    from orchestrator.testing.simulation import simulate

_HOME = {
    "Answer": "orchestrator.services.ports",
    "Conversation": "orchestrator.testing.conversation",
    "Intent": "orchestrator.services.ports",
    "Line": "orchestrator.services.ports",
    "Orchestrator": "orchestrator.app",
    "Policy": "orchestrator.session.policy",
    "Request": "orchestrator.services.ports",
    "ServiceError": "orchestrator.services.ports",
    "Settings": "orchestrator.settings",
    "SettingsError": "orchestrator.settings",
    "SpeechChunk": "orchestrator.services.ports",
    "SpokenWord": "orchestrator.services.ports",
    "Transcript": "orchestrator.services.ports",
    "given": "orchestrator.testing.conversation",
    "simulate": "orchestrator.testing.simulation",
}

__all__ = [
    "Answer",
    "Conversation",
    "Intent",
    "Line",
    "Orchestrator",
    "Policy",
    "Request",
    "ServiceError",
    "Settings",
    "SettingsError",
    "SpeechChunk",
    "SpokenWord",
    "Transcript",
    "given",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
