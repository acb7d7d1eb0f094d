"""Shows that an event has exactly one encoding, and that the exported schema describes it."""

import json

import pytest

from events.codec import DERIVED, INPUTS, RESULTS, decode, encode
from events.envelope import Event
from events.inputs import PlaybackProgress, SttFinal
from events.schema import json_schema
from fixtures.write import RECORDINGS
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation

EVENTS = INPUTS | DERIVED


def lines() -> list[bytes]:
    """Every line of every recording that this repository writes, one of each event that does not occur there."""
    call = Conversation.in_phase(
        "THINKING", policy=Policy.model_validate({"filler": {"delay_ms": 0, "text": "One moment."}})
    )
    call.fails("PlayFiller").says("").input(INPUTS["HANDLER_DETACHED"], handler_id="x", reason="gone")
    call.input(INPUTS["HEARING_FAILED"], error="broke", is_utterance_lost=True)
    call.input(INPUTS["PROVIDER_SWITCHED"], provider="second", service="answer")
    call.input(INPUTS["CLIENT_DISCONNECTED"], client_id="browser-1").resumes("incarnation-2")
    call.connects("browser-1").input(INPUTS["MODEL_RESPONDED"], call_id="model/1", response="{}")
    call.calls("book").returns("7").texts("Yes. ", "No.").answers("")
    call.input(INPUTS["TTS_CHUNK_READY"], duration_ms=200, index=0, text_index=1).fires("playback_deadline")
    written = b"".join(write().split(b"\n", 1)[1] for write in RECORDINGS.values())
    return [*written.splitlines(), *map(encode, call.log)]


LINES = lines()


def test_the_sample_holds_every_event() -> None:
    """The tests below are about all of them."""
    assert {json.loads(line)["type"] for line in LINES} == set(EVENTS)


def test_encoding_and_decoding_come_back_to_the_same_bytes() -> None:
    """One event, one line: a recording can be compared byte by byte."""
    assert [encode(decode(line)) for line in LINES] == LINES


def test_an_encoded_event_has_its_fields_in_sorted_order() -> None:
    """Sorted fields make the plain dump canonical, in any language."""
    for line in LINES:
        assert [*json.loads(line)] == sorted(json.loads(line))


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_the_fields_of_an_event_are_declared_in_sorted_order(event: type[Event]) -> None:
    """Also those that a subclass adds to its envelope."""
    assert [*event.model_fields] == sorted(event.model_fields)


def test_no_event_carries_a_float() -> None:
    """Two machines must agree on each digit."""

    def no_float(text: str) -> None:
        raise AssertionError(f"a float: {text}")

    for line in LINES:
        json.loads(line, parse_float=no_float)


def test_an_event_is_immutable() -> None:
    """A fact cannot be changed after it was said."""
    with pytest.raises(ValueError, match="frozen"):
        SttFinal(text="hello").text = "bye"


def test_numbers_are_never_guessed_from_other_types() -> None:
    """A producer that sends "3" or 3.0 for 3 has a bug, and hears about it."""
    for position in ("3", 3.0, True, -1, 24 * 3600 * 1000 + 1):
        with pytest.raises(ValueError, match="position_ms"):
            PlaybackProgress(command_id="c", playback_id="p", position_ms=position)  # type: ignore[arg-type]


def test_results_are_the_inputs_that_answer_a_command() -> None:
    """A result names its command; other inputs name none."""
    assert {name for name, event in INPUTS.items() if "command_id" in event.model_fields} == set(RESULTS)


NOT_RECORDED_IF_EMPTY = {
    name for event in EVENTS.values() for name, field in event.model_fields.items() if field.exclude_if is not None
}


def test_the_schema_names_every_event_and_every_field_of_an_encoded_one() -> None:
    """Structure only: each line's type has its definition, with exactly its fields, and what the text must be."""
    schema = json_schema()
    named = {definition["properties"]["type"]["const"]: definition for definition in _events(schema)}
    assert set(named) == set(EVENTS)
    assert len(schema["oneOf"]) == len(EVENTS)
    for line in map(json.loads, LINES):
        definition = named[line["type"]]
        assert set(line) <= set(definition["properties"]) <= set(line) | NOT_RECORDED_IF_EMPTY
        assert set(definition.get("required", [])) <= set(line)
        assert definition["additionalProperties"] is False


def test_the_schema_can_be_written_down() -> None:
    """It is plain JSON, each event with its meaning, and every reference leads somewhere."""
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert all("Says:" in definition["description"] for definition in _events(schema))
    assert {ref["$ref"].removeprefix("#/$defs/") for ref in schema["oneOf"]} <= set(schema["$defs"])


def _events(schema: dict) -> list[dict]:
    return [definition for definition in schema["$defs"].values() if "type" in definition.get("properties", {})]
