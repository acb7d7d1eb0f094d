"""Shows when speech over the agent takes the floor, and what is paused until that is decided."""

import pytest
from glance import arms, cancels, done, due_ms, refused, the, timers

from events.derived import AnswerEnded, TurnEnded, UserInterrupted
from events.inputs import (
    BargeIn,
    HandlerAttached,
    HandlerDetached,
    PlaybackDone,
    PlaybackProgress,
    PlaybackStarted,
    SpeechStarted,
    SpeechStopped,
    SpokenWord,
    SttFinal,
    SttPartial,
    TtsChunkReady,
    TtsComplete,
)
from orchestrator.session.commands import (
    CancelTask,
    ClearText,
    PausePlayback,
    ResumePlayback,
    SetMicrophone,
    StopPlayback,
)

BACKCHANNEL = "a backchannel: the user is listening"
TOO_FEW = "too few words to interrupt"
LAST_WORDS = "these are the last words of the conversation"
PAUSE, RESUME = PausePlayback(playback_id="answer-1"), ResumePlayback(playback_id="answer-1")


def talking(converse, voice: bool = True, **interruption):
    """SPEAKING for 700 ms of an answer of 5 s, at 2,000 ms of the session."""
    call = converse("SPEAKING", interruption=interruption, endpointing={"incomplete_ms": 250})
    if voice:
        call.input(HandlerAttached, handler_id="fastrtc_1")
    return call.speaks(chunks=10, chunk_ms=500).at(2_000)


def partial(call, text: str):
    return call.input(SttPartial, text=text)


def interrupted(call) -> bool:
    return call.state.phase == "INTERRUPT"


def farewell(converse, **policy):
    """SPEAKING of the last words of a conversation whose time is over."""
    call = converse("LISTENING", goodbye={"after_ms": 2_000}, **policy).input(HandlerAttached, handler_id="fastrtc_1")
    return call.fires("session_limit").speaks(chunks=10, chunk_ms=500).after(500)


# From the onset of speech on.


def test_speech_over_the_agent_pauses_it_until_it_is_decided(converse) -> None:
    """Long enough, it interrupts; however long it takes to decide, the agent is not silent for ever."""
    call = talking(converse).input(SpeechStarted)
    assert done(call) == [
        arms("barge_in", 2_500),
        cancels("playback_deadline"),
        PAUSE,
        arms("false_interruption", 7_000),
    ]
    assert (call.state.phase, call.state.playback.is_paused) == ("SPEAKING", True)


def test_without_a_voice_there_is_nothing_to_pause(converse) -> None:
    """The answer is shown as text; speech is still measured."""
    assert done(talking(converse, voice=False).input(SpeechStarted)) == [arms("barge_in", 2_500)]


def test_a_policy_may_leave_the_agent_talking(converse) -> None:
    """Until it is decided."""
    assert done(talking(converse, pause_playback=False).input(SpeechStarted)) == [arms("barge_in", 2_500)]


def test_speech_interrupts_at_once_where_nothing_more_is_asked_for(converse) -> None:
    """Neither duration nor words; then there is nothing to pause or to wait for."""
    call = talking(converse, min_speech_ms=0, pause_ms=70).input(SpeechStarted)
    assert done(call) == [
        StopPlayback(playback_id="answer-1"),
        CancelTask(),
        cancels("playback_deadline"),
        arms("interrupt_pause", 2_070),
    ]
    said = the(call, UserInterrupted)
    assert (said.playback_id, said.reason, said.text, said.via) == ("answer-1", "barge_in", "", "speech")


def test_speech_that_needs_words_alone_is_not_measured(converse) -> None:
    """It pauses, and the words decide."""
    call = talking(converse, min_speech_ms=0, min_words=1).input(SpeechStarted)
    assert done(call) == [cancels("playback_deadline"), PAUSE, arms("false_interruption", 7_000)]
    assert interrupted(partial(call, "stop"))


