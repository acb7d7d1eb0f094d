"""Shows that what cannot be read is refused in words, never with a stack trace or the value itself."""

import json
from typing import Any

import pytest

from events.codec import DERIVED, INPUTS, BadEventError, decode, decode_input
from events.envelope import Event
from events.inputs import RagAnswered, SessionOpened, SttFinal
from events.upcast import UPCASTERS


def line(**fields: Any) -> bytes:
    return json.dumps({"type": "STT_FINAL", "text": "hello"} | fields).encode()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"type": "STT_FINAL", "text": "\\ud800"}', "not JSON"),
        (b"[1, 2]", "an event is a JSON object, this is list"),
        (b"null", "an event is a JSON object, this is NoneType"),
        (b"{}", "unknown event type '(missing)'"),
        (b'{"type": null}', "unknown event type 'None'"),
        (b'{"type": ["STT_FINAL"]}', "unknown event type"),
        (b'{"type": "STT_FINALE"}', "unknown event type 'STT_FINALE'"),
        (b'{"type": "\\u001b[2J\\n"}', r"unknown event type '\\x1b[2J\\n'"),
        (b'{"type": "STT_FINAL"}', "STT_FINAL: text: Field required"),
        (line(text=7), "STT_FINAL: text: Input should be a valid string"),
        (line(via="smoke"), "STT_FINAL: via: Input should be 'speech' or 'text'"),
        (line(mood="good"), "STT_FINAL: mood: Extra inputs are not permitted"),
        (line(turn=10**400), "STT_FINAL: turn: "),
        (line(turn=1.5), "STT_FINAL: turn: Input should be a valid integer"),
        (line(text="x" * 1_000_000), "STT_FINAL: text: String should have at most 8000 characters"),
        (line(a=1, b=2, c=3, d=4, e=5), "(and 2 more)"),
        (line(schema_version=2), "STT_FINAL has schema version 2, this program knows 1: a newer orch wrote it"),
        (line(schema_version=2, mood="good"), "a newer orch wrote it"),
        (line(schema_version="one"), "STT_FINAL: schema_version: Input should be a valid integer"),
        (line(schema_version=None), "STT_FINAL: schema_version: Input should be a valid integer"),
        (line(schema_version=0), "STT_FINAL of schema version 0 cannot be lifted to 1"),
        (line(schema_version=-(10**9), text=7), "cannot be lifted to 1"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(raw: bytes, words: str) -> None:
    """Each sentence names the event and the field, and stays short enough for a log line."""
    with pytest.raises(BadEventError) as refused:
        decode(raw)
    assert words.replace("\\\\", "\\") in str(refused.value)
    assert len(str(refused.value)) < 300


def test_words_about_infinity_are_words() -> None:
    opened = decode(json.dumps({"type": "SESSION_OPENED", "policy": {"greeting": "To Infinity, NaN and beyond"}}))
    assert isinstance(opened, SessionOpened)
    assert opened.policy == {"greeting": "To Infinity, NaN and beyond"}


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999"])
@pytest.mark.parametrize("kind", (INPUTS | DERIVED).values(), ids=lambda kind: kind.__name__)
def test_no_field_holds_a_number_that_json_cannot_write(kind: type[Event], number: str) -> None:
    """Neither a field nor a value within one."""
    good = {**kind.blank, **{name: 1 for name, field in kind.model_fields.items() if field.is_required()}}
    for name in good:
        for value in (number, f'{{"a": [{number}]}}'):
            fields = [f"{json.dumps(n)}: {value if n == name else json.dumps(v)}" for n, v in good.items()]
            with pytest.raises(BadEventError):
                decode("{" + ", ".join(fields) + "}")


def test_a_made_up_field_name_cannot_forge_a_log_line() -> None:
    """A producer chooses the names of the fields it sends, so they are cut and stay on one line."""
    with pytest.raises(BadEventError) as refused:
        decode(line(**{"a\nERROR \x1b[31m" + "x" * 1_000_000: 1}))
    assert str(refused.value).startswith("STT_FINAL: a?ERROR ?[31mxxx")
    assert len(str(refused.value)) < 300


def test_a_refusal_never_repeats_what_was_said() -> None:
    """What users say is theirs; an error log is read by others."""
    with pytest.raises(BadEventError) as refused:
        decode(line(text="my card number is 4242" * 1_000, via="my secret"))
    assert "4242" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_producer_cannot_say_what_only_the_reducer_says() -> None:
    """A derived event in the inbox would be a second way to decide."""
    raw = b'{"type": "SESSION_ENDED", "reason": "because"}'
    assert decode(raw)
    with pytest.raises(BadEventError, match="SESSION_ENDED is said by the reducer, never by a producer"):
        decode_input(raw)


def test_an_input_is_read_from_bytes_and_from_text() -> None:
    """The fast path needs no help."""
    assert decode_input(line()) == decode_input(line().decode()) == SttFinal(text="hello")


@pytest.fixture
def _rag_answered_is_at_version_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `answer` had been called `reply` in version 1 and `sources` had come with version 3."""
    monkeypatch.setitem(UPCASTERS, ("RAG_ANSWERED", 1), lambda raw: _renamed(raw, "reply", "answer"))
    monkeypatch.setitem(UPCASTERS, ("RAG_ANSWERED", 2), lambda raw: raw | {"sources": ["menu.md"]})
    monkeypatch.setattr(RagAnswered.model_fields["schema_version"], "default", 3)


def _renamed(raw: dict, old: str, new: str) -> dict:
    raw[new] = raw.pop(old)
    return raw


@pytest.mark.usefixtures("_rag_answered_is_at_version_3")
def test_an_older_event_is_lifted_step_by_step() -> None:
    """From 1 over 2 to 3, each step pure; a line without a version is of version 1."""
    expected = RagAnswered(command_id="c", answer="Hi!", sources=("menu.md",), schema_version=3)
    for version in ({}, {"schema_version": 1}):
        assert decode(json.dumps({"type": "RAG_ANSWERED", "command_id": "c", "reply": "Hi!"} | version)) == expected
    second = {"type": "RAG_ANSWERED", "command_id": "c", "answer": "Hi!", "schema_version": 2}
    assert decode(json.dumps(second)) == expected


@pytest.mark.usefixtures("_rag_answered_is_at_version_3")
def test_an_older_event_that_is_wrong_is_refused_in_words() -> None:
    """Whether the step upwards stumbles over it, or what it leads to is not an event."""
    with pytest.raises(BadEventError, match="RAG_ANSWERED of schema version 1 cannot be lifted to 3"):
        decode('{"type": "RAG_ANSWERED", "command_id": "c", "schema_version": 1}')
    with pytest.raises(BadEventError, match="RAG_ANSWERED: answer: Input should be a valid string"):
        decode('{"type": "RAG_ANSWERED", "command_id": "c", "reply": 7}')
