"""JSON Schema and AsyncAPI of every event, for producers in other languages and for editors."""

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import DEFAULT_REF_TEMPLATE, models_json_schema

from events.codec import DERIVED, INPUTS

SCHEMA_VERSION = 1


def json_schema(ref_template: str = DEFAULT_REF_TEMPLATE) -> dict[str, Any]:
    """Return one JSON Schema: `oneOf` all events, each defined under `$defs` and described by its docstring.
    `ref_template`: form of the references to the definitions.
    """
    models = [*INPUTS.values(), *DERIVED.values()]
    refs, document = models_json_schema(
        [(model, "serialization") for model in models], title="orch events", ref_template=ref_template
    )
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["discriminator"] = {"propertyName": "type"}
    document["oneOf"] = [refs[(model, "serialization")] for model in models]
    return document


def asyncapi() -> dict[str, Any]:
    """An AsyncAPI document: what outside producers may send (docs/producers.md), and what a session's log carries."""
    schemas = json_schema("#/components/schemas/{model}")["$defs"]

    def channel(address: str, words: str, names: Iterable[str]) -> dict[str, Any]:
        messages = {name: {"$ref": f"#/components/messages/{name}"} for name in names}
        return {"address": address, "description": words, "messages": messages}

    models = {name: model.__name__ for name, model in (INPUTS | DERIVED).items()}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "orch events", "version": str(SCHEMA_VERSION)},
        "channels": {
            "ingress": channel("voice:ingress:{k}", "Where outside producers write inputs.", INPUTS),
            "log": channel("voice:{shard}:session:{session_id}:log", "What was committed, in order.", models),
        },
        "operations": {
            "produce": {"action": "receive", "channel": {"$ref": "#/channels/ingress"}},
            "follow": {"action": "send", "channel": {"$ref": "#/channels/log"}},
        },
        "components": {
            "messages": {
                name: {"contentType": "application/json", "payload": {"$ref": f"#/components/schemas/{model}"}}
                for name, model in models.items()
            },
            "schemas": schemas,
        },
    }
