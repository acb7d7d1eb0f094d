"""Shows what holds over a whole conversation: repetitions, versions, epochs, ids, order of fields, time."""

import dataclasses

import pytest

from events.derived import CommandIssued, TurnEnded, TurnStarted
from events.inputs import (
    IntentResolved,
    RagAnswered,
    ServiceFailed,
    SpeechStarted,
    SpeechStopped,
    SttFinal,
    SttPartial,
    TimerFired,
)
from orchestrator.session import commands
from orchestrator.session.evolve import IDS_KEPT, PRODUCERS_KEPT, evolve, fold
from orchestrator.session.reducer import reduce
from orchestrator.session.state import OpenSpeculation, Playback, State, Utterance
from orchestrator.testing.conversation import Conversation

SESSION = "auto_session_12345"


def eventful(call: Conversation) -> Conversation:
    """A call in which nearly everything happens."""
    call.says("hello").after(100).says("hello there").after(300).answers("Hi!").speaks(chunks=3).after(200).interrupts()
    call.says("stop").fires("interrupt_pause").after(10).resumes("incarnation-2").fires("intent_deadline")
    call.fails("AnswerQuestion").speaks(chunks=2).after(500).resumes("incarnation-3").speaks(chunks=2).after(400)
    return call.played().says("bye").after(50).connects("browser-2").closes()


def test_a_repetition_leaves_no_trace(converse) -> None:
    """The same producer and sequence number again: no event, no command, the very same state."""
    call = converse("LISTENING").says("hello")
    state, repeated = call.state, call.last[0]
    call.put(repeated)
    assert call.last == ()
    assert call.commands == []
    assert call.state is state


def test_an_older_sequence_number_is_a_repetition(converse) -> None:
    """A producer is stop-and-wait, so what is below its mark was handled before."""
    call = converse("LISTENING")
    call.put(SttPartial(session_id=SESSION, producer="stt", producer_seq=7, text="x"))
    assert call.put(SttPartial(session_id=SESSION, producer="stt", producer_seq=6, text="y")).last == ()
    assert call.put(SttPartial(session_id=SESSION, producer="other", producer_seq=6, text="z")).last != ()


def test_without_a_sequence_the_event_id_tells_a_repetition(converse) -> None:
    """Best effort, for producers that cannot count."""
    call = converse("LISTENING").put(SttFinal(session_id=SESSION, event_id="a", text="hello"))
    assert call.put(SttFinal(session_id=SESSION, event_id="a", text="hello")).last == ()
    assert call.put(SttFinal(session_id=SESSION, event_id="b", text="hello")).last != ()


def test_an_event_with_neither_id_nor_sequence_is_always_new(converse) -> None:
    """It gets an id of the log."""
    call = converse("LISTENING")
    ids = {call.put(SttPartial(session_id=SESSION, text="he")).last[0].event_id for _ in range(3)}
    assert len(ids) == 3


def test_the_window_of_ids_is_bounded(converse) -> None:
    """The oldest id is forgotten, those within the window are not."""
    call = converse("LISTENING")
    for number in range(IDS_KEPT + 1):
        call.put(SttPartial(session_id=SESSION, event_id=f"id-{number}", text="x"))
    assert len(call.state.recent_ids) == IDS_KEPT
    assert call.put(SttPartial(session_id=SESSION, event_id="id-1", text="x")).last == ()
    assert call.put(SttPartial(session_id=SESSION, event_id="id-0", text="x")).last != ()


def test_the_producers_remembered_are_bounded(converse) -> None:
    """The one that was silent longest is forgotten first."""
    call = converse("LISTENING")
    for number in range(PRODUCERS_KEPT):
        call.put(SttPartial(session_id=SESSION, producer=f"p{number}", producer_seq=1, text="x"))
        call.put(SttPartial(session_id=SESSION, producer="p0", producer_seq=number + 1, text="x"))
    assert len(call.state.producers) == PRODUCERS_KEPT
    assert "test" not in call.state.producers
    assert call.put(SttPartial(session_id=SESSION, producer="p0", producer_seq=1, text="x")).last == ()


def test_a_repetition_is_recognised_after_a_thousand_other_producers(converse) -> None:
    """A worker per utterance, as serverless speech services are: the first one sends again what it saw no reply to."""
    call = converse("LISTENING")
    order = SttFinal(session_id=SESSION, producer="worker-0", producer_seq=1, text="book a table")
    turn = call.put(order).state.turn
    for number in range(1, 1_001):
        call.put(SttPartial(session_id=SESSION, producer=f"worker-{number}", producer_seq=1, text=""))
    assert call.put(order).last == ()
    assert call.state.turn == turn == 1


