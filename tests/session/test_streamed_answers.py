"""Answers that come in texts: spoken while they are written, cut off when they break, heard to the word."""

from typing import Any

import pytest

from events.derived import AnswerEnded, ProcessingComplete
from events.inputs import (
    AnswerText,
    ClientConnected,
    ClientDisconnected,
    HandlerAttached,
    HandlerDetached,
    PlaybackProgress,
    PlaybackStarted,
    SpeechStarted,
    SpeechStopped,
    SpokenWord,
    SttPartial,
    TtsChunkReady,
    TtsComplete,
)
from events.recording import parse
from orchestrator.replay.invariants import Invariants
from orchestrator.session.commands import CancelStage, Speak, SpeakMore
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation

SORRY = Policy().fallback.cut_off


def speaking(*texts: str, policy: dict[str, Any] | None = None) -> Conversation:
    """A call in which the first of these texts has led to SPEAKING, and the others have followed."""
    call = Conversation.in_phase("THINKING", policy=Policy.model_validate(policy or {}))
    return call.input(HandlerAttached, handler_id="fastrtc_1").resolves().texts(*texts)


def chunk(call: Conversation, text_index: int, ms: int = 1_000, words: tuple[SpokenWord, ...] = ()) -> None:
    playback = call.state.playback
    assert playback is not None
    index = playback.next_chunk
    call.input(TtsChunkReady, index=index, duration_ms=ms, text_index=text_index, words=words)


def ended(call: Conversation) -> AnswerEnded:
    return next(event for event in reversed(call.log) if isinstance(event, AnswerEnded))


def check(call: Conversation) -> None:
    """The laws, and the invariants that a log shows by itself."""
    call.check()
    found = Invariants()
    for step in call.steps:
        found.look(step.events)
    assert found.broken == []


def test_an_answer_is_spoken_while_it_is_written() -> None:
    """SPEAKING begins with the intent and the first text; the later ones follow, and the end closes the playback."""
    call = Conversation.in_phase("THINKING").texts("Hi there. ")
    assert call.state.phase == "THINKING"
    call.resolves()
    assert call.state.phase == "SPEAKING"
    assert Speak(ends="", from_ms=0, playback_id="answer-1", text="Hi there. ", is_open=True) in call.commands
    call.texts("We are open.")
    assert call.commands[-1] == SpeakMore(1, False, "answer-1", "We are open.")
    call.speaks(chunks=3).written()
    assert call.commands[1] == SpeakMore(2, True, "answer-1", "")
    call.played()
    assert call.state.phase == "LISTENING"
    assert ended(call).heard_text == "Hi there. We are open."
    (complete,) = [event for event in call.log if isinstance(event, ProcessingComplete)]
    assert complete.answer == "Hi there. "
    check(call)


def test_what_waits_for_the_intent_is_spoken_with_it() -> None:
    """Three texts, complete: the playback is opened, goes on, and is closed in one step."""
    call = Conversation.in_phase("THINKING").texts("Hi. ", "Come in. ", "Bye.").written().resolves()
    assert [command for command in call.commands if isinstance(command, Speak | SpeakMore)] == [
        Speak(ends="", from_ms=0, playback_id="answer-1", text="Hi. ", is_open=True),
        SpeakMore(1, False, "answer-1", "Come in. "),
        SpeakMore(2, True, "answer-1", "Bye."),
    ]
    assert not call.state.outstanding("AnswerQuestion")
    check(call)


def test_one_text_that_is_complete_is_a_whole_answer() -> None:
    call = Conversation.in_phase("THINKING").texts("Hi.").written().resolves()
    assert Speak(ends="", from_ms=0, playback_id="answer-1", text="Hi.") in call.commands
    assert call.state.playback is not None
    assert not call.state.playback.ends_at
    check(call.speaks().played())


def test_what_waits_for_the_user_is_spoken_after_them() -> None:
    """The answer goes on being written while the user speaks."""
    call = Conversation.in_phase("THINKING").input(SpeechStarted).resolves().texts("Hi. ", "We are open. ")
    assert call.state.phase == "THINKING"
    call.texts("Come in.").fires("floor_deadline")
    assert [command.text for command in call.commands if isinstance(command, Speak | SpeakMore)] == [
        "Hi. ",
        "We are open. ",
        "Come in.",
    ]
    assert call.state.playback is not None
    assert call.state.playback.is_open
    check(call.written().speaks().played())


