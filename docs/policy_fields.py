"""Generates the policy's table of fields and its JSON Schema from the model and the docstrings of its fields."""

import ast
import inspect
import json
from itertools import pairwise
from typing import Any

from orchestrator.policy_schema import policy_schema
from orchestrator.session import policy


def schema() -> dict[str, Any]:
    """The JSON Schema of a policy file, with a description of each field that has one."""
    drawn, said = policy_schema(), _docstrings()
    for part, info in policy.Policy.model_fields.items():
        assert info.annotation is not None, "the policy consists of parts"
        for name, field in drawn["properties"][part]["properties"].items():
            if description := said.get((info.annotation.__name__, name)):
                field["description"] = description
    return drawn


def table() -> str:
    """A table per part of the policy: field, default, allowed values, meaning."""
    return "\n".join(
        f"\n### {name}\n\n{part['description']}\n\n| field | default | allowed | meaning |\n|---|---|---|---|\n"
        + "\n".join(_row(field) for field in part["properties"].values())
        for name, part in schema()["properties"].items()
        if name in policy.Policy.model_fields
    )


def _row(field: dict[str, Any]) -> str:
    default = f"`{json.dumps(field['default'], ensure_ascii=False)}`"
    cells = (field["title"], default, _allowed(field), field.get("description", ""))
    return " | ".join(["", *(cell.replace("|", "\\|") for cell in cells), ""]).strip().replace("|  |", "| |")


def _allowed(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return f"phrases, or {', '.join(field['anyOf'][0]['enum'])}"
    if "enum" in field:
        return ", ".join(field["enum"])
    if field["type"] == "integer":
        low, high = field["minimum"], field["maximum"]
        return f"from {low}" if high == 2**53 else f"{low} to {high}"
    return {"array": "phrases", "boolean": "true, false", "string": "text"}[field["type"]]


def _docstrings() -> dict[tuple[str, str], str]:
    """Docstrings of the fields, by class and field. Pydantic could collect them, but adds 20 ms to each import."""
    classes = (node for node in ast.parse(inspect.getsource(policy)).body if isinstance(node, ast.ClassDef))
    said = dict[tuple[str, str], str]()
    for node in classes:
        for field, below in pairwise(node.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    said[node.name, name] = " ".join(text.split())
    return said