def test_another_onset_does_not_pause_twice(converse) -> None:
    """It is measured anew, but the agent is not silent for longer."""
    call = talking(converse).input(SpeechStarted).at(2_100).input(SpeechStopped).at(2_200).input(SpeechStarted)
    assert done(call) == [
        cancels("endpoint"),
        arms("barge_in", 2_700),
        cancels("false_interruption"),
        arms("false_interruption", 7_000),
    ]


@pytest.mark.parametrize(("stops_ms", "due"), [(4_999, 6_999), (5_000, 7_000), (5_001, 7_000), (6_999, 7_000)])
def test_a_pause_takes_no_longer_than_an_answer_waits_for_the_user(converse, stops_ms: int, due: int) -> None:
    """However often they begin and stop; what could still be decided is decided until then."""
    call = talking(converse, min_words=9).input(SpeechStarted).at(stops_ms).input(SpeechStopped)
    assert due_ms(call, "false_interruption") == due


def test_a_pause_that_has_taken_all_its_time_ends_now(converse) -> None:
    """The timer is late, and the user begins again."""
    call = talking(converse).input(SpeechStarted).at(7_100).input(SpeechStarted)
    assert due_ms(call, "false_interruption") == 7_100


def test_each_pause_has_its_own_time(converse) -> None:
    """The one before does not count."""
    call = talking(converse).input(SpeechStarted).at(2_100).says("uh huh").at(2_500).input(SpeechStarted)
    assert due_ms(call, "false_interruption") == 7_500


def test_speech_that_began_before_the_pause_is_paused_for_when_a_voice_comes(converse) -> None:
    """At its next onset; until then the answer is text."""
    call = talking(converse, voice=False).input(SpeechStarted).input(HandlerAttached, handler_id="fastrtc_1")
    assert not call.state.playback.is_paused
    assert PAUSE in done(call.input(SpeechStarted))


# Long enough.


def test_speech_that_lasts_long_enough_interrupts(converse) -> None:
    """Without a word understood; what was heard is what was played before the pause."""
    call = talking(converse).input(SpeechStarted).fires("barge_in")
    assert call.now_us == 2_500_000
    assert done(call) == [
        StopPlayback(playback_id="answer-1"),
        CancelTask(),
        cancels("false_interruption"),
        arms("interrupt_pause", 2_550),
    ]
    assert (the(call, UserInterrupted).reason, the(call, TurnEnded).outcome) == ("barge_in", "interrupted")
    assert (the(call, AnswerEnded).outcome, the(call, AnswerEnded).heard_ms) == ("interrupted", 700)


def test_speech_that_stops_before_does_not_interrupt_by_itself(converse) -> None:
    """The answer goes on after so much silence without words."""
    call = talking(converse).input(SpeechStarted).at(2_400).input(SpeechStopped)
    assert done(call) == [
        arms("endpoint", 2_650),
        cancels("barge_in"),
        cancels("false_interruption"),
        arms("false_interruption", 4_400),
    ]


def test_a_stop_without_a_pause_has_nothing_to_go_on_with(converse) -> None:
    """The agent was talking all the time."""
    call = talking(converse, pause_playback=False).input(SpeechStarted).at(2_400).input(SpeechStopped)
    assert done(call) == [arms("endpoint", 2_650), cancels("barge_in")]


@pytest.mark.parametrize(("at_us", "enough"), [(2_499_999, False), (2_500_000, True), (2_500_001, True)])
def test_words_interrupt_when_speech_has_lasted_long_enough(converse, at_us: int, enough: bool) -> None:
    """To the microsecond; before that they may still be a sound that was misheard."""
    call = talking(converse).input(SpeechStarted)
    call.now_us = at_us
    assert interrupted(partial(call, "stop it")) is enough


def test_words_that_were_understood_too_early_interrupt_when_speech_has_lasted(converse) -> None:
    """Nothing more has to be understood."""
    call = partial(talking(converse, min_words=2).input(SpeechStarted).at(2_300), "stop it")
    assert not interrupted(call)
    assert interrupted(call.fires("barge_in"))


def test_a_measure_of_none_asks_for_words_alone(converse) -> None:
    """At the very onset."""
    assert interrupted(partial(talking(converse, min_speech_ms=0, min_words=2).input(SpeechStarted), "stop it"))


