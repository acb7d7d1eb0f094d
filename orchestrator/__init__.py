"""orch: an event-sourced orchestrator for live voice conversations.

Users import from here only. The exports are lazy (PEP 562), so that `orch --help` and the session core do not load the
runtime.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.adapters.openai_answer import OpenAIAnswer
    from orchestrator.adapters.openai_speech import OpenAISpeechToText, OpenAITextToSpeech
    from orchestrator.app import Orchestrator
    from orchestrator.asking import ask
    from orchestrator.gateway.access.refusal import AccessRefused, AccessRequest
    from orchestrator.grant import Grant
    from orchestrator.reruns.rerun import rerun
    from orchestrator.services.failures import ServiceError, ToolError
    from orchestrator.services.journal import ModelReply
    from orchestrator.services.ports import Answer, Intent, Request, SpeechChunk, SpokenWord, Transcript
    from orchestrator.session.conversation import Line, ToolCall
    from orchestrator.session.policy import Policy
    from orchestrator.settings import Settings, SettingsError
    from orchestrator.simulation.simulate import simulate
    from orchestrator.testing.conversation import Conversation, given


def refuse_shadows() -> None:
    """Raise ImportError that names a user's file or folder, such as events.py, which hides one of orch's own packages.

    Called on the first use, not on import: the pytest plugin is loaded wherever orch is installed, and must not end the
    tests of a project that does not use it.
    """
    from pathlib import Path  # imported late: the pytest plugin imports this package in each test run

    home = Path(__file__).parent.resolve().parent
    for name in ("events", "projections", "cli"):
        spec = find_spec(name)
        folders = [Path(one) for one in (spec.submodule_search_locations or ())] if spec else []
        if name == "cli" and folders:
            continue  # a folder of this name is usual, and does no harm: only the command imports it, at its start
        if home / name not in (folder.resolve() for folder in folders):
            where, kind = (folders[0], "folder") if folders else (spec.origin if spec else "nothing", "file")
            raise ImportError(
                f"orch needs its own package {name!r}, and Python finds {where} in its place: rename that {kind}, or "
                "start your program from another folder"
            )


_HOME = {
    "AccessRefused": "orchestrator.gateway.access.refusal",
    "AccessRequest": "orchestrator.gateway.access.refusal",
    "Answer": "orchestrator.services.ports",
    "Conversation": "orchestrator.testing.conversation",
    "Grant": "orchestrator.grant",
    "Intent": "orchestrator.services.ports",
    "LiveKitSpeechToText": "orchestrator.adapters.livekit",
    "LiveKitTextToSpeech": "orchestrator.adapters.livekit",
    "Line": "orchestrator.session.conversation",
    "ModelReply": "orchestrator.services.journal",
    "OpenAIAnswer": "orchestrator.adapters.openai_answer",
    "OpenAISpeechToText": "orchestrator.adapters.openai_speech",
    "OpenAITextToSpeech": "orchestrator.adapters.openai_speech",
    "Orchestrator": "orchestrator.app",
    "Policy": "orchestrator.session.policy",
    "PydanticAgent": "orchestrator.adapters.pydantic_agent",
    "Request": "orchestrator.services.ports",
    "ServiceError": "orchestrator.services.failures",
    "Settings": "orchestrator.settings",
    "SettingsError": "orchestrator.settings",
    "SpeechChunk": "orchestrator.services.ports",
    "SpokenWord": "orchestrator.services.ports",
    "ToolCall": "orchestrator.session.conversation",
    "ToolError": "orchestrator.services.failures",
    "Transcript": "orchestrator.services.ports",
    "ask": "orchestrator.asking",
    "given": "orchestrator.testing.conversation",
    "rerun": "orchestrator.reruns.rerun",
    "simulate": "orchestrator.simulation.simulate",
}

_EXTRAS = {"orchestrator.adapters.livekit": "livekit", "orchestrator.adapters.pydantic_agent": "agents"}
"""Module of names that are not in `__all__`, since they need an extra → that extra."""

__all__ = [
    "AccessRefused",
    "AccessRequest",
    "Answer",
    "Conversation",
    "Grant",
    "Intent",
    "Line",
    "ModelReply",
    "OpenAIAnswer",
    "OpenAISpeechToText",
    "OpenAITextToSpeech",
    "Orchestrator",
    "Policy",
    "Request",
    "ServiceError",
    "Settings",
    "SettingsError",
    "SpeechChunk",
    "SpokenWord",
    "ToolCall",
    "ToolError",
    "Transcript",
    "ask",
    "given",
    "rerun",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    refuse_shadows()
    try:
        module = import_module(_HOME[name])
    except ModuleNotFoundError as error:
        if (extra := _EXTRAS.get(_HOME[name])) is None:
            raise
        raise ImportError(f'{name} needs a package: pip install "orch-voice[{extra}]" ({error})') from error
    return getattr(module, name)