def test_a_repetition_is_recognised_after_many_ids(converse) -> None:
    """A producer without a sequence that speaks twenty times a second, and waits ten for its reply."""
    call = converse("LISTENING").put(SttFinal(session_id=SESSION, event_id="order", text="book a table"))
    for number in range(200):
        call.put(SttPartial(session_id=SESSION, event_id=f"id-{number}", text=""))
    assert call.put(SttFinal(session_id=SESSION, event_id="order", text="book a table")).last == ()


def test_the_hash_has_the_newest_producers_and_ids() -> None:
    """As many as it has always had: a recording of many producers folds to its hashes, and a step stays cheap."""
    state, other = State(), State()
    for number in range(40):
        state.producers[f"p{number}"] = 1
        state.recent_ids = (*state.recent_ids, *(f"{number}-{part}" for part in range(2)))
    other.producers = dict([*state.producers.items()][-32:])
    other.recent_ids = state.recent_ids[-64:]
    assert state.hash() == other.hash()
    for forgotten in ("p8", "p39"):
        fewer = other.copy()
        del fewer.producers[forgotten]
        assert fewer.hash() != other.hash()


def test_time_never_runs_backwards(converse) -> None:
    """Whatever the owner's clock does."""
    call = converse("LISTENING", endpointing={"incomplete_ms": 250}).at(5_000).says("hello")
    call.at(1_000).input(SpeechStopped)
    assert call.state.at_us == 5_000_000
    assert call.outstanding("endpoint").payload["due_at_us"] == 5_250_000


def test_versions_have_no_gaps(converse) -> None:
    """1..n, inputs and derived events alike; each derived event is caused by its input."""
    call = eventful(converse("LISTENING"))
    assert [event.version for event in call.log] == list(range(1, len(call.log) + 1))
    for step in call.steps:
        assert {event.cause for event in step.events[1:]} <= {step.events[0].event_id}


def test_the_last_event_of_a_step_carries_the_hash_of_the_state(converse) -> None:
    """No other does."""
    call = eventful(converse("LISTENING"))
    for step in call.steps:
        assert [event.state_hash for event in step.events] == [""] * (len(step.events) - 1) + [step.state.hash()]


def test_a_result_names_the_command_that_it_answers(converse) -> None:
    """Its cause is the COMMAND_ISSUED; a stale one has none."""
    call = converse("THINKING")
    asked = call.outstanding("ClassifyIntent")
    call.input(IntentResolved, intent="greeting")
    assert call.last[0].cause == asked.event_id
    assert call.input(IntentResolved, command_id=asked.command_id, intent="greeting").last[0].cause == ""


def test_the_epoch_rises_when_the_current_task_is_cancelled(converse) -> None:
    """Superseded, interrupted, closed or taken over; not when it is completed."""
    call = converse("LISTENING").says("a").says("b")
    assert call.state.epoch == 1
    assert call.answers("Hi!").speaks().played().state.epoch == 1
    assert call.says("c").answers("Hi!").interrupts().state.epoch == 2
    assert call.resumes("incarnation-2").state.epoch == 3
    assert call.fires("interrupt_pause").says("d").closes().state.epoch == 4


def test_every_turn_that_starts_ends(converse) -> None:
    """Strictly one after the other, each with the number of its turn."""
    call = eventful(converse("LISTENING"))
    marks = [event for event in call.log if isinstance(event, TurnStarted | TurnEnded)]
    assert [type(mark) for mark in marks] == [TurnStarted, TurnEnded] * call.state.turn
    assert [mark.turn for mark in marks] == [n for turn in range(call.state.turn) for n in (turn + 1, turn + 1)]
    assert [mark.outcome for mark in marks[1::2]] == [
        "merged", "interrupted", "completed", "session_closed"
    ]  # fmt: skip


def test_command_ids_are_unique(converse) -> None:
    """Over a whole session and all its owners."""
    call = eventful(converse("LISTENING", filler={"delay_ms": 0, "text": "One moment."}))
    ids = [event.command_id for event in call.log if isinstance(event, CommandIssued)]
    assert len(ids) == len(set(ids)) > 50


def test_a_command_id_counts_inputs_and_not_derived_events(converse) -> None:
    """One more derived event in a later reducer must not shift it."""
    call = converse("IDLE").connects()
    assert {command.command_id for command in call.steps[-1].commands} >= {
        "auto_session_12345/incarnation-1/2/SetMicrophone/open",
        "auto_session_12345/incarnation-1/2/ClearText",
    }


@pytest.mark.parametrize("command", commands.COMMANDS.values(), ids=lambda command: command.__name__)
def test_the_payload_of_a_command_has_its_fields_in_sorted_order(command: type) -> None:
    """The dump of a dataclass is in the order of declaration, and the log's encoding is canonical."""
    names = [field.name for field in dataclasses.fields(command)]
    assert names == sorted(names)