# Words.


@pytest.mark.parametrize(
    ("text", "enough"), [("stop", False), ("stop it", True), ("stop, it!", True), ("... !", False)]
)
def test_speech_interrupts_when_enough_words_are_understood(converse, text: str, enough: bool) -> None:
    """However they are written; punctuation is no word."""
    call = talking(converse, min_words=2).input(SpeechStarted).fires("barge_in")
    assert not interrupted(call)
    assert interrupted(partial(call, text)) is enough


def test_more_words_than_enough_are_enough(converse) -> None:
    """Three of two."""
    assert interrupted(partial(talking(converse, min_words=2).input(SpeechStarted).at(2_600), "stop it now"))


def test_words_after_a_short_sound_interrupt(converse) -> None:
    """They are what the sound lacked, however short it was; but not final yet, so they are not said."""
    call = talking(converse).input(SpeechStarted).at(2_100).input(SpeechStopped).at(2_200)
    assert interrupted(partial(call, "stop"))
    assert (the(call, UserInterrupted).reason, the(call, UserInterrupted).text) == ("barge_in", "")
    assert call.state.held_text == ""


def test_a_sound_that_is_understood_as_nothing_does_not_interrupt(converse) -> None:
    """Punctuation alone, after a short sound."""
    call = talking(converse).input(SpeechStarted).at(2_100).input(SpeechStopped).at(2_900)
    assert not interrupted(partial(call, "..."))


def test_words_that_another_recogniser_understands_interrupt(converse) -> None:
    """One without a VAD of ours: no onset was heard."""
    assert interrupted(partial(talking(converse), "stop"))
    assert not interrupted(partial(talking(converse, min_words=2), "stop"))


@pytest.mark.parametrize("text", ["uh huh", "Yeah, okay.", "go", "i s"])
def test_a_backchannel_does_not_interrupt_however_long_it_takes(converse, text: str) -> None:
    """Nor does what may still become one."""
    call = partial(talking(converse).input(SpeechStarted).at(2_300), text).fires("barge_in")
    assert not interrupted(call)
    assert not interrupted(partial(call.at(2_900), text))
    assert interrupted(partial(call, f"{text} but stop"))


def test_the_policy_says_what_a_backchannel_is(converse) -> None:
    """None, or others."""
    assert interrupted(partial(talking(converse, backchannels=[]), "uh huh"))
    assert not interrupted(partial(talking(converse, backchannels="de"), "ach so"))
    assert interrupted(partial(talking(converse, backchannels="de"), "uh huh"))


@pytest.mark.parametrize(("at_ms", "reply"), [(5_300, False), (5_301, True), (6_200, True)])
@pytest.mark.parametrize("kind", [SttPartial, SttFinal])
def test_a_backchannel_at_the_end_of_an_answer_may_be_the_reply_to_it(converse, kind, at_ms: int, reply: bool) -> None:
    """When less than a second of it is left; a second is not less."""
    call = talking(converse).at(at_ms).input(kind, text="yes")
    assert interrupted(call) is reply


def test_the_end_of_an_answer_is_where_playback_says_it_is(converse) -> None:
    """What is left is measured from the confirmed position on, and in the length of the whole."""
    call = talking(converse).input(PlaybackProgress, position_ms=4_001)
    assert interrupted(call.says("yes"))
    call = talking(converse, boundary_ms=4_300)
    assert not interrupted(call.says("yes"))
    assert interrupted(talking(converse, boundary_ms=4_301).says("yes"))


