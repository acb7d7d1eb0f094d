"""Shows what a connection that goes and comes back while the agent speaks leads to: it goes on where it was heard."""

import pytest
from glance import arms, cancels, done, due_ms, timers

from events.derived import AnswerEnded, EventRejected
from events.inputs import (
    ClientDisconnected,
    HandlerAttached,
    HandlerDetached,
    PlaybackDone,
    PlaybackStarted,
    SpeechStarted,
    TtsChunkReady,
)
from orchestrator.session.commands import ResumePlayback, Speak, StopPlayback

ANSWER = "Hi! How can I help?"


def talking(converse, handler_id: str = "fastrtc_1", **policy):
    """SPEAKING in a call for 700 ms of an answer of 5 s, at 2,000 ms of the session."""
    call = converse("SPEAKING", **policy).input(HandlerAttached, handler_id=handler_id)
    return call.speaks(chunks=10, chunk_ms=500).at(2_000)


def rest(from_ms: int, ends: str = "") -> Speak:
    return Speak(ends=ends, from_ms=from_ms, playback_id="answer-1", text=ANSWER)


def test_a_lost_call_is_spoken_on_from_where_it_was_heard(converse) -> None:
    """The client is still there: a call may follow, else the rest is shown as text."""
    call = talking(converse)
    before = call.outstanding("Speak")
    call.input(HandlerDetached, handler_id="fastrtc_1")
    assert done(call) == [cancels("playback_deadline"), rest(700), arms("tts_deadline", 2_000 + 3_000 + 2_000)]
    again = call.outstanding("Speak")
    assert (again.retry_of, again.idempotency_key) == (before.command_id, before.idempotency_key)
    assert call.state.speech_failures == 0


@pytest.mark.parametrize(("unheard_ms", "from_ms"), [(0, 700), (300, 400), (700, 0), (5_000, 0)])
def test_what_a_caller_did_not_hear_is_said_again(converse, unheard_ms: int, from_ms: int) -> None:
    """Nothing came from it for a while before its call was lost."""
    call = talking(converse).input(HandlerDetached, handler_id="fastrtc_1", unheard_ms=unheard_ms)
    assert rest(from_ms) in done(call)


def test_what_was_heard_in_an_earlier_call_is_not_said_again(converse) -> None:
    """The second call was lost at once, and longer ago than it lasted."""
    call = talking(converse).input(HandlerDetached, handler_id="fastrtc_1")
    call.after(1_000).input(HandlerAttached, handler_id="fastrtc_2")
    call.input(TtsChunkReady, index=0, duration_ms=4_000).input(PlaybackStarted).after(200)
    assert rest(700) in done(call.input(HandlerDetached, handler_id="fastrtc_2", unheard_ms=3_000))


def test_a_client_that_is_lost_with_its_call_is_waited_for(converse) -> None:
    """No audio is awaited until it is back; the session waits no longer than for any client."""
    call = talking(converse).input(HandlerDetached, handler_id="fastrtc_1")
    call.input(ClientDisconnected, client_id="browser-1")
    assert done(call) == [arms("reconnect", 62_000), cancels("tts_deadline")]
    call.after(30_000).connects("browser-2")
    assert timers(call) == {"tts_deadline"}
    assert due_ms(call, "tts_deadline") == 37_000


def test_a_client_that_is_lost_before_a_text_was_shown_is_waited_for(converse) -> None:
    """Nobody heard it, and no service failed."""
    call = converse("SPEAKING").input(ClientDisconnected, client_id="browser-1")
    assert timers(call) == {"reconnect"}
    assert timers(call.connects("browser-2")) == {"tts_deadline"}


def test_what_is_heard_in_the_call_of_a_lost_client_is_awaited_as_before(converse) -> None:
    """Only the WebSocket is gone."""
    call = talking(converse).input(ClientDisconnected, client_id="browser-1")
    assert timers(call) == {"playback_deadline", "reconnect"}


@pytest.mark.parametrize("breaks", [1, 5])
def test_each_rest_begins_where_the_last_was_heard(converse, breaks: int) -> None:
    """However often it breaks off; no break counts as a failure, and all that was heard counts."""
    call = talking(converse)
    for number in range(1, breaks + 1):
        call.input(HandlerDetached, handler_id=f"fastrtc_{number}")
        assert rest(700 * number) in done(call)
        call.after(10_000).input(HandlerAttached, handler_id=f"fastrtc_{number + 1}")
        call.input(TtsChunkReady, index=0, duration_ms=4_000).input(PlaybackStarted).after(700)
    call.interrupts()
    (ended,) = [event for event in call.last if isinstance(event, AnswerEnded)]
    assert ended.heard_ms == 700 * (breaks + 1)
    assert call.state.speech_failures == 0


def test_a_result_of_the_broken_playback_is_stale(converse) -> None:
    """Its end was on the way when the connection was lost."""
    call = talking(converse)
    old = call.outstanding("Speak").command_id
    call.input(HandlerDetached, handler_id="fastrtc_1")
    call.input(PlaybackDone, command_id=old, playback_id="answer-1", confirmed_by="timer")
    assert isinstance(call.last[-1], EventRejected)
    assert call.state.phase == "SPEAKING"


def test_what_was_paused_for_speech_over_the_lost_call_goes_on(converse) -> None:
    """Nobody will ever say that the user has finished; it goes on where it was paused."""
    call = talking(converse).input(SpeechStarted).after(300).input(HandlerDetached, handler_id="fastrtc_1")
    assert done(call) == [
        cancels("barge_in"),
        cancels("false_interruption"),
        ResumePlayback(playback_id="answer-1"),
        rest(700),
        arms("tts_deadline", 2_300 + 5_000),
    ]


def test_last_words_stay_last_words(converse) -> None:
    """The conversation ends with them, wherever they are heard to their end."""
    call = converse("THINKING", goodbye={"intent": "bye"}).input(HandlerAttached, handler_id="fastrtc_1")
    call.answers(ANSWER, intent="bye").speaks(chunks=2, chunk_ms=500)
    call.input(HandlerDetached, handler_id="fastrtc_1")
    assert call.commands[-2].ends == "goodbye"
    assert call.input(PlaybackDone, playback_id="answer-1", confirmed_by="client").state.phase == "ENDED"


@pytest.mark.parametrize("handler_id", ["fastrtc_9", ""])
def test_the_end_of_another_call_breaks_nothing_off(converse, handler_id: str) -> None:
    """It was replaced, or never was."""
    call = talking(converse).input(HandlerDetached, handler_id=handler_id)
    assert done(call) == []
    call = converse("SPEAKING").input(HandlerDetached, handler_id=handler_id)
    assert done(call) == []


def test_a_filler_is_not_spoken_on(converse) -> None:
    """The answer is on its way."""
    call = converse("THINKING", filler={"delay_ms": 0, "text": "One moment."})
    call.input(HandlerAttached, handler_id="fastrtc_1").input(HandlerDetached, handler_id="fastrtc_1")
    assert done(call) == [StopPlayback(playback_id="filler-1")]