@pytest.mark.parametrize("how", ["fails", "is late"])
def test_an_answer_that_breaks_off_ends_with_an_apology(how: str) -> None:
    """After what was said of it, as the policy says; and the failure counts."""
    call = speaking("We are open", policy={"fallback": {"failures": 2}})
    chunk(call, 0)
    if how == "fails":
        call.fails("AnswerQuestion")
    else:
        asked = call.outstanding("AnswerQuestion").command_id
        call.fires("answer_deadline")
        assert CancelStage(asked, "answer") in call.commands
    assert SpeakMore(1, True, "answer-1", f" {SORRY}") in call.commands
    assert call.state.answer_failures == 1
    call.speaks().played()
    assert ended(call).heard_text == f"We are open {SORRY}"
    check(call)


@pytest.mark.parametrize("how", ["fails", "is late"])
def test_an_answer_that_breaks_off_before_it_is_spoken_is_spoken_as_far_as_it_came(how: str) -> None:
    """No fallback: there is something to say."""
    call = Conversation.in_phase("THINKING").texts("We are open. ")
    if how == "fails":
        call.fails("AnswerQuestion")
    else:  # and the intent takes its time
        call = Conversation.in_phase("THINKING", policy=Policy.model_validate({"deadlines": {"intent_ms": 60_000}}))
        call.texts("We are open. ").fires("answer_deadline")
    assert call.state.phase == "THINKING"
    call.resolves()
    assert [c.text for c in call.commands if isinstance(c, Speak | SpeakMore)] == ["We are open. ", SORRY]
    check(call.speaks().played())


def test_the_apology_may_be_left_out() -> None:
    """By policy, or when there is no room for it."""
    silent = speaking("We are open", policy={"fallback": {"cut_off": ""}}).fails("AnswerQuestion")
    assert SpeakMore(1, True, "answer-1", "") in silent.commands
    full = speaking("x" * 8_000).fails("AnswerQuestion")
    assert SpeakMore(1, True, "answer-1", "") in full.commands
    check(silent)
    check(full)


def test_an_answer_has_taken_as_long_as_its_first_text() -> None:
    call = Conversation.in_phase("THINKING")
    call.input(AnswerText, index=0, text="We are open.", elapsed_us=500)
    call.input(AnswerText, index=1, text=" Come in.", elapsed_us=900)
    assert (call.state.found.texts, call.state.found.answer_elapsed_us) == (("We are open.", " Come in."), 500)


def test_an_answer_that_is_late_is_asked_for_no_longer() -> None:
    """Its texts are spoken when the intent has come."""
    call = Conversation.in_phase("THINKING").texts("We are open. ").fires("answer_deadline")
    assert not call.state.outstanding("AnswerQuestion")
    check(call)


def test_a_text_may_be_one_character() -> None:
    call = Conversation.in_phase("THINKING").texts("5")
    assert call.state.texts == ("5",)


def test_only_the_next_text_counts() -> None:
    """Not one that comes again, that leaves a gap, is empty, or makes the answer too long; in any phase."""
    for call in (
        Conversation.in_phase("THINKING").texts("Hi. "),
        speaking("Hi. "),
        _guessing().texts("Hi. "),
    ):
        for index, text in ((0, "Hi. "), (2, "Bye."), (1, ""), (1, "x" * 7_997)):
            call.input(AnswerText, index=index, text=text)
            assert call.last[-1].reason == "not the next text of the answer"
        assert call.state.texts == ("Hi. ",)
        check(call)


def _guessing() -> Conversation:
    policy = Policy.model_validate({"speculation": {"tries": 1}})
    call = Conversation.listening(policy=policy).input(SpeechStarted)
    return call.input(SttPartial, text="when are you open", is_complete=True)


def test_a_guess_may_be_written_before_the_turn() -> None:
    """The turn speaks what is there of it, and the rest as it comes."""
    call = _guessing().resolves().texts("At nine. ")
    assert call.state.phase == "LISTENING"
    call.says("When are you open?")
    assert call.state.phase == "SPEAKING"
    assert call.outstanding("answer_deadline").payload["due_at_us"] == 6_000_000
    call.texts("Until five.").written()
    assert call.state.playback is not None
    assert (call.state.playback.text, call.state.playback.is_open) == ("At nine. Until five.", False)
    check(call.speaks().played())