@pytest.mark.parametrize("words", [(), ((0, "Hi!"), (300, "How"), (600, "can"), (800, "I"), (900, "help?"))])
@pytest.mark.parametrize("kind", [SttPartial, SttFinal])
@pytest.mark.parametrize(
    "text", ["Four.", "4815 1623 4210 8150 2734 9066", "我们每天早上八点开门", "Hi! How can I help?"]
)
def test_an_answer_whose_length_nobody_knows_is_in_its_middle(converse, text: str, kind, words) -> None:
    """However short its text is, and how much of it was played: synthesis may still go on. Then its end is known."""
    call = converse("THINKING").answers(text).input(HandlerAttached, handler_id="fastrtc_1")
    said = tuple(SpokenWord(at_ms=at_ms, text=word) for at_ms, word in words)
    call.input(TtsChunkReady, index=0, duration_ms=1_000, words=said).input(PlaybackStarted)
    assert not interrupted(call.after(990).input(kind, text="yes"))
    call.input(TtsComplete, chunks=1, duration_ms=1_000)
    assert interrupted(call.input(kind, text="yes"))


def test_an_answer_of_which_there_is_no_audio_yet_is_not_about_to_end(converse) -> None:
    """Its length is not guessed."""
    assert not interrupted(converse("SPEAKING", interruption={"boundary_ms": 86_400_000}).says("yes"))


@pytest.mark.parametrize(
    ("text", "enough"),
    [
        ("请等一下我要改预约时间", True),
        ("ちょっと待ってください", True),
        ("รอสักครู่", True),
        ("我们", False),
        ("ครับ", False),
        ("3+2", False),
    ],
)
@pytest.mark.parametrize("kind", [SttPartial, SttFinal])
def test_words_are_counted_where_no_blanks_stand_between_them(converse, kind, text: str, enough: bool) -> None:
    """A whole sentence takes the floor, a single word does not."""
    assert interrupted(talking(converse, min_words=2).input(kind, text=text)) is enough


@pytest.mark.parametrize(
    ("text", "listens"),
    [("嗯", True), ("嗯嗯。", True), ("好的，嗯", True), ("好的好的", True), ("好", True), ("不好", False)],
)
def test_backchannels_stand_in_a_row_without_blanks(converse, text: str, listens: bool) -> None:
    """The beginning of one is waited for."""
    call = talking(converse, backchannels=["嗯", "好的"]).input(SttPartial, text=text)
    assert interrupted(call) is not listens


# Finals.


def test_words_interrupt_and_wait_for_listening(converse) -> None:
    """They are part of what is said about the interruption."""
    call = talking(converse).input(SpeechStarted).at(2_300).says("stop")
    assert done(call) == [
        StopPlayback(playback_id="answer-1"),
        CancelTask(),
        cancels("barge_in"),
        cancels("false_interruption"),
        arms("interrupt_pause", 2_350),
    ]
    said = the(call, UserInterrupted)
    assert (said.reason, said.text, said.via) == ("user_input", "stop", "speech")
    assert (call.state.held_text, call.state.held_via) == ("stop", "speech")


def test_a_backchannel_lets_the_agent_go_on(converse) -> None:
    """It is recorded and rejected, and nothing is waited for any more."""
    call = talking(converse).input(SpeechStarted).at(2_300).input(SpeechStopped).fires("endpoint").at(2_900)
    call.input(SttPartial, text="uh huh", is_complete=True).says("Uh-huh.")
    assert refused(call) == BACKCHANNEL
    assert not call.state.partial_is_complete
    assert done(call) == [
        cancels("stt_deadline"),
        cancels("false_interruption"),
        RESUME,
        arms("playback_deadline", 2_900 + 4_300 + 3_000),
    ]
    assert (call.state.phase, call.state.partial_text, call.state.held_text) == ("SPEAKING", "", "")


def test_a_backchannel_is_measured_no_longer(converse) -> None:
    """Its final came before its end was heard."""
    call = talking(converse).input(SpeechStarted).at(2_300).says("uh huh")
    assert done(call) == [cancels("barge_in"), cancels("false_interruption"), RESUME, arms("playback_deadline", 9_600)]
    assert not call.state.user_is_speaking


@pytest.mark.parametrize(("text", "reason"), [("stop", TOO_FEW), ("stop it", ""), ("stop it now", ""), ("!", TOO_FEW)])
def test_a_final_interrupts_with_enough_words(converse, text: str, reason: str) -> None:
    """Too few are recorded and rejected, and the agent goes on."""
    call = talking(converse, min_words=2).input(SpeechStarted).at(2_300).says(text)
    assert refused(call) == reason
    assert interrupted(call) is not bool(reason)
    assert (RESUME in done(call)) is bool(reason)