def test_a_command_can_be_read_from_its_event(converse) -> None:
    """Whoever carries it out needs nothing but the log."""
    for issued in (event for event in eventful(converse("LISTENING")).log if isinstance(event, CommandIssued)):
        command = commands.read(issued)
        assert (command.name, command.target, command.payload()) == (issued.name, issued.target, issued.payload)


def test_evolving_one_event_leaves_the_given_state_alone(converse) -> None:
    """Whoever holds a state never sees it change."""
    call = converse("LISTENING")
    before = fold(call.log)
    after = evolve(before, call.says("hello").last[0])
    assert before == fold(call.log[: -len(call.last)])
    assert after.version == before.version + 1


def test_stopping_a_playback_leaves_another_alone(converse) -> None:
    """A filler that is stopped takes no answer with it."""
    call = converse("SPEAKING")
    stop = call.outstanding("Speak").model_copy(update={"name": "StopPlayback", "target": "filler-1"})
    assert evolve(call.state, stop).outstanding("Speak") == call.state.outstanding("Speak")


@pytest.mark.parametrize("name", ["PausePlayback", "ResumePlayback"])
def test_a_log_of_other_rules_that_pauses_what_does_not_play_can_be_folded(converse, name: str) -> None:
    """evolve decides nothing, so it takes a log as it is."""
    call = converse("LISTENING")
    issued = call.last[-1].model_copy(
        update={"name": name, "target": "answer-1", "payload": {"playback_id": "answer-1"}}
    )
    assert evolve(call.state, issued) == call.state


@pytest.mark.parametrize(("kind", "said"), [(IntentResolved, {"intent": "x"}), (RagAnswered, {"answer": "Hi!"})])
def test_a_log_of_other_rules_that_leaves_half_a_guess_can_be_folded(converse, kind: type, said: dict) -> None:
    """One question failed, and the other was not withdrawn: its result is nobody's."""
    call = converse("LISTENING", speculation={"tries": 1}).input(SttPartial, text="hello", is_complete=True)
    asked = {name: call.outstanding(name).command_id for name in ("ClassifyIntent", "AnswerQuestion")}
    other = {IntentResolved: "AnswerQuestion", RagAnswered: "ClassifyIntent"}[kind]
    state = evolve(call.state, ServiceFailed(command_id=asked.pop(other), error="503"))
    state = evolve(state, kind(command_id=asked.popitem()[1], **said))
    assert (state.speculation, state.task, state.outstanding("ClassifyIntent", "AnswerQuestion")) == (None, None, [])


def test_a_state_that_was_reduced_is_left_alone() -> None:
    """The step before can be decided again, differently."""
    call = Conversation.listening()
    state, before = call.state, call.state.copy()
    reduce(state, SttFinal(session_id=SESSION, text="hello"))
    assert state == before


def test_copies_hold_every_field() -> None:
    """The dicts, which evolve changes in place, are copies too."""
    call = Conversation.in_phase("SPEAKING")
    assert call.state.copy() == call.state
    assert call.state.copy().pending is not call.state.pending


OTHERS = {"utterance": Utterance("x", "stt", 1), "speculation": OpenSpeculation(1, "x"), "playback": Playback("x", "x")}


def test_different_states_have_different_hashes() -> None:
    """Every field counts but those that never change within a session: the policy and the schema."""
    state = Conversation.in_phase("SPEAKING").state
    for field in dataclasses.fields(State):
        other = state.copy()
        value = getattr(state, field.name)
        changed = {str: "x", int: 99, dict: {"x": 1}, tuple: ("x",)}.get(type(value), OTHERS.get(field.name))
        setattr(other, field.name, changed)
        assert (other.hash() == state.hash()) == (field.name in ("policy", "schema")), field.name


def test_a_withdrawn_timer_is_stale(converse) -> None:
    """It came due while its cancellation was on the way."""
    call = converse("LISTENING").input(SpeechStopped)
    armed = call.outstanding("endpoint").command_id
    call.input(SpeechStarted).input(TimerFired, command_id=armed, target="endpoint")
    assert call.commands == []
    assert call.last[-1].reason == "stale: its command is not outstanding"


def test_no_timer_is_armed_after_the_end() -> None:
    """In no recording, and with nothing outstanding."""
    for phase in ("IDLE", "LISTENING", "THINKING", "SPEAKING", "INTERRUPT"):
        call = Conversation.in_phase(phase).input(SpeechStopped).closes()
        assert not call.state.pending
        call.input(SpeechStopped).connects().says("hello").resumes("incarnation-2")
        assert not any(step.commands for step in call.steps[-4:])
