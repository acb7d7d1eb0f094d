"""Shows what a replay finds when a recording and today's reducer do not agree, and what it takes for the same."""

import json
from collections.abc import Callable

import pytest

from events.codec import encode
from events.envelope import Input
from events.inputs import RagAnswered
from events.recording import BadRecordingError, Header, Recording, dump, parse
from events.upcast import UPCASTERS
from orchestrator.replay.replay import KEPT_LIVE, replay
from orchestrator.replay.report import details
from orchestrator.replay.verdict import verdict_of
from orchestrator.testing.conversation import Conversation, recorded
from projections.golden_log import golden

CALL = Conversation.listening().at(1_000).says("hello").after(300).answers("Hi!").speaks().after(2_000).played()
LINES = CALL.recording().splitlines()[1:]


def recording(lines: list[bytes], *, derived: bool = True) -> Recording:
    return parse(dump(Header(derived=derived), lines), "call.jsonl")


def first(kind: str) -> int:
    """The index of the first event of that type."""
    return next(index for index, line in enumerate(LINES) if f'"type":"{kind}"'.encode() in line)


def edited(index: int, edit: Callable[[dict], None]) -> list[bytes]:
    """The call with one line changed."""
    event = json.loads(LINES[index])
    edit(event)
    return [*LINES[:index], json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode(), *LINES[index + 1 :]]


def test_a_recording_that_agrees_has_no_divergence() -> None:
    """It ends in the same state, with the same events and as many commands."""
    replayed = replay(recording(LINES))
    assert replayed.divergence is None
    assert replayed.events == CALL.log
    assert replayed.states == {CALL.session_id: CALL.state}
    assert replayed.commands == sum(len(step.commands) for step in CALL.steps)


def test_a_changed_event_is_a_divergence_with_its_fields() -> None:
    """Line, both sides, and what differs; payloads by dotted names."""
    index = first("PROCESSING_COMPLETE")
    divergence = replay(recording(edited(index, lambda event: event.update(elapsed_us=7)))).divergence
    assert divergence.line == index + 2
    assert divergence.fields == {"elapsed_us": (7, 300_000)}
    index = next(i for i, line in enumerate(LINES) if b'"name":"Speak"' in line)
    divergence = replay(recording(edited(index, lambda event: event["payload"].update(text="Ho!")))).divergence
    assert divergence.fields == {"payload.text": ("Ho!", "Hi!")}


def test_a_changed_input_shows_in_what_follows_from_it() -> None:
    """The input is what it is; the first consequence that differs is named."""
    index = first("STT_FINAL")
    divergence = replay(recording(edited(index, lambda event: event.update(text="bye")))).divergence
    assert divergence.line == index + 3
    assert divergence.fields["text"] == ("hello", "bye")


def test_an_input_with_impossible_bookkeeping_diverges_itself() -> None:
    """Version, turn and epoch of an input are the core's to say."""
    index = first("STT_FINAL")
    divergence = replay(recording(edited(index, lambda event: event.update(version=99)))).divergence
    assert divergence.line == index + 2
    assert divergence.fields == {"version": (99, index + 1)}


def test_a_missing_event_is_a_divergence() -> None:
    """The reducer says something that the recording does not have there."""
    index = first("TURN_STARTED")
    divergence = replay(recording(LINES[:index] + LINES[index + 1 :])).divergence
    assert divergence.line == index + 2
    assert (divergence.recorded.type, divergence.replayed.type) == ("STATE_CHANGED", "TURN_STARTED")
    assert "from_phase" in divergence.fields


def test_a_recording_that_stops_in_the_middle_of_a_step_is_a_divergence() -> None:
    """There, the reducer says more than was recorded."""
    divergence = replay(recording(LINES[:-1])).divergence
    assert (divergence.line, divergence.recorded, divergence.replayed) == (len(LINES) + 1, None, CALL.log[-1])
    assert divergence.fields["type"] == (None, "COMMAND_ISSUED")


def test_an_extra_event_is_a_divergence() -> None:
    """The recording has something that the reducer does not say."""
    index = first("SESSION_OPENED") + len(CALL.steps[0].events)
    divergence = replay(recording([*LINES[:index], LINES[index - 1], *LINES[index:]])).divergence
    assert divergence.line == index + 2
    assert (divergence.recorded, divergence.replayed) == (CALL.log[index - 1], None)
    assert divergence.fields["type"] == ("COMMAND_ISSUED", None)


