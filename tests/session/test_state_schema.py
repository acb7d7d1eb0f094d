"""Shows that the state and the policy can gain fields while old recordings keep their hashes and their decisions."""

import dataclasses
from typing import Annotated, Any

import pytest
from pydantic import BaseModel
from pydantic_core import to_json

from events.derived import EventRejected, TurnStarted
from events.inputs import SessionOpened
from orchestrator.session import evolve
from orchestrator.session import policy as policies
from orchestrator.session.commands import STAGES, CancelStage, StopPlayback
from orchestrator.session.conversation import ConversationSoFar
from orchestrator.session.fields import Part, folds, hashed_form, kept, newest_schema
from orchestrator.session.policy import AsBefore, Policy
from orchestrator.session.snapshot import BadSnapshotError, dump, load
from orchestrator.session.state import STATE_SCHEMA, Findings, OpenSpeculation, Playback, State, Turn, Utterance
from orchestrator.testing.conversation import Conversation
from tests.session.conftest import Converse


@dataclasses.dataclass(frozen=True)
class Found(Part):
    intent: str = "greeting"
    score: int = kept(7, since=3)


@dataclasses.dataclass(frozen=True)
class Task(Part):
    text: str = "hello"
    found: Found = Found()
    is_done: bool = False


@dataclasses.dataclass
class Small:
    """A state of a later day."""

    version: int = 4
    secret: str = kept("x", is_hashed=False)
    task: Task | None = None
    rejected: int = kept(2, since=2, on={EventRejected: lambda count, _: count + 1})
    names: tuple[str, ...] = kept(("a", "b"), form=len)


def hashed(state: Any, schema: int) -> Any:
    return hashed_form(type(state), schema)(state)


def test_the_hash_covers_the_fields_of_the_schema_and_no_others() -> None:
    """A field that came later stands after those that were there."""
    assert hashed(Small(), 1) == [4, None, 2]
    assert hashed(Small(), 2) == [4, None, 2, 2]
    assert newest_schema(Small) == 3


GAINED = {
    State: {"hearing_failures": 3, "pause_ms": 6},
    Turn: {},
    OpenSpeculation: {},
    Findings: {"texts": 4, "calls": 5, "facts_from": 5},
    Utterance: {"spoken": 2, "spoken_by": 2, "spoken_at_us": 2, "is_late": 7},
    Playback: {"is_open": 4, "ends_at": 4, "begins_ms": 4, "is_shown": 4, "next_chunk": 4},
}
"""Fields that came after the first schema, and with which. Recordings of these schemas exist: no number may change."""


@pytest.mark.parametrize("kind", GAINED)
def test_each_field_has_the_schema_that_it_came_with(kind: type) -> None:
    found = {field.name: field.metadata.get("since", 1) for field in dataclasses.fields(kind)}
    assert {name: since for name, since in found.items() if since > 1} == GAINED[kind]


def test_a_new_part_says_nothing_yet() -> None:
    """The defaults are hashed: they are part of each recording."""
    assert State().schema == 1
    turn = Turn("hello", 1)
    assert (turn.via, turn.ends, turn.is_processed) == ("speech", "", False)
    playback = Playback("answer-1", "Hello.")
    assert (playback.ends, playback.is_open, playback.ends_at, playback.begins_ms) == ("", False, (), ())
    assert (playback.is_shown, playback.next_chunk, playback.is_paused) == (False, 0, False)


def test_a_text_begins_at_its_first_millisecond() -> None:
    playback = Playback("answer-1", "One. Two.", ends_at=(5, 9), begins_ms=(0, 1_000))
    assert [playback.text_at(position_ms) for position_ms in (0, 999, 1_000)] == [0, 0, 1]


def test_a_part_counts_by_its_own_fields() -> None:
    """One that may be missing is a list, one that is always there stands among the others."""
    assert hashed(Small(task=Task()), 1) == [4, ["hello", "greeting", False], 2]
    assert hashed(Small(task=Task()), 3) == [4, ["hello", "greeting", 7, False], 2, 2]


def test_a_field_says_by_itself_how_it_folds() -> None:
    """(event, field, fold), for evolve."""
    ((event, name, fold),) = folds(Small)
    assert (event, name, fold(2, None)) == (EventRejected, "rejected", 3)
    state = Small()
    evolve._then(None, name, fold)(state, None)
    assert state.rejected == 3


