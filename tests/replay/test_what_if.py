"""What-if and why: without a change nothing changes, and a cause is one because without it something does."""

from pathlib import Path

import pytest

from events import inputs
from events.derived import CommandIssued, ProcessingComplete, UserInterrupted
from events.envelope import Event, Input, Result
from events.inputs import BargeIn, PlaybackStarted, SttFinal, TimerFired
from events.recording import parse
from orchestrator.replay.change import Change
from orchestrator.replay.decisions import decisions, typical_ms, waits_ms
from orchestrator.replay.simulated import UNKNOWN
from orchestrator.replay.what_if import what_if
from orchestrator.replay.why import NoSuchEventError, why
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation
from projections.golden_log import golden

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
FILES = sorted(FIXTURES.rglob("*.jsonl"))


def log_of(name: str) -> list[Event]:
    return [*parse((FIXTURES / name).read_bytes(), name).events()]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_without_a_change_nothing_changes(file: Path) -> None:
    """The model of the world is the recording: each session says again what it said, and nothing is simulated."""
    log = log_of(str(file.relative_to(FIXTURES)))
    new = what_if(log, Change())
    assert sorted(golden(new.events)) == sorted(golden(log))
    assert decisions(new.events) == decisions(log)
    assert new.simulated == 0


def test_an_interruption_that_does_not_come_lets_the_answer_end() -> None:
    """What nobody recorded, because it was cut off, is simulated and counted."""
    log = log_of("barge_in.jsonl")
    barge_in = next(event for event in log if isinstance(event, BargeIn))
    after = [
        one for one in log if isinstance(one, Input) and not isinstance(one, Result) and one.at_us >= barge_in.at_us
    ]
    new = what_if(log, Change(without=frozenset(event.event_id for event in after)))
    assert "[auto_session_12345] TTS stream | chunks=30" in golden(new.events)
    assert not any(isinstance(event, UserInterrupted) and event.reason == "barge_in" for event in new.events)
    assert 0 < new.simulated < new.results


def test_a_shorter_endpoint_makes_the_wait_shorter() -> None:
    """The recogniser's final comes when it came, but the words count from the endpoint on only with `stt_ms`."""
    call = Conversation.listening(policy=Policy.model_validate({"speculation": {"tries": 1}}))
    call.at(1_000).input(inputs.SpeechStarted).after(300).input(inputs.SttPartial, text="hello")
    call.after(300).input(inputs.SpeechStopped).fires("endpoint").after(10).says("hello")
    call.after(700).answers("Hi!").speaks().after(2_000).played()
    patient = what_if(call.log, Change(settings={"speculation": {"tries": 0}}))
    assert typical_ms(waits_ms(call.log)) < typical_ms(waits_ms(patient.events))


def test_a_question_that_nobody_asked_is_answered_by_the_model() -> None:
    """With the usual latency of the recording, and marked."""
    call = Conversation.listening().at(1_000).says("hello").after(250).answers("Hi!").speaks().after(2_000).played()
    new = what_if(call.log, Change(insert=(SttFinal(text="and now", at_us=3_260_000, producer="x", producer_seq=1),)))
    answered = [event for event in new.events if getattr(event, "answer", "") == UNKNOWN]
    assert answered[0].elapsed_us == 250_000
    assert new.simulated >= 2


def test_a_result_that_is_left_out_never_comes() -> None:
    """The deadline decides then."""
    log = log_of("normal_flow.jsonl")
    answer = next(event for event in log if getattr(event, "type", "") == "RAG_ANSWERED")
    new = what_if(log, Change(without=frozenset({answer.event_id})))
    assert any(getattr(event, "fallback", "") == "answer_deadline" for event in new.events)


def test_the_end_of_a_playback_that_is_left_out_never_comes() -> None:
    """The deadline decides then; also where the answer came in texts, whose playback can be simulated."""
    log = log_of("failures/answer_while_it_is_written.jsonl")
    done = next(event for event in log if isinstance(event, inputs.PlaybackDone))
    new = what_if(log, Change(without=frozenset({done.event_id}))).events
    assert not [event for event in new if isinstance(event, inputs.PlaybackDone) and event.playback_id == "answer-1"]


