"""Describes the fields of a policy file: as a JSON Schema for editors, and as text for error messages."""

from functools import cache
from typing import Any, Final

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from orchestrator.session.phrases import BACKCHANNELS, backchannels_of
from orchestrator.session.policy import Policy

_NO_LIMIT: Final = 2**53
"""A maximum from this on is a technical limit and is not mentioned."""


def policy_schema() -> dict[str, Any]:
    """The JSON Schema of a policy file. Draft 7, without references: every editor understands it."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "additionalProperties": False,
        "description": f"{Policy.__doc__} What is left out has its default.",
        "properties": {"$schema": {"type": "string"}} | _parts(),
        "title": "Policy",
        "type": "object",
    }


@cache
def policy_fields() -> dict[str, dict[str, dict[str, Any]]]:
    """The JSON Schema of each field, by part and name."""
    return {name: part["properties"] for name, part in _parts().items()}


def allowed(name: str, schema: dict[str, Any]) -> str:
    """Describe the values that a field allows; empty if there is no description."""
    if "anyOf" in schema:
        languages, phrases = schema["anyOf"]
        return f"{allowed(name, phrases)}, or a language ({', '.join(languages['enum'])})"
    if "enum" in schema:
        return " or ".join(schema["enum"])
    words = {
        "array": f"a list of at most {schema.get('maxItems')} phrases",
        "boolean": "true or false",
        "integer": f"a whole number{' of milliseconds' if name.endswith('_ms') else ''}{_range(schema)}",
        "string": f"a text of at most {schema.get('maxLength')} characters",
    }
    return words.get(schema.get("type", ""), "")


def _range(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum", 0), schema.get("maximum", _NO_LIMIT)
    return f", {low} or more" if high >= _NO_LIMIT else f" from {low} to {high}"


def _parts() -> dict[str, dict[str, Any]]:
    return {name: _part(name, field.annotation) for name, field in Policy.model_fields.items()}


def _part(name: str, part: Any) -> dict[str, Any]:
    """The schema of a part. Allows null: YAML reads a part with all fields commented out as null."""
    assert issubclass(part, BaseModel), "the policy consists of parts"
    schema: dict[str, Any] = part.model_json_schema()
    for field, info in part.model_fields.items():
        schema["properties"][field] = _field(info, schema["properties"][field]) | {"title": f"{name}.{field}"}
    return schema | {"title": name, "type": ["object", "null"]}


def _field(info: FieldInfo, schema: dict[str, Any]) -> dict[str, Any]:
    if not any(isinstance(rule, BeforeValidator) and rule.func is backchannels_of for rule in info.metadata):
        return schema
    phrases = {"items": schema["items"], "maxItems": schema["maxItems"], "type": "array"}
    default = next((code for code, known in BACKCHANNELS.items() if known == info.default), list(info.default))
    return {"anyOf": [{"enum": list(BACKCHANNELS), "type": "string"}, phrases], "default": default}