@pytest.mark.parametrize("text", ["stop", "yes"])
def test_typed_words_always_interrupt(converse, text: str) -> None:
    """Nobody types to show that they are listening."""
    call = talking(converse, min_words=9).says(text, via="text")
    assert interrupted(call)
    assert (call.state.held_text, call.state.held_via, the(call, UserInterrupted).via) == (text, "text", "text")


def test_an_empty_final_lets_the_agent_go_on(converse) -> None:
    """Whether it was waited for or not: there were no words."""
    call = talking(converse).input(SpeechStarted).input(SpeechStopped).at(2_300).says(" ")
    assert refused(call) == "empty text"
    assert done(call) == [cancels("false_interruption"), RESUME, arms("playback_deadline", 9_600)]
    call.input(SpeechStarted).input(SpeechStopped).fires("endpoint").says("")
    assert refused(call) == ""
    assert done(call)[:3] == [cancels("stt_deadline"), cancels("false_interruption"), RESUME]


def test_no_words_are_not_too_few(converse) -> None:
    """They are none."""
    assert refused(talking(converse, min_words=2).says("")) == "empty text"


def test_an_empty_final_decides_nothing_about_somebody_who_still_speaks(converse) -> None:
    """It is about an earlier sound; the agent stays paused until this one is decided."""
    call = talking(converse).input(SpeechStarted).at(2_300).says(" ")
    assert (refused(call), done(call)) == ("empty text", [])
    assert call.state.playback.is_paused
    assert interrupted(call.fires("barge_in"))


def test_a_final_over_an_agent_that_talks_resumes_nothing(converse) -> None:
    """It was not paused."""
    assert done(talking(converse, voice=False).says("uh huh")) == []
    assert done(talking(converse, voice=False).says("")) == []


# The end of a pause.


def test_the_agent_goes_on_where_it_was_paused(converse) -> None:
    """After silence without words; what is left has its time from now on."""
    call = talking(converse).input(SpeechStarted).at(2_400).input(SpeechStopped).fires("endpoint")
    call.fires("false_interruption")
    assert call.now_us == 4_400_000
    assert done(call) == [RESUME, arms("playback_deadline", 4_400 + 4_300 + 3_000)]
    assert (call.state.phase, call.state.playback.is_paused) == ("SPEAKING", False)


def test_the_agent_goes_on_over_a_noise_that_never_stops(converse) -> None:
    """What may become an interruption is measured no more."""
    call = partial(talking(converse).input(SpeechStarted), "uh").fires("false_interruption")
    assert call.now_us == 7_000_000
    assert done(call)[:1] == [cancels("barge_in")]
    assert done(call)[1:] == [RESUME, arms("playback_deadline", 7_000 + 4_300 + 3_000)]


def test_a_pause_before_the_first_sound_keeps_its_deadline(converse) -> None:
    """Speech is still synthesised: its first chunk is awaited, and with it no end of what is paused."""
    call = converse("SPEAKING").input(HandlerAttached, handler_id="fastrtc_1").at(2_000).input(SpeechStarted)
    assert done(call) == [arms("barge_in", 2_500), PAUSE, arms("false_interruption", 7_000)]
    assert "tts_deadline" in timers(call)
    assert done(call.at(2_100).says("uh huh")) == [cancels("barge_in"), cancels("false_interruption"), RESUME]
    assert due_ms(call, "tts_deadline") == 4_300 + 2_000


def test_a_playback_that_is_paused_has_no_deadline(converse) -> None:
    """Whatever comes of its synthesis meanwhile."""
    call = converse("SPEAKING").input(HandlerAttached, handler_id="fastrtc_1").at(2_000).input(SpeechStarted)
    assert done(call.input(TtsChunkReady, index=0, duration_ms=5_000)) == [cancels("tts_deadline")]
    assert done(call.input(TtsComplete, chunks=1, duration_ms=5_000)) == []
    assert done(call.input(PlaybackProgress, position_ms=100)) == []
    call.at(2_100).says("uh huh")
    assert done(call)[2:] == [RESUME, arms("playback_deadline", 2_100 + 4_900 + 3_000)]