def test_the_form_of_the_first_schema_is_what_recordings_were_made_with() -> None:
    """Byte for byte: from this, the hashes in every recording follow."""
    call = Conversation.in_phase("SPEAKING")
    form = to_json(hashed_form(State, 1)(call.state)).decode()
    assert form == (
        '["auto_session_12345","SPEAKING",26,5,1,0,1300000,"incarnation-1","test","browser-1","",false,0,0,"",0,false,'
        '["hello","test",1000000],"","",["hello",1000000,"speech","greeting",0,"Hi! How can I help?",0,true,""],'
        '["answer-1","Hi! How can I help?","",0,0,null,0,0,false,0],null,0,0,0,0,0,'
        '["auto_session_12345/incarnation-1/5/Speak/answer-1",'
        '"auto_session_12345/incarnation-1/5/StartTimer/tts_deadline"],[["test",5]],[]]'
    )


def test_a_session_of_a_newer_schema_is_not_opened() -> None:
    """What its hashes cover is not known here; the reason says which versions."""
    call = Conversation().input(SessionOpened, policy=Policy().recorded(), state_schema=STATE_SCHEMA + 1)
    known, newer = STATE_SCHEMA, STATE_SCHEMA + 1
    assert call.last[-1].reason == f"a newer orch opened it: state schema {newer}, this one knows {known}"
    assert call.state.phase == "NEW"


def test_a_session_keeps_the_schema_that_it_was_opened_under() -> None:
    """Whatever program takes it over."""
    call = Conversation.listening().resumes("incarnation-2")
    assert (call.state.schema, call.log[0].state_schema) == (STATE_SCHEMA, STATE_SCHEMA)


def test_a_snapshot_of_another_schema_is_refused(converse: Converse) -> None:
    """A field that its program did not know has never been folded."""
    data = dump(converse("THINKING").state, ConversationSoFar())
    other = data.replace(b'"state_schema":%d' % STATE_SCHEMA, b'"state_schema":99', 1)
    with pytest.raises(BadSnapshotError, match=f"made under state schema 99, this one is {STATE_SCHEMA}"):
        load(other, Policy())


class Patience(policies._Part):
    wait_ms: Annotated[int, AsBefore(0)] = 500
    words: int = 3


class Grown(BaseModel):
    """A policy of a later day."""

    patience: Patience = Patience()


@pytest.mark.parametrize(
    ("recorded", "wait_ms"),
    [({}, 0), ({"patience": {"words": 1}}, 0), ({"patience": {"wait_ms": 9}}, 9)],
)
def test_a_recording_without_a_field_replays_as_before_there_was_one(recorded: dict, wait_ms: int) -> None:
    """Not with today's default; what was recorded counts."""
    completed = policies._completed(recorded, policies._added(Grown))
    assert Grown.model_validate(completed).patience.wait_ms == wait_ms


def test_a_part_that_is_no_part_stays_what_it_is() -> None:
    """Reading it says what is wrong."""
    assert policies._completed({"patience": 3}, policies._added(Grown)) == {"patience": 3}


def test_a_request_that_outlives_its_turn_ends_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stays outstanding after the end."""
    monkeypatch.setattr(evolve, "OF_THE_TURN", STAGES - {"ClassifyIntent"})
    call = Conversation.in_phase("THINKING")
    asked = call.outstanding("ClassifyIntent").command_id
    call.closes()
    assert CancelStage(command_id=asked, stage_name="intent") in call.commands
    assert call.state.pending == {}


def test_a_field_that_a_command_gained_is_recorded_only_where_it_says_something() -> None:
    """Recorded commands compare, and can be issued again."""

    @dataclasses.dataclass(unsafe_hash=True)
    class Louder(StopPlayback):
        level: int = 3

    assert Louder(playback_id="p").payload() == {"playback_id": "p"}
    assert Louder(playback_id="p", level=4).payload() == {"playback_id": "p", "level": 4}
    assert Louder(**Louder(playback_id="p").payload()) == Louder(playback_id="p", level=3)


def test_counters_of_the_state_fold_where_they_are_declared() -> None:
    """Prompts of a silent user begin anew with the user's words."""
    names = {(event, name) for event, name, _ in folds(State)}
    assert (TurnStarted, "away_prompts") in names
    assert Conversation.listening().state.away_prompts == 0
