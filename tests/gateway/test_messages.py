"""Holds the protocol page and the protocol models together, and shows that bad messages are explained."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from orchestrator.gateway.messages import (
    MAX_MESSAGE_BYTES,
    MAX_SDP_CHARS,
    BadMessage,
    BargeInMessage,
    ClientMessage,
    CloseCode,
    Message,
    PlaybackMarkMessage,
    ServerMessage,
    TextMessage,
    WebrtcOfferMessage,
    encode,
    parse_client_message,
    parse_server_message,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "websocket.md").read_text(encoding="utf-8")


def models(union: object) -> dict[str, type[Message]]:
    """The models of a discriminated union, by their type."""
    return {model.model_fields["type"].default: model for model in get_args(get_args(union)[0])}


def sections(heading: str) -> dict[str, str]:
    """The message sections under one heading of the page, by message type."""
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"### `(\w+)`\n(.*?)(?=\n### |\Z)", part, re.DOTALL))


DIRECTIONS = {
    "Client to server": (models(ClientMessage), parse_client_message),
    "Server to client": (models(ServerMessage), parse_server_message),
}
EACH_MESSAGE = [pytest.param(heading, kind, id=kind) for heading, (known, _) in DIRECTIONS.items() for kind in known]


@pytest.mark.parametrize(("heading", "kind"), EACH_MESSAGE)
def test_every_message_stands_in_the_page_with_an_example_that_parses(heading: str, kind: str) -> None:
    """A client written from the page alone speaks the protocol of the code."""
    known, parse = DIRECTIONS[heading]
    section = sections(heading)[kind]
    examples = re.findall(r"```json\n(.*?)\n```", section, re.DOTALL)
    assert examples, f"`{kind}` has no example"
    assert all(type(parse(example)) is known[kind] for example in examples)
    shown = set().union(*(json.loads(example) for example in examples))
    assert shown == set(known[kind].model_fields), "the examples show each field at least once"


@pytest.mark.parametrize("heading", DIRECTIONS)
def test_the_page_names_no_message_that_does_not_exist(heading: str) -> None:
    """A message that is removed from the code leaves the page too."""
    assert set(sections(heading)) == set(DIRECTIONS[heading][0])


def test_the_page_explains_every_close_code() -> None:
    """Each code the server may close with has a row that says what to do."""
    rows = re.findall(r"^\| (\d{4}) \|", PAGE, re.MULTILINE)
    assert {int(code) for code in rows} == set(CloseCode)


def test_the_page_states_the_limits_of_the_code() -> None:
    """The numbers in the page are those that the models enforce."""
    assert f"{MAX_MESSAGE_BYTES:,} bytes" in PAGE
    assert f"{MAX_SDP_CHARS:,} characters" in PAGE


@pytest.mark.parametrize(
    ("raw", "wrong", "remedy"),
    [
        ("", "not valid JSON", "send one JSON object"),
        (b"\xff\xfe", "not valid JSON", "send one JSON object"),
        ('{"type": "text", "text": "\ud800"}', "not valid JSON", "send one JSON object"),
        ("[" * 90_000, "not valid JSON", "send one JSON object"),
        ("[]", "not a JSON object", "send an object such as"),
        ('{"text": "hi"}', "`type` is missing", "name the kind"),
        ('{"type": "shout"}', "unknown type `shout`", "'text', 'webrtc_offer', 'barge_in'"),
        ('{"type": "playback_done"}', "`playback_id` is missing", "`playback_done` message needs it"),
        ('{"type": "goodbye", "now": true}', "`now` is no field of a `goodbye`", "leave it out"),
        ('{"type": "text", "text": ""}', "`text` of the `text` message is wrong", "at least 1 character"),
        ('{"type": "barge_in", "position_ms": 1.5}', "`position_ms`", "valid integer"),
        ('{"type": "session", "session_id": "s"}', "unknown type `session`", "use one of"),
    ],
)
def test_a_bad_message_is_explained_and_so_is_the_remedy(raw: str | bytes, wrong: str, remedy: str) -> None:
    """Whoever writes a client sees at once what to change."""
    with pytest.raises(BadMessage) as caught:
        parse_client_message(raw)
    assert wrong in str(caught.value)
    assert remedy in str(caught.value)


def test_the_limits_hold() -> None:
    """What is just short enough passes; one character more is refused in words."""
    longest = parse_client_message(json.dumps({"type": "text", "text": "ä" * 2_000}))
    assert longest == TextMessage(text="ä" * 2_000)
    offer = json.dumps({"type": "webrtc_offer", "sdp": "\r\n" * (MAX_SDP_CHARS // 2)})
    assert isinstance(parse_client_message(offer), WebrtcOfferMessage)
    with pytest.raises(BadMessage, match="at most 2000 characters"):
        parse_client_message(json.dumps({"type": "text", "text": "a" * 2_001}))
    with pytest.raises(BadMessage, match="at most 65536 characters"):
        parse_client_message(json.dumps({"type": "webrtc_offer", "sdp": "a" * (MAX_SDP_CHARS + 1)}))
    with pytest.raises(BadMessage, match="send less at once"):
        parse_client_message("x" * (MAX_MESSAGE_BYTES + 1))


def test_a_complaint_never_repeats_what_the_user_said() -> None:
    """Users' words stay out of errors, logs and tracebacks; names that a client made up are cut short."""
    with pytest.raises(BadMessage) as caught:
        parse_client_message('{"type": "text", "text": ["my card number"]}')
    assert "card" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(BadMessage) as caught:
        parse_client_message(json.dumps({"type": "x" * 5_000}))
    assert len(str(caught.value)) < 200


def test_what_was_left_open_is_left_out_of_the_text() -> None:
    """An encoded message is short, and reads back as the same message."""
    assert encode(BargeInMessage()) == '{"type":"barge_in"}'
    message = BargeInMessage(playback_id="p1", position_ms=7)
    assert parse_client_message(encode(message)) == message


def test_messages_do_not_change_and_are_not_converted() -> None:
    """A message is a fact, and `"7"` is no number."""
    with pytest.raises(ValidationError):
        BargeInMessage(playback_id="p1").playback_id = "p2"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        PlaybackMarkMessage(playback_id="p1", rtp="7")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        PlaybackMarkMessage(playback_id="p1", rtp=2**32)


def test_a_message_of_thousands_of_unknown_fields_is_refused_at_once() -> None:
    """Pydantic takes 30 ms of the event loop to describe them all."""
    raw = json.dumps({"type": "goodbye"} | {str(number): 1 for number in range(10_000)})
    with pytest.raises(BadMessage, match="more than 20 mistakes"):
        parse_client_message(raw)