def test_a_guess_that_breaks_off_is_asked_again() -> None:
    call = _guessing().texts("At nine. ").fails("AnswerQuestion").says("When are you open?")
    assert call.state.texts == ()
    check(call.answers("At nine."))


def test_a_late_text_is_stale() -> None:
    """After an interruption the request is cancelled, and so is all that it may still say."""
    call = speaking("Hi. ")
    asked = call.outstanding("AnswerQuestion").command_id
    call.interrupts()
    assert not call.state.outstanding("AnswerQuestion")
    call.input(AnswerText, command_id=asked, index=1, text="Bye.")
    assert call.last[-1].reason == "stale: its command is not outstanding"
    check(call)


def test_the_playback_deadline_waits_for_the_end_of_the_answer() -> None:
    """Until then only the next text is awaited: a model may think longer than its speech lasts."""
    call = speaking("Hi. ")
    chunk(call, 0)
    call.input(PlaybackStarted).after(1_000).input(PlaybackProgress, position_ms=1_000)
    assert not call.state.armed("tts_deadline", "playback_deadline")
    call.written()
    assert call.state.timer("playback_deadline") is not None
    check(call)


def test_while_nobody_hears_the_end_of_an_answer_arms_no_deadline() -> None:
    call = speaking("Hi. ").input(HandlerDetached, handler_id="fastrtc_1")
    call.input(ClientDisconnected, client_id="browser-1").written()
    assert not call.state.armed("tts_deadline", "playback_deadline")
    call.input(ClientConnected, client_id="browser-1")
    assert call.state.timer("tts_deadline") is not None
    check(call)


def test_a_playback_that_waits_for_text_owes_no_audio() -> None:
    """A client that returns hears the next text when it comes; the deadline of the text guards it."""
    call = speaking("Hi. ")
    chunk(call, 0)
    call.input(PlaybackStarted).input(HandlerDetached, handler_id="fastrtc_1")
    assert call.state.timer("tts_deadline") is None
    call.input(ClientDisconnected, client_id="browser-1").input(ClientConnected, client_id="browser-1")
    assert call.state.timer("tts_deadline") is None
    assert call.state.timer("answer_deadline") is not None
    check(call)


def test_what_was_heard_is_known_to_the_word_without_word_times() -> None:
    """Each text has its own share of the audio, so an error in one does not add up."""
    call = speaking("One two three four. ", "Five six seven eight. ", "Nine ten.")
    chunk(call, 0, 4_000)
    call.input(PlaybackStarted)
    chunk(call, 1, 1_000)
    chunk(call, 1, 1_000)
    chunk(call, 2, 100)
    call.after(5_100).interrupts()
    assert ended(call).heard_text == "One two three four. Five six"
    assert (ended(call).heard_ms, ended(call).chunks) == (5_100, 4)
    check(call)


def test_the_last_text_is_guessed_until_it_is_made() -> None:
    """Its length is not known yet, and its last word is never heard before it is there."""
    call = speaking("One two three four. ", "Five six.")
    chunk(call, 0, 2_000)
    call.input(PlaybackStarted)
    chunk(call, 1, 300)
    call.after(2_300).interrupts()
    assert ended(call).heard_text == "One two three four."
    check(call)


def test_a_complete_answer_is_heard_to_its_last_word() -> None:
    call = speaking("One two. ", "Three four.").written()
    chunk(call, 0, 1_000)
    call.input(PlaybackStarted)
    chunk(call, 1, 1_000)
    call.input(TtsComplete, chunks=2, duration_ms=2_000).after(2_000).interrupts()
    assert ended(call).heard_text == "One two. Three four."
    check(call)


def test_the_clock_of_a_playback_stands_still_while_it_has_nothing_to_play() -> None:
    """Silence between two texts is not heard speech."""
    call = speaking("One two. ")
    chunk(call, 0, 1_000)
    call.input(PlaybackStarted).after(4_000).texts("Three four.")
    chunk(call, 1, 1_000)
    call.after(200).interrupts()
    assert ended(call).heard_ms == 1_200
    check(call)