DECISIONS = [
    ("barge_in.jsonl", "Speak"),
    ("barge_in.jsonl", "AnswerQuestion"),
    ("normal_flow.jsonl", "FinishUtterance"),
    ("real_barge_in.jsonl", "StopPlayback"),
    ("failures/words_confirm_the_interruption.jsonl", "CancelTask"),
    ("failures/greeting_before_the_voice.jsonl", "Speak"),
]


@pytest.mark.parametrize(("file", "command"), DECISIONS)
def test_a_cause_is_needed_and_its_neighbour_is_not(file: str, command: str) -> None:
    """Proved by leaving each of them out: counterfactual replay."""
    log = log_of(file)
    decided = next(event for event in log if isinstance(event, CommandIssued) and event.name == command)
    found = why(log, decided.version)
    assert found.chain[0].event == decided
    of_the_chain = [cause for cause in found.chain if isinstance(cause.event, Input)]
    assert of_the_chain
    assert all(cause.is_needed for cause in of_the_chain), of_the_chain
    assert of_the_chain[-1].event.cause == "", "the chain goes back to its beginning"
    if found.beside is not None:
        assert found.beside not in [cause.event for cause in found.chain]


def test_what_would_have_been_decided_anyway_is_no_cause() -> None:
    """The time of a call runs out whether anything was said in it or not."""
    log = log_of("failures/out_of_time.jsonl")
    closed = next(event for event in log if getattr(event, "name", "") == "CloseSession")
    needed = [
        (cause.event.type, cause.is_needed) for cause in why(log, closed.version).chain if cause.is_needed is not None
    ]
    assert needed[0] == ("PLAYBACK_DONE", True)
    assert needed[-1] == ("STT_FINAL", False)


def test_the_other_half_of_a_join_is_a_cause_too() -> None:
    """The answer came last, but without the intent it would not have been spoken then."""
    log = log_of("barge_in.jsonl")
    speak = next(event for event in log if getattr(event, "name", "") == "Speak")
    assert [event.type for event in why(log, speak.version).also] == ["INTENT_RESOLVED"]


def test_the_condition_that_failed_is_named() -> None:
    """Words that do not interrupt: how many it would have taken."""
    log = log_of("failures/too_few_words.jsonl")
    rejected = next(event for event in log if getattr(event, "reason", "") == "too few words to interrupt")
    found = [one for one in why(log, rejected.version).conditions if one.what == "interruption.min_words"]
    assert [one.with_ for one in found] == ["0"]
    assert "USER_INTERRUPTED" in found[0].then


def test_an_event_that_is_not_there_is_named() -> None:
    """With what there is."""
    with pytest.raises(NoSuchEventError, match="version 999 is not in this log; it ends at 69"):
        why(log_of("normal_flow.jsonl"), 999)


FIXED_WAIT = Policy.model_validate({"endpointing": {"incomplete_ms": 500, "longest_ms": 0}})


def a_spoken_call() -> Conversation:
    """Two utterances, the second with a pause in it of 400 ms; the recogniser takes 40 ms after each endpoint."""
    call = Conversation.listening(policy=FIXED_WAIT)
    call.at(1_000).input(inputs.SpeechStarted).after(300).input(inputs.SttPartial, text="hello")
    call.after(300).input(inputs.SpeechStopped).fires("endpoint").after(40).says("hello")
    call.after(200).answers("Hi!").speaks().after(1_000).played()
    call.after(500).input(inputs.SpeechStarted).after(300).input(inputs.SttPartial, text="when are")
    call.after(100).input(inputs.SpeechStopped).after(400).input(inputs.SpeechStarted)
    call.after(300).input(inputs.SttPartial, text="when are you open").after(50).input(inputs.SpeechStopped)
    call.fires("endpoint").after(40).says("when are you open")
    return call.after(200).answers("At ten.").speaks().after(1_000).played()


