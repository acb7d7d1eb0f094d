"""Redaction of what an agent tells its tools and its model: JSON stays JSON, and no word of it can be read."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from events.codec import encode
from events.inputs import ProviderSwitched
from events.journal import ModelResponded, ToolCalled, ToolReturned
from orchestrator.replay.redact import _OF_JSON, Hiding, Redaction

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@pytest.mark.parametrize("how", ["default", "hash"])
@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_redacted_json_is_json(how: Redaction, value: Any) -> None:
    """No longer than before, with the same shape; nothing is left of strings, names of fields and numbers."""
    text = to_json(value).decode()
    hidden = Hiding(how)(ToolReturned(command_id="c", call_id="a/book/1", result=text))
    assert len(hidden.result) <= len(text)
    assert shape(json.loads(hidden.result)) == shape(value)
    if how == "default":
        assert set(re.findall(r"\w", re.sub(r"true|false|null|\\.", "", hidden.result))) <= set("xX0")


def shape(value: Any) -> Any:
    """Without what is redacted. Fields whose redacted names are equal become one, so their number is no part of it."""
    if isinstance(value, dict):
        return {}
    if isinstance(value, list):
        return [shape(one) for one in value]
    return value if value is None or isinstance(value, bool) else ""


def test_why_a_provider_was_given_up_is_redacted() -> None:
    """Its error may repeat the user's words."""
    reason = "a: status 400 (cannot answer 'my knee hurts')"
    event = ProviderSwitched(session_id="s", service="answer", provider="b", reason=reason)
    assert b"knee" not in encode(Hiding("default")(event))


@pytest.mark.parametrize("end", ["", "\\", '"'])
def test_a_string_without_an_end_is_one_token(end: str) -> None:
    """In recordings from elsewhere: looked for from each of its quotes again, one of 32,000 characters took 3.5 s."""
    text = '"' + 15_000 * '\\"' + end
    assert _OF_JSON.findall(text) == [text]


@pytest.mark.parametrize("field", ["arguments", "error", "response", "result"])
@pytest.mark.parametrize(
    "said", ['{"my knee":["hurts",471100]}', "my knee hurts 471100", '"my knee \\u006bnee hurts', '{"my knee hurts": "']
)
def test_what_is_said_to_tools_and_models_is_redacted(field: str, said: str) -> None:
    """Also where it is no JSON, as in a recording from elsewhere."""
    kind = {"arguments": ToolCalled, "response": ModelResponded}.get(field, ToolReturned)
    fields = {"command_id": "c", "call_id": "a/book/1", "name": "book", "arguments": "{}", "response": ""} | {
        field: said
    }
    event = kind.made(kind.blank | {name: one for name, one in fields.items() if name in kind.model_fields})
    for how in ("default", "hash"):
        hidden = encode(Hiding(how)(event))
        assert [word for word in (b"my", b"knee", b"hurts", b"471100", b"006b") if word in hidden] == []
