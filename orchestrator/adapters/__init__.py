"""Adapters: a module for each provider of answers, speech-to-text or text-to-speech. A new provider goes here.

Each fills a port of services/ports.py, and is imported only when it is used.
"""

from importlib import import_module
from typing import Any

_ADAPTERS = {
    "livekit.agents.stt.stt.STT": "orchestrator.adapters.livekit.LiveKitSpeechToText",
    "livekit.agents.tts.tts.TTS": "orchestrator.adapters.livekit.LiveKitTextToSpeech",
    "pydantic_ai.agent.abstract.AbstractAgent": "orchestrator.adapters.pydantic_agent.PydanticAgent",
}
"""Class of another library → the adapter that makes a port of its objects."""


def adapted(thing: object) -> Any:
    """A port for an object of a library that has an adapter; any other thing as it is."""
    for base in type(thing).__mro__:
        if (adapter := _ADAPTERS.get(f"{base.__module__}.{base.__qualname__}")) is not None:
            module, _, name = adapter.rpartition(".")
            return getattr(import_module(module), name)(thing)
    return thing