def finals(events: list[Event]) -> list[tuple[int, str]]:
    return [(event.at_us // 1_000, event.text) for event in events if isinstance(event, SttFinal)]


@pytest.mark.parametrize("wait_ms", [450, 600, 900])
def test_a_final_comes_by_its_recorded_delay_after_the_endpoint(wait_ms: int) -> None:
    """The wait for the answer is that much shorter or longer; nothing has to be guessed."""
    log = a_spoken_call().log
    new = what_if(log, Change(settings={"endpointing": {"incomplete_ms": wait_ms}}))
    moved_ms = wait_ms - 500
    assert finals(new.events) == [(ms + moved_ms, text) for ms, text in finals(log)]
    assert waits_ms(new.events) == [ms + moved_ms for ms in waits_ms(log)]
    assert (new.moved, new.unjudged, new.simulated) == (2, 0, 0)


def test_an_utterance_that_is_cut_is_guessed_and_counted() -> None:
    """With an endpoint shorter than the user's pause nobody knows what the recogniser would have given."""
    new = what_if(a_spoken_call().log, Change(settings={"endpointing": {"incomplete_ms": 300}}))
    assert [text for _, text in finals(new.events)] == ["hello", "when are", "you open"]
    assert new.unjudged == 1


def test_an_utterance_counts_once_however_often_it_is_cut() -> None:
    call = Conversation.listening(policy=FIXED_WAIT).at(1_000).input(inputs.SpeechStarted)
    for words in ("one", "one two"):
        call.after(200).input(inputs.SttPartial, text=words).after(50).input(inputs.SpeechStopped)
        call.after(400).input(inputs.SpeechStarted)
    call.after(200).input(inputs.SttPartial, text="one two three").after(50).input(inputs.SpeechStopped)
    call.fires("endpoint").after(40).says("one two three")
    new = what_if(call.log, Change(settings={"endpointing": {"incomplete_ms": 300}}))
    assert [text for _, text in finals(new.events)] == ["one", "two", "three"]
    assert new.unjudged == 1


def test_a_sound_without_words_after_a_guess_delays_no_answer() -> None:
    """The recogniser would have said that there is nothing more; without that, the wait is that of its deadline."""
    call = Conversation.listening(policy=FIXED_WAIT).at(1_000).input(inputs.SpeechStarted)
    call.after(200).input(inputs.SttPartial, text="book a table").after(150).input(inputs.SpeechStopped)
    call.after(400).input(inputs.SpeechStarted).after(150).input(inputs.SpeechStopped)
    call.fires("endpoint").after(40).says("book a table").after(200).answers("Done.").speaks().after(500).played()
    new = what_if(call.log, Change(settings={"endpointing": {"incomplete_ms": 250}}))
    assert [text for _, text in finals(new.events)] == ["book a table", ""]
    assert not [event for event in new.events if isinstance(event, TimerFired) and event.target == "stt_deadline"]
    (answer,) = [event for event in new.events if isinstance(event, ProcessingComplete)]
    (spoken,) = [event for event in new.events if isinstance(event, PlaybackStarted)]
    assert spoken.at_us - answer.at_us < 1_000_000


def test_utterances_that_run_together_have_one_final() -> None:
    """With an endpoint longer than the silence between them, the recogniser gives both at once."""
    call = Conversation.listening(policy=FIXED_WAIT)
    for at_ms, words in ((1_000, "one"), (2_100, "two")):
        call.at(at_ms).input(inputs.SpeechStarted).after(100).input(inputs.SttPartial, text=words)
        call.after(100).input(inputs.SpeechStopped).fires("endpoint").after(40).says(words)
    call.after(200).answers("Yes.").speaks().after(500).played()
    new = what_if(call.log, Change(settings={"endpointing": {"incomplete_ms": 1_000}}))
    assert finals(new.events) == [(3_340, "one two")]
    assert new.unjudged == 0


def test_an_endpoint_that_does_not_move_changes_nothing() -> None:
    """Whatever else of the policy changes: finals come as recorded, and none is counted."""
    for file in FILES:
        log = log_of(str(file.relative_to(FIXTURES)))
        new = what_if(log, Change(settings={"goodbye": {"text": "Bye."}}))
        assert (new.moved, new.unjudged) == (0, 0), file.stem
