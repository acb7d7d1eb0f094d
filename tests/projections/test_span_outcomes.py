"""Shows what spans say of sounds that change nothing, of finals that do not come, and of answers that are shown."""

from typing import Any

from events import inputs
from events.inputs import HandlerAttached, SpeechStarted, SpeechStopped
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation
from projections import names
from projections.measures import of_span
from projections.span import Span
from projections.spans import spans_of

DEAF = {"interruption": {"pause_playback": False}}
"""The agent speaks on until it is decided whether a sound interrupts it."""


def named(call: Conversation, name: str) -> list[Span]:
    return [span for span in spans_of(call.log) if span.name == name]


def in_a_call(policy: dict[str, Any], answer: str = "Hi! How can I help?") -> Conversation:
    """A call whose agent speaks since the second second."""
    call = Conversation.in_phase("LISTENING", policy=Policy.model_validate(policy))
    call.input(HandlerAttached, handler_id="fastrtc_1").at(1_000).says("hello").at(2_000)
    return call.answers(answer).speaks(chunks=100)


def cough(call: Conversation, at_ms: int) -> Conversation:
    """A sound of 200 ms, by the same clock as the session's."""
    call.at(at_ms).input(SpeechStarted, observed_at_us=at_ms * 1000)
    return call.at(at_ms + 200).input(SpeechStopped)


def kinds(call: Conversation) -> list[tuple[str, Any]]:
    """Kind and stop latency of each barge-in, in order."""
    spans = named(call, names.BARGE_IN)
    return [(str(span.attributes[names.BARGE_IN_KIND]), span.attributes.get(names.STOP_LATENCY_MS)) for span in spans]


def test_a_sound_that_changed_nothing_is_no_part_of_a_later_interruption() -> None:
    """Its barge-in is undecided; the stop latency of the interruption begins with the user's second sound."""
    call = cough(in_a_call(DEAF), 4_000)
    call.at(10_000).input(SpeechStarted, observed_at_us=10_000_000).input(inputs.SttPartial, text="stop it")
    call.fires("barge_in")
    assert kinds(call) == [("undecided", None), ("interruption", 500)]


def test_a_sound_over_the_filler_is_no_part_of_an_interruption_of_the_answer() -> None:
    """It silenced the filler, which is gone."""
    policy = {"filler": {"text": "One moment.", "delay_ms": 0}}
    call = Conversation.in_phase("LISTENING", policy=Policy.model_validate(policy))
    call.input(HandlerAttached, handler_id="fastrtc_1").at(1_000).says("hello")
    call.input(inputs.TtsChunkReady, index=0, duration_ms=900).input(inputs.PlaybackStarted)
    cough(call, 1_500).fires("endpoint").says("")
    call.at(3_000).answers("Hi! How can I help?").speaks(chunks=100)
    call.at(9_000).input(SpeechStarted, observed_at_us=9_000_000)
    assert kinds(call) == [("undecided", 0), ("undecided", 0)]
    assert [span.start_us for span in named(call, names.BARGE_IN)] == [1_500_000, 9_000_000]


def test_a_second_sound_while_the_agent_is_paused_belongs_to_the_first() -> None:
    """The agent has been silent since the first one: both are one barge-in."""
    call = cough(in_a_call({}), 4_000)
    cough(call, 4_500).fires("false_interruption")
    assert kinds(call) == [("false_interruption", 0)]


def test_typed_words_do_not_make_an_interruption_of_an_earlier_sound() -> None:
    """The sound changed nothing, and typed words have no sound whose latency could be measured."""
    call = cough(in_a_call(DEAF), 4_000).at(10_000).says("stop it", via="text")
    assert call.state.phase == "INTERRUPT"
    assert kinds(call) == [("undecided", None)]


def test_a_barge_in_of_the_client_is_not_measured_from_an_earlier_sound() -> None:
    """While the user speaks, it tells of the same sound."""
    call = cough(in_a_call(DEAF), 4_000).at(10_000).input(inputs.BargeIn, observed_at_us=9_990_000)
    assert kinds(call) == [("undecided", None), ("interruption", 10)]
    call = in_a_call(DEAF).at(10_000).input(SpeechStarted, observed_at_us=10_000_000)
    call.at(10_100).input(inputs.BargeIn, observed_at_us=10_100_000)
    assert kinds(call) == [("interruption", 100)]


def test_speech_to_text_that_gives_no_final_is_over_with_its_deadline() -> None:
    """Not with the user's next words, a minute later."""
    call = Conversation.in_phase("LISTENING")
    cough(call, 1_000).fires("endpoint").fires("stt_deadline")
    over_us = call.now_us
    call.at(60_000).input(SpeechStarted)
    first, _ = named(call, names.SPEECH_TO_TEXT)
    assert (first.end_us, first.attributes[names.OUTCOME]) == (over_us, "no_final")


def test_a_late_deadline_of_an_earlier_utterance_ends_no_recognition() -> None:
    """The user went on before it came: its timer was withdrawn, and their words have one span."""
    call = cough(Conversation.in_phase("LISTENING"), 1_000).fires("endpoint")
    withdrawn = call.outstanding("StartTimer", "stt_deadline").command_id
    call.at(2_000).input(SpeechStarted).input(inputs.TimerFired, command_id=withdrawn, target="stt_deadline")
    call.at(2_500).input(SpeechStopped).at(2_600).says("hello")
    (only,) = named(call, names.SPEECH_TO_TEXT)
    assert (only.end_us, only.attributes[names.OUTCOME]) == (2_600_000, "final")


def services(call: Conversation) -> set[str]:
    """Names of the services whose requests are measured."""
    return {
        dict(one.labels)["service"]
        for span in spans_of(call.log)
        for one in of_span(span)
        if one.metric == "orch.service.duration"
    }


def test_an_answer_that_is_shown_is_no_request_for_speech() -> None:
    """Nobody synthesised it, nor the filler: both spans say `shown`, and no metric counts them as cancelled."""
    policy = Policy.model_validate({"filler": {"text": "One moment.", "delay_ms": 0}})
    call = Conversation.in_phase("LISTENING", policy=policy).at(1_000).says("hello", via="text")
    call.input(inputs.PlaybackStarted).input(inputs.PlaybackDone, confirmed_by="client")
    call.at(2_000).answers("Hi!").input(inputs.PlaybackStarted).played()
    outcomes = [
        span.attributes[names.OUTCOME] for name in (names.FILLER, names.TEXT_TO_SPEECH) for span in named(call, name)
    ]
    assert outcomes == ["shown", "shown"]
    assert services(call) == {"answer", "intent"}
    assert services(in_a_call({}).played()) == {"answer", "intent", "text_to_speech"}
