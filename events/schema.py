"""JSON Schema of every event, for producers in other languages and for editors."""

from typing import Any

from pydantic.json_schema import models_json_schema

from events.codec import DERIVED, INPUTS


def json_schema() -> dict[str, Any]:
    """One document: `oneOf` all events, each under `$defs` with its meaning."""
    models = [*INPUTS.values(), *DERIVED.values()]
    refs, document = models_json_schema([(model, "serialization") for model in models], title="orch events")
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["discriminator"] = {"propertyName": "type"}
    document["oneOf"] = [refs[(model, "serialization")] for model in models]
    return document