@pytest.mark.parametrize("losses", [("client",), ("client", "handler")])
def test_nobody_is_waited_for_who_cannot_hear(losses: tuple[str, ...]) -> None:
    """Without a client, but with a call, the end of the audio is still awaited; without both it is not."""
    call = speaking("One two. ")
    chunk(call, 0, 1_000)
    call.input(PlaybackStarted).written()
    assert call.state.timer("playback_deadline") is not None
    if "handler" in losses:
        call.input(HandlerDetached, handler_id="fastrtc_1")
        call.input(ClientDisconnected, client_id=call.state.client_id)
        assert call.state.timer("playback_deadline") is None
    else:
        call.input(ClientDisconnected, client_id=call.state.client_id)
        assert call.state.timer("playback_deadline") is not None


def test_a_new_owner_begins_with_the_first_text_where_none_was_spoken() -> None:
    call = speaking("One. ", "Two. ").resumes("incarnation-2")
    assert [c for c in call.commands if isinstance(c, Speak | SpeakMore)] == [
        Speak(ends="", from_ms=0, playback_id="answer-1", text="One. ", is_open=True),
        SpeakMore(1, False, "answer-1", "Two. "),
    ]
    check(call)


def test_the_end_of_an_answer_is_awaited_in_a_call_without_a_client() -> None:
    call = speaking("One two. ")
    chunk(call, 0, 1_000)
    call.input(PlaybackStarted).input(ClientDisconnected, client_id=call.state.client_id).written()
    assert call.state.timer("playback_deadline") is not None


def test_a_playback_starts_once() -> None:
    """A start that is reported again, for example to a new owner, sets no clock back."""
    call = speaking("One two. ")
    chunk(call, 0, 1_000)
    call.input(PlaybackStarted).after(400).input(PlaybackStarted).after(200).interrupts()
    assert ended(call).heard_ms == 600
    check(call)


def test_a_playback_that_was_paused_goes_on_with_a_new_owner() -> None:
    call = speaking("One two. ")
    chunk(call, 0, 1_000)
    call.input(PlaybackStarted).after(400).input(SpeechStarted)
    assert call.state.playback is not None
    assert call.state.playback.is_paused
    call.input(SpeechStopped).resumes("incarnation-2")
    assert not call.state.playback.is_paused
    check(call)


def test_a_new_owner_goes_on_in_the_text_that_was_heard() -> None:
    """Those before it are not synthesised again; the answer is asked to go on."""
    call = speaking("One. ", "Two. ", "Three. ")
    chunk(call, 0, 1_000)
    call.input(PlaybackStarted)
    chunk(call, 1, 1_000)
    call.after(1_400).input(PlaybackProgress, position_ms=1_400).resumes("incarnation-2")
    assert [c for c in call.commands if isinstance(c, Speak | SpeakMore)] == [
        Speak(ends="", from_ms=1_400, playback_id="answer-1", text="Two. ", begins_ms=1_000, index=1, is_open=True),
        SpeakMore(2, False, "answer-1", "Three. "),
    ]
    call.texts("Four.").written().resumes("incarnation-3")
    assert call.state.playback is not None
    assert [c for c in call.commands if isinstance(c, Speak | SpeakMore)] == [
        Speak(ends="", from_ms=1_400, playback_id="answer-1", text="Two. ", begins_ms=1_000, index=1, is_open=True),
        SpeakMore(2, False, "answer-1", "Three. "),
        SpeakMore(3, False, "answer-1", "Four."),
        SpeakMore(4, True, "answer-1", ""),
    ]
    assert call.state.playback.text == "One. Two. Three. Four."
    assert not call.state.playback.is_open
    check(call)


def test_the_end_of_an_answer_in_text_is_awaited_while_somebody_reads_it() -> None:
    call = Conversation.in_phase("THINKING").resolves().texts("Hi. ").input(PlaybackStarted).written()
    assert call.state.timer("playback_deadline") is not None
    call.input(ClientDisconnected, client_id=call.state.client_id)
    assert call.state.timer("playback_deadline") is None
    check(call)


def test_an_answer_that_is_shown_is_heard_as_far_as_it_came() -> None:
    """In a conversation in text; its audio is not awaited."""
    call = Conversation.in_phase("THINKING").resolves().texts("Hi. ", "Bye. ").input(PlaybackStarted)
    assert not call.state.armed("tts_deadline", "playback_deadline")
    call.says("what", via="text")
    assert ended(call).heard_text == "Hi. Bye."
    check(call)