def test_a_playback_that_ends_while_it_is_paused_has_ended(converse) -> None:
    """Its last frame left just before; nothing of the pause is left."""
    call = talking(converse).input(SpeechStarted).input(PlaybackDone, confirmed_by="client")
    assert done(call) == [cancels("barge_in"), cancels("false_interruption"), SetMicrophone("open"), ClearText()]
    assert call.state.phase == "LISTENING"


def test_a_voice_that_goes_while_the_agent_is_paused_is_not_paused_for_ever(converse) -> None:
    """What the agent was paused for went to the lost microphone: the rest is spoken over the call that follows."""
    call = talking(converse).input(SpeechStarted).input(HandlerDetached, handler_id="fastrtc_1")
    assert RESUME in done(call)
    assert timers(call) == {"tts_deadline"}
    assert not call.state.playback.is_paused


# Barge-ins.


@pytest.mark.parametrize("playback_id", ["", "answer-1"])
def test_a_barge_in_interrupts_at_once(converse, playback_id: str) -> None:
    """Whatever the policy asks of speech: the client knows what it does."""
    call = talking(converse, min_words=9).input(BargeIn, playback_id=playback_id)
    assert interrupted(call)
    assert the(call, UserInterrupted).reason == "barge_in"


def test_a_barge_in_while_it_is_decided_decides_it(converse) -> None:
    """All that was waited for is withdrawn."""
    call = talking(converse).input(SpeechStarted).at(2_100).interrupts()
    assert done(call) == [
        StopPlayback(playback_id="answer-1"),
        CancelTask(),
        cancels("barge_in"),
        cancels("false_interruption"),
        arms("interrupt_pause", 2_150),
    ]


# Last words.


def test_the_last_words_cannot_be_interrupted(converse) -> None:
    """The session ends with them whatever is said: by voice, by words, typed or not, or by the client."""
    call = farewell(converse, interruption={"min_speech_ms": 0})
    assert done(call.input(SpeechStarted)) == []
    assert done(partial(call, "wait a moment")) == [arms("endpoint", call.now_us // 1000 + 5_000)]
    for via in ("speech", "text"):
        assert refused(call.says("wait a moment", via=via)) == LAST_WORDS
        assert done(call) == []
    assert refused(call.interrupts()) == LAST_WORDS
    assert refused(call.input(BargeIn, playback_id=call.state.playback.playback_id, position_ms=1)) == LAST_WORDS
    assert refused(call.input(BargeIn, playback_id="answer-1")) == "stale: names a playback that is not playing"
    assert call.state.phase == "SPEAKING"
    assert call.played().state.phase == "ENDED"


def test_a_backchannel_over_the_last_words_is_rejected_for_what_they_are(converse) -> None:
    """The more important reason; an empty final is empty."""
    assert refused(farewell(converse).says("yes")) == LAST_WORDS
    assert refused(farewell(converse).says("")) == "empty text"


def test_the_answer_to_a_goodbye_can_be_interrupted(converse) -> None:
    """The user has thought of something else, and the conversation goes on."""
    call = converse("THINKING", goodbye={"intent": "bye"}).answers("Goodbye!", intent="bye").says("oh, wait a moment")
    assert interrupted(call)
    assert call.fires("interrupt_pause").state.phase == "THINKING"


def test_the_farewell_to_somebody_who_seemed_away_can_be_interrupted(converse) -> None:
    """They are there after all."""
    call = converse("LISTENING", away={"prompts": 0, "text": "Are you there?"})
    call.input(HandlerAttached, handler_id="fastrtc_1").input(SpeechStarted).input(SpeechStopped)
    call.fires("endpoint").says("").fires("away")
    assert call.state.playback.ends == "user_away"
    call.speaks(chunks=10, chunk_ms=500).after(500).input(SpeechStarted).fires("barge_in")
    assert interrupted(call)
    assert [command for command in done(call) if isinstance(command, CancelTask)] == []