@pytest.mark.parametrize("derived", [True, False])
def test_inputs_alone_are_completed(derived: bool) -> None:
    """That is how a person writes a recording by hand; as a full recording they would diverge at once."""
    inputs = [encode(event) for event in CALL.log if isinstance(event, Input)]
    replayed = replay(recording(inputs, derived=derived))
    assert (replayed.divergence is None) == (not derived)
    if not derived:
        assert replayed.events == CALL.log
        assert golden(replayed.events) == CALL.golden


def test_a_recording_by_hand_needs_few_fields() -> None:
    """Type, session, time and payload; what a step leads to is completed."""
    by_hand = b"""{"derived": false, "format": "orch.recording", "story": "Written in an editor."}
{"type": "SESSION_OPENED", "session_id": "s", "policy": {"intent": {"skip": true}}}
{"type": "CLIENT_CONNECTED", "session_id": "s", "client_id": "me", "at_us": 1000}
{"type": "STT_FINAL", "session_id": "s", "text": "hello", "at_us": 2000}
{"type": "RAG_ANSWERED", "session_id": "s", "command_id": "s//3/AnswerQuestion/answer", "answer": "Hi!", "at_us": 9000}
"""
    assert golden(replay(parse(by_hand, "by hand")).events) == [
        "[s] 🟢 IDLE",
        "[s] 🔵 LISTENING (client_connected)",
        "[s] STT FINAL | text=hello",
        "[s] 🟡 THINKING",
        "[s] Processing complete in 7ms",
        "[s] 🔴 SPEAKING",
    ]


def test_a_derived_event_among_inputs_alone_is_a_divergence() -> None:
    """The header says that there is none."""
    divergence = replay(recording(LINES, derived=False)).divergence
    assert (divergence.line, divergence.recorded.type) == (3, "STATE_CHANGED")


def test_a_repeated_input_cannot_be_in_a_log() -> None:
    """A repetition leaves no trace, so a file with one is no log; the line is named."""
    step = len(CALL.steps[0].events)
    with pytest.raises(BadRecordingError, match=rf"call\.jsonl, line {step + 2}: repeats an input that the log holds"):
        replay(recording([*LINES[:step], LINES[0]]))


def test_a_line_that_cannot_be_read_is_named() -> None:
    """Whether it should have been an input or something derived."""
    for index in (0, 1):
        with pytest.raises(BadRecordingError, match=rf"call\.jsonl, line {index + 2}: not JSON"):
            replay(recording([*LINES[:index], b"{", *LINES[index + 1 :]]))


def test_another_form_of_the_same_events_is_no_divergence() -> None:
    """Spaces, another order of keys or line ends of another system do not change what was said."""

    def loosely(line: bytes) -> bytes:
        return json.dumps(dict(reversed(json.loads(line).items()))).encode() + b"\r"

    assert replay(recording([loosely(line) for line in LINES])).divergence is None


def test_a_recording_of_an_older_schema_replays_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings of every released version stay in fixtures/ for ever; what is lifted compares equal."""
    monkeypatch.setitem(UPCASTERS, ("RAG_ANSWERED", 1), lambda raw: raw)
    monkeypatch.setattr(RagAnswered.model_fields["schema_version"], "default", 2)
    assert replay(recording(LINES)).divergence is None


def test_a_report_of_many_divergences_stays_short() -> None:
    """The first in full, twenty in a line each, the others as a number; and how many sessions there are of."""
    calls = [Conversation.listening(f"s{number}").says("hello") for number in range(30)]
    as_said, otherwise = (b'"text":"%b","turn":0,"type":"STT_FINAL"' % word for word in (b"hello", b"hallo"))
    data = recorded(*calls).replace(as_said, otherwise)
    found = replay(parse(data, "many.jsonl"))
    assert len(found.divergences) == 30
    lines = [*details(verdict_of(found, []))]
    assert sum(line.startswith("  also ") for line in lines) == 20
    assert lines[-2:] == ["  … 9 more; --json has them all", "  30 of 30 sessions diverge"]


def test_states_of_many_sessions_are_kept_small_and_found_again() -> None:
    """More sessions than are kept at hand, their steps mixed: each ends where it ends alone."""
    calls = [Conversation.listening(f"s{number}") for number in range(KEPT_LIVE + 20)]
    for call in calls:
        call.at(1_000).says("hello")
    for call in calls:
        call.at(2_000).answers("Hi!").speaks(chunks=2)
    found = replay(parse(recorded(*calls), "many.jsonl"))
    assert found.divergences == []
    assert found.states == {call.session_id: call.state for call in calls}