def test_the_rest_of_what_was_shown_may_be_spoken() -> None:
    """A call came in the middle: from here on, it is heard as it is played."""
    call = Conversation.in_phase("THINKING").resolves().texts("One two. ").input(PlaybackStarted)
    call.input(HandlerAttached, handler_id="fastrtc_1").texts("Three four.")
    chunk(call, 1, 1_000)
    call.input(PlaybackStarted).after(600).written().input(SpeechStarted).input(SpeechStopped)
    call.interrupts()
    assert ended(call).heard_text == "One two. Three"
    check(call)


def test_a_chunk_that_is_said_again_counts_once() -> None:
    """By another event id, such as after a crash of its producer; else the next call would skip what nobody heard."""
    call = speaking("One two three. ", "Four five.")
    about = {"duration_ms": 500, "words": (SpokenWord(at_ms=0, text="One"),)}
    for index in (0, 1, 1, 0):
        call.input(TtsChunkReady, index=index, **about)
    playback = call.state.playback
    assert playback is not None
    assert (playback.audio_ms, playback.chunks, playback.next_chunk) == (1_000, 2, 2)
    call.input(HandlerDetached, handler_id="fastrtc_1", reason="gone")
    again = call.state.playback
    assert again is not None
    assert again.next_chunk == 0
    check(call)


def test_a_start_that_is_said_again_does_not_make_a_shown_answer_spoken() -> None:
    """It was shown; a call that follows changes that only with sound of its own."""
    call = Conversation.in_phase("THINKING").resolves().texts("One two. ", "Three.")
    call.input(PlaybackStarted)
    call.input(HandlerAttached, handler_id="fastrtc_1").input(PlaybackStarted)
    call.input(PlaybackStarted)
    call.says("stop", via="text")
    assert ended(call).heard_text == "One two. Three."
    check(call)


def test_an_answer_that_is_shown_and_complete_is_awaited() -> None:
    """Its end is still to come."""
    call = Conversation.in_phase("THINKING").resolves().texts("Hi. ").written().input(PlaybackStarted)
    assert call.state.timer("tts_deadline") is not None
    check(call.played())


def test_a_playback_that_ends_early_ends_the_answer() -> None:
    """No player says so before the last text; if one did, nothing would wait for the model any more."""
    call = speaking("Hi. ")
    chunk(call, 0)
    call.played()
    assert call.state.phase == "LISTENING"
    assert call.state.pending == {}
    check(call)


def test_a_filler_waits_for_no_text() -> None:
    """With the first text there is something to say: only the intent is still awaited."""
    policy = Policy.model_validate(
        {"filler": {"delay_ms": 0, "text": "One moment."}, "speculation": {"tries": 1}, "intent": {"skip": True}}
    )
    call = Conversation.listening(policy=policy).input(SpeechStarted)
    call.input(SttPartial, text="when are you open", is_complete=True).texts("At nine. ").says("when are you open")
    assert call.state.phase == "SPEAKING"
    assert not any(event.type == "COMMAND_ISSUED" and event.name == "PlayFiller" for event in call.log)
    check(call)


def test_the_words_of_each_text_stand_in_the_whole() -> None:
    call = speaking("One two. ", "Three four.")
    chunk(call, 0, 1_000, (SpokenWord(at_ms=0, text="One"), SpokenWord(at_ms=400, text="two.")))
    call.input(PlaybackStarted)
    chunk(call, 1, 1_000, (SpokenWord(at_ms=1_000, text="Three"), SpokenWord(at_ms=1_600, text="four.")))
    call.after(1_700).interrupts()
    assert ended(call).heard_text == "One two. Three"
    check(call)


def test_the_recording_of_an_answer_in_texts_can_be_read_back() -> None:
    """The number of a text stands in a chunk only where it is not the first."""
    call = speaking("One two. ", "Three four.")
    chunk(call, 0)
    chunk(call, 1)
    lines = [line for line in parse(call.recording(), "call").lines if b"TTS_CHUNK_READY" in line]
    assert [b"text_index" in line for line in lines] == [False, True]
