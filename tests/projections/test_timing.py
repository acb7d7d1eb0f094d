"""Shows when the response latency of a turn begins: with the user's silence before its words, and no other."""

from events import inputs
from events.derived import EventRejected
from events.inputs import AnswerText, SpeechStarted, SpeechStopped, SttFinal, SttPartial
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation
from projections.timing import Latency, TurnTiming


def latencies(call: Conversation) -> list[Latency]:
    """The latencies of the turns, in order."""
    timing = TurnTiming()
    return [latency for event in call.log if (latency := timing.see(event)) is not None]


def rejections(call: Conversation) -> int:
    return sum(isinstance(event, EventRejected) for event in call.log)


def finished(call: Conversation, at_ms: int) -> Conversation:
    """The user makes a sound until 300 ms after `at_ms`, and the endpoint comes 500 ms after the sound."""
    call.at(at_ms).input(SpeechStarted).at(at_ms + 300).input(SpeechStopped)
    return call.fires("endpoint")


def answered(call: Conversation, at_ms: int) -> Conversation:
    """The answer is there, and its first audio is heard 100 ms after `at_ms`."""
    call.at(at_ms).answers("Of course.").at(at_ms + 100)
    return call.input(inputs.TtsChunkReady, index=0, duration_ms=200).input(inputs.PlaybackStarted)


def test_an_answer_in_flight_takes_nothing_from_the_latency_of_the_next() -> None:
    """A text of the interrupted answer is rejected between the endpoint and the turn: the turn keeps its beginning."""
    call = Conversation.in_phase("THINKING").resolves().texts("Once upon a time ")
    stale = call.outstanding("AnswerQuestion").command_id
    call.input(inputs.TtsChunkReady, index=0, duration_ms=200).input(inputs.PlaybackStarted)
    finished(call, 5_000)
    call.interrupts().input(AnswerText, command_id=stale, index=1, text="there was")
    assert call.state.phase == "INTERRUPT"
    assert rejections(call) == 1
    call.says("stop it").fires("interrupt_pause")
    answered(call, 7_000)
    assert latencies(call)[-1].total_us == 7_100_000 - 5_300_000


def test_a_tool_of_an_early_question_takes_nothing_from_the_latency() -> None:
    """TOOL_CALLED of a question that was asked early is rejected while the final is waited for."""
    policy = Policy.model_validate({"speculation": {"tries": 1}})
    call = Conversation.in_phase("LISTENING", policy=policy).at(1_000).input(SpeechStarted)
    call.input(SttPartial, text="book a table").at(1_300).input(SpeechStopped).fires("endpoint").calls("book")
    assert rejections(call) == 1
    call.says("book a table")
    answered(call, 3_000)
    assert latencies(call)[-1].total_us == 3_100_000 - 1_300_000


def test_words_of_a_second_recogniser_take_nothing_from_the_latency() -> None:
    """It repeats the words of an interruption, whose turn has not started yet, or reports none at all."""
    call = Conversation.in_phase("SPEAKING").speaks()
    finished(call, 5_000)
    call.interrupts().says("stop it").input(SttFinal, text="stop it", producer="second", producer_seq=1)
    call.input(SttFinal, text="", producer="second", producer_seq=2)
    assert call.state.phase == "INTERRUPT"
    assert rejections(call) == 2
    call.fires("interrupt_pause")
    answered(call, 7_000)
    assert latencies(call)[-1].total_us == 7_100_000 - 5_300_000


def test_an_utterance_without_words_begins_no_later_turn() -> None:
    """Its empty final was waited for, so it is not rejected; words that come a minute later have their own time."""
    call = finished(Conversation.in_phase("LISTENING"), 1_000).says("")
    assert rejections(call) == 0
    call.at(60_000).says("hello")
    answered(call, 61_000)
    assert latencies(call)[-1].total_us == 61_100_000 - 60_000_000


def test_a_backchannel_begins_no_later_turn() -> None:
    """Its final is rejected, and the wait for a final ends with it."""
    call = finished(Conversation.in_phase("SPEAKING").speaks(chunks=100), 5_000).says("mhm")
    assert rejections(call) == 1
    call.at(60_000).says("stop").fires("interrupt_pause")
    began_us = call.log[-1].at_us
    answered(call, 62_000)
    assert latencies(call)[-1].total_us == 62_100_000 - began_us
