"""Shows what counts as heard of an answer: to the millisecond of audio, and to the word."""

from itertools import pairwise

import pytest
from glance import done, due_ms, the

from events.derived import AnswerEnded
from events.inputs import (
    BargeIn,
    HandlerAttached,
    PlaybackProgress,
    PlaybackStarted,
    SessionOpened,
    SpeechStarted,
    SpokenWord,
    TtsChunkReady,
    TtsComplete,
)
from orchestrator.session.commands import Speak
from orchestrator.session.heard import guessed_ms, heard_ms, heard_text, left_ms, length_ms, roughly_ms
from orchestrator.session.policy import Policy
from orchestrator.session.state import Playback
from orchestrator.testing.conversation import Conversation

TIMED = Playback("answer-1", "one two three", audio_ms=1_500, words=((0, "one"), (400, "two"), (900, "three")))
EVEN = Playback("answer-1", "one two three four", audio_ms=2_000, total_ms=2_000)


def heard_of(call) -> tuple[int, str]:
    ended = the(call, AnswerEnded)
    return ended.heard_ms, ended.heard_text


def speaking(converse, **policy):
    """SPEAKING of an answer of 19 characters, with a voice, before its first chunk."""
    return converse("SPEAKING", **policy).input(HandlerAttached, handler_id="fastrtc_1")


def chunk(call, index: int = 0, duration_ms: int = 1_000, words: tuple = ()):
    said = tuple(SpokenWord(at_ms=at_ms, text=text) for at_ms, text in words)
    return call.input(TtsChunkReady, index=index, duration_ms=duration_ms, words=said)


def in_texts(*texts: str, begins_ms: tuple[int, ...], audio_ms: int, total_ms: int | None = None) -> Playback:
    ends_at = tuple(len("".join(texts[: number + 1])) for number in range(len(texts)))
    return Playback(
        "answer-1", "".join(texts), audio_ms=audio_ms, total_ms=total_ms, ends_at=ends_at, begins_ms=begins_ms
    )


def test_the_words_of_a_text_share_its_own_time() -> None:
    """And not that of the texts after it; the last word of a text that is not complete does not count."""
    two = in_texts("One two. ", "Three.", begins_ms=(0, 1_000), audio_ms=3_000)
    assert heard_text(two, 500) == "One"
    one = in_texts("One two three", begins_ms=(0,), audio_ms=1_000)
    assert heard_text(one, 1_000) == "One two"
    assert heard_text(in_texts("One two three", begins_ms=(0,), audio_ms=1_000, total_ms=1_000), 1_000) == (
        "One two three"
    )
    assert heard_text(in_texts("请等一下", begins_ms=(0,), audio_ms=800, total_ms=800), 300) == "请"


@pytest.mark.parametrize(
    ("text", "words", "heard"),
    [
        ("No, no no.", ("No", "no", "no"), "No no no"),
        ("five six", ("well", "five", "six"), "well five six"),
        ("请等一下", ("好", "嗯"), "好嗯"),
        ("ok 请", ("ok好", "嗯"), "ok好嗯"),
        ("ok", ("well", "嗯"), "well 嗯"),
    ],
)
def test_words_are_joined_as_their_text_writes_them(text: str, words: tuple[str, ...], heard: str) -> None:
    """Those that the text does not have, with a blank where their script has blanks."""
    timed = tuple((100 * number, word) for number, word in enumerate(words))
    assert heard_text(Playback("answer-1", text, audio_ms=1_000, words=timed), 1_000) == heard


def test_a_playback_that_stands_still_is_heard_up_to_its_position() -> None:
    """Before it starts, while it is paused, and where somebody said exactly how far it came."""
    assert heard_ms(Playback("answer-1", "x", audio_ms=500), now_us=9_000_000) == 0
    assert heard_ms(Playback("answer-1", "x", audio_ms=500, position_ms=700), now_us=9_000_000) == 700


@pytest.mark.parametrize(("after_us", "heard"), [(0, 100), (999, 100), (1_000, 101), (399_999, 499), (400_000, 500)])
def test_a_playback_that_moves_is_heard_as_time_goes_by(after_us: int, heard: int) -> None:
    """In whole milliseconds, and never beyond the audio that there is."""
    playback = Playback("answer-1", "x", audio_ms=500, position_ms=100, position_at_us=2_000_000)
    assert heard_ms(playback, 2_000_000 + after_us) == heard
    assert heard_ms(playback, 9_000_000) == 500


def test_the_length_is_estimated_until_it_is_known() -> None:
    """Never less than the audio that there is."""
    for audio_ms, total_ms, length in ((0, None, 700), (701, None, 701), (300, 400, 400), (500, 400, 500)):
        playback = Playback("answer-1", "x" * 10, audio_ms=audio_ms, total_ms=total_ms)
        assert length_ms(playback, guessed_ms) == length


def test_a_chinese_answer_has_time_to_be_spoken() -> None:
    """A character takes as long as three Latin ones. Sessions of an earlier schema keep their guess."""
    assert (guessed_ms("请等一下"), roughly_ms("请等一下")) == (800, 280)
    for schema, guess in ((7, guessed_ms), (6, roughly_ms)):
        call = Conversation().input(SessionOpened, policy=Policy().recorded(), state_schema=schema).connects()
        call.says("hello").answers("请" * 100).at(5_000).input(TtsChunkReady, index=0, duration_ms=20)
        assert due_ms(call, "playback_deadline") == 5_000 + guess("请" * 100) + 3_000


def test_an_emoji_beside_chinese_takes_one_place() -> None:
    """Also in texts. Sessions of an earlier schema keep the words that they recorded."""
    for schema, heard in ((7, "好👍"), (6, "好")):
        call = Conversation().input(SessionOpened, policy=Policy().recorded(), state_schema=schema).connects()
        call.input(HandlerAttached, handler_id="fastrtc_1").says("hello").answers("好👍好吗")
        call.input(TtsChunkReady, index=0, duration_ms=900).input(TtsComplete, chunks=1, duration_ms=900)
        call.at(2_000).input(PlaybackStarted).at(2_400).input(BargeIn, playback_id="answer-1", position_ms=400)
        assert heard_of(call) == (400, heard)
    one = in_texts("好👍好吗", begins_ms=(0,), audio_ms=900, total_ms=900)
    assert [heard_text(one, 400, in_utf16=old) for old in (False, True)] == ["好👍", "好"]


def test_the_speech_of_wide_text_takes_longer() -> None:
    """A character of Chinese, Japanese or Korean is a syllable: the share that was heard, until the length is known."""
    assert guessed_ms("我们开门。") == 1_000
    assert guessed_ms("안녕 ok") == 2 * 200 + 3 * 70
    assert guessed_ms("เปิด é") == 6 * 70
    assert guessed_ms("") == 0
    assert heard_text(Playback("answer-1", "我们开门关门", audio_ms=500), 450) == "我们"


def test_what_is_left_is_known_when_synthesis_is_complete() -> None:
    """And is never guessed."""
    assert left_ms(Playback("answer-1", "one", audio_ms=900, position_ms=400), 0) is None
    assert left_ms(Playback("answer-1", "one", audio_ms=900, total_ms=900, position_ms=400), 0) == 500
    assert left_ms(Playback("answer-1", "one", audio_ms=900, total_ms=0, position_ms=900), 0) == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "我们每天早上八点开门，晚上十点关门",
            ["", "我们每天", "我们每天早上八点", "我们每天早上八点开门，晚上", "我们每天早上八点开门，晚上十点关门"],
        ),
        ("毎日朝八時から営業", ["", "毎日", "毎日朝", "毎日朝八時", "毎日朝八時から営業"]),
        ("เราเปิดทุกวัน", ["", "เรา", "เราเปิด", "เราเปิดทุก", "เราเปิดทุกวัน"]),
        ("iPhoneを 買う", ["", "", "iPhone", "iPhoneを", "iPhoneを 買う"]),
        ("we open  at 8", ["", "we", "we open", "we open at", "we open at 8"]),
        ("👍🏽 OK", ["", "", "👍🏽", "👍🏽", "👍🏽 OK"]),
    ],
)
def test_without_timings_the_part_that_was_heard_is_told_in_every_script(text: str, parts: list[str]) -> None:
    """Word by word, with or without blanks; a quarter of the audio each."""
    playback = Playback("answer-1", text, audio_ms=4_000, total_ms=4_000)
    heard = [heard_text(playback, position_ms) for position_ms in (100, 1_000, 2_000, 3_000, 4_000)]
    assert heard == parts
    assert all(later.startswith(earlier) for earlier, later in pairwise(heard))


def test_the_last_word_is_not_heard_before_it_is_synthesised() -> None:
    """A voice that is slower than guessed has played all there is, and speaks on."""
    playback = Playback("answer-1", "one two three", audio_ms=9_000)
    assert heard_text(playback, 9_000) == "one two"
    assert heard_text(Playback("answer-1", "one", audio_ms=9_000), 9_000) == ""
    assert heard_text(Playback("answer-1", "one two three", audio_ms=9_000, total_ms=9_000), 9_000) == "one two three"


@pytest.mark.parametrize(
    ("text", "words", "heard"),
    [
        ("我们八点开门，周日休息", "我 们 八 点 开 门 周 日", "我们八点开门，周日"),
        ("我们八点开门，周日休息", "我们 八点 开门， 周日", "我们八点开门，周日"),
        ("开到24点", "开到 二十四 点", "开到二十四点"),
        ("เราเปิดทุกวัน", "เรา เปิด", "เราเปิด"),
        ("a well-known place", "a well known", "a well-known"),
        ("at 24 Main St. we", "at twenty four Main", "at twenty four Main"),
        ("Yes, and no", "Yes and", "Yes and"),
        ("one  two", "one two", "one two"),
        ("“Hi” he said", "Hi he", "Hi he"),
    ],
)
def test_words_with_times_are_joined_as_they_stand_in_the_answer(text: str, words: str, heard: str) -> None:
    """Without blanks where it has none; what a synthesiser writes differently is told as it says."""
    timed = tuple((at_ms, word) for at_ms, word in enumerate([*words.split(), "end"]))
    assert heard_text(Playback("answer-1", text, audio_ms=900, words=timed), len(timed) - 1) == heard


@pytest.mark.parametrize(
    ("position_ms", "text"),
    [(0, ""), (399, ""), (400, "one"), (899, "one"), (900, "one two"), (1_499, "one two"), (1_500, "one two three")],
)
def test_a_word_was_heard_when_the_next_one_begins(position_ms: int, text: str) -> None:
    """Where the synthesiser says when each begins; the last one ends with the audio."""
    assert heard_text(TIMED, position_ms) == text


@pytest.mark.parametrize(
    ("position_ms", "text"),
    [
        *[(-1, ""), (0, ""), (1, ""), (499, ""), (500, "one"), (999, "one"), (1_000, "one two")],
        *[(1_999, "one two three"), (2_000, "one two three four"), (3_000, "one two three four")],
    ],
)
def test_without_timings_each_word_takes_an_even_share(position_ms: int, text: str) -> None:
    """A word that was cut off was not heard."""
    assert heard_text(EVEN, position_ms) == text


def test_a_word_that_begins_where_the_audio_ends_was_not_heard() -> None:
    """Its own audio is not there yet."""
    playback = Playback("answer-1", "one two", audio_ms=400, words=((0, "one"), (400, "two")))
    assert heard_text(playback, 400) == "one"


def test_what_is_cut_ends_with_a_word() -> None:
    """An event holds 8,000 characters, of which the last may be a space."""
    words = ((0, "w" * 7_999), (10, "more"))
    assert heard_text(Playback("answer-1", "", audio_ms=20, words=words), 20) == "w" * 7_999


def test_the_first_millisecond_is_heard() -> None:
    """Where it is all that a word takes."""
    assert heard_text(Playback("answer-1", "one two", audio_ms=2, total_ms=2), 1) == "one"


def test_of_nothing_nothing_was_heard() -> None:
    """An answer without words has no length to share."""
    assert heard_text(Playback("answer-1", ""), 100) == ""
    assert heard_text(Playback("answer-1", "", audio_ms=100), 100) == ""
    assert heard_text(Playback("answer-1", "one", total_ms=0), 100) == ""


def test_the_words_of_all_chunks_are_heard_to_the_word(converse) -> None:
    """The timings stand in the chunks."""
    call = chunk(speaking(converse), words=((0, "Hi!"), (500, "How")))
    chunk(call, index=1, words=((1_000, "can"), (1_800, "I")))
    call.at(2_000).input(PlaybackStarted).at(3_800).interrupts()
    assert heard_of(call) == (1_800, "Hi! How can")


def test_words_that_are_made_anew_are_not_said_twice(converse) -> None:
    """Speech that goes on after a change of owner repeats some; the last one known is where the new ones begin."""
    call = chunk(speaking(converse), words=((0, "Hi!"), (500, "How")))
    chunk(call, index=1, words=((0, "Hi!"), (500, "How"), (501, "can")))
    assert call.state.playback.words == ((0, "Hi!"), (500, "How"), (501, "can"))


def test_words_that_were_made_and_not_played_before_a_change_of_owner_were_not_heard(converse) -> None:
    """The audio up to the last position is all there is until speech is made anew; no word beyond it ended there."""
    call = chunk(speaking(converse), words=((0, "Hi!"), (500, "How")))
    chunk(call, index=1, words=((1_000, "can"), (1_800, "I"))).at(2_000).input(PlaybackStarted)
    call.at(3_200).input(PlaybackProgress, position_ms=1_200).resumes("incarnation-2")
    assert heard_of(call.interrupts()) == (1_200, "Hi! How")


def test_the_client_knows_best_how_far_the_answer_came(converse) -> None:
    """A BARGE_IN that names the playback and a position."""
    call = chunk(speaking(converse), duration_ms=5_000).at(2_000).input(PlaybackStarted).at(4_000)
    call.input(BargeIn, playback_id="answer-1", position_ms=1_999)
    assert heard_of(call) == (1_999, "Hi!")


@pytest.mark.parametrize(("said", "heard"), [(0, 600), (1, 1), (599, 599), (600, 600), (601, 600), (1_001, 600)])
def test_what_was_not_sent_yet_was_not_heard(converse, said: int, heard: int) -> None:
    """What the client says counts up to the estimate; one that does not know says 0, and the estimate counts."""
    call = chunk(speaking(converse)).at(2_000).input(PlaybackStarted).at(2_600)
    assert heard_of(call.input(BargeIn, playback_id="answer-1", position_ms=said))[0] == heard


def test_a_position_in_an_unnamed_playback_says_nothing(converse) -> None:
    """It may be that of another one."""
    call = chunk(speaking(converse)).at(2_000).input(PlaybackStarted).at(2_600)
    assert heard_of(call.input(BargeIn, position_ms=900))[0] == 600


def test_a_position_in_another_playback_is_rejected_with_it(converse) -> None:
    """And leaves the estimate alone."""
    call = chunk(speaking(converse)).at(2_000).input(PlaybackStarted).at(2_600)
    call.input(BargeIn, playback_id="answer-0", position_ms=900)
    assert heard_of(call.interrupts())[0] == 600


def test_a_position_in_the_last_words_is_rejected_with_its_barge_in(converse) -> None:
    """They go on, and so does their estimate."""
    call = chunk(farewell(converse)).at(5_000).input(PlaybackStarted).at(5_600)
    call.input(BargeIn, playback_id=call.state.playback.playback_id, position_ms=100)
    assert (call.state.playback.position_ms, call.state.playback.position_at_us) == (0, 5_000_000)


def farewell(converse):
    """SPEAKING of the last words of a conversation whose time is over."""
    call = converse("LISTENING", goodbye={"after_ms": 2_000}).fires("session_limit")
    assert call.state.playback.ends == "time_limit"
    return call


def test_time_that_a_playback_is_paused_is_not_heard(converse) -> None:
    """It stands where it was when the user began to speak, and goes on from there."""
    call = chunk(speaking(converse), duration_ms=5_000).at(2_000).input(PlaybackStarted)
    call.at(2_700).input(SpeechStarted).at(3_100)
    assert (call.state.playback.position_ms, call.state.playback.position_at_us) == (700, 0)
    call.fires("false_interruption")
    resumed_ms = call.now_us // 1000
    assert resumed_ms == 7_700
    assert (call.state.playback.position_ms, call.state.playback.position_at_us) == (700, 7_700_000)
    assert heard_of(call.after(300).interrupts()) == (1_000, "Hi!")


def test_an_answer_that_is_interrupted_while_it_is_paused_was_heard_up_to_the_pause(converse) -> None:
    """However long it took to decide."""
    call = chunk(speaking(converse), duration_ms=5_000).at(2_000).input(PlaybackStarted)
    call.at(2_700).input(SpeechStarted).fires("barge_in")
    assert heard_of(call)[0] == 700


def test_a_start_that_is_reported_during_the_pause_moves_nothing_yet(converse) -> None:
    """The first frame left just before; what is paused stands still, and starts when it goes on."""
    call = chunk(speaking(converse), duration_ms=5_000).at(2_000).input(SpeechStarted).input(PlaybackStarted)
    assert (call.state.playback.position_ms, call.state.playback.position_at_us) == (0, 0)
    call.fires("false_interruption")
    assert (call.state.playback.position_ms, call.state.playback.position_at_us) == (0, 7_000_000)


def test_a_playback_that_was_paused_before_its_first_chunk_starts_when_it_says_so(converse) -> None:
    """There was nothing to go on with."""
    call = speaking(converse).at(2_000).input(SpeechStarted).at(2_100).says("uh huh")
    assert call.state.playback.position_at_us == 0
    chunk(call.at(2_500), duration_ms=5_000).input(PlaybackStarted)
    assert call.state.playback.position_at_us == 2_500_000


def test_a_playback_of_which_the_start_was_not_reported_starts_with_its_first_progress(converse) -> None:
    """Be it that it is at its beginning."""
    call = chunk(speaking(converse), duration_ms=5_000).at(2_000).input(PlaybackProgress, position_ms=0)
    assert (call.state.playback.position_ms, call.state.playback.position_at_us) == (0, 2_000_000)


def test_progress_that_is_reported_during_the_pause_is_the_truth(converse) -> None:
    """It corrects the estimate upwards, and what is paused still stands."""
    call = chunk(speaking(converse), duration_ms=5_000).at(2_000).input(PlaybackStarted).at(2_700).input(SpeechStarted)
    call.at(2_800).input(PlaybackProgress, position_ms=699)
    assert call.state.playback.position_ms == 700
    call.input(PlaybackProgress, position_ms=750)
    assert (call.state.playback.position_ms, call.state.playback.position_at_us) == (750, 0)
    assert heard_of(call.at(3_000).interrupts())[0] == 750


def test_the_same_position_again_is_no_news(converse) -> None:
    """A report that comes twice must not stop the clock: the player says nothing where it stands still."""
    call = chunk(speaking(converse), duration_ms=5_000).at(2_000).input(PlaybackStarted)
    call.at(3_000).input(PlaybackProgress, position_ms=500).at(4_000).input(PlaybackProgress, position_ms=500)
    assert heard_of(call.at(4_100).interrupts())[0] == 1_600


def test_an_answer_goes_on_after_a_change_of_owner_as_if_it_had_not_been_paused(converse) -> None:
    """Its speech is made anew from where it was paused."""
    call = chunk(speaking(converse), duration_ms=5_000).at(2_000).input(PlaybackStarted)
    call.at(2_700).input(SpeechStarted).at(2_900).resumes("incarnation-2")
    assert [c for c in done(call) if isinstance(c, Speak)] == [
        Speak(ends="", from_ms=700, playback_id="answer-1", text="Hi! How can I help?")
    ]
    playback = call.state.playback
    assert (playback.is_paused, playback.audio_ms, playback.position_at_us) == (False, 700, 0)
    assert due_ms(call.at(3_500).connects("browser-1"), "tts_deadline") == 3_500 + 5_000


def test_the_length_of_another_playback_says_nothing_about_this_one(converse) -> None:
    """A filler that is still being made ready when the answer is spoken is stale, and so is its length."""
    call = converse("THINKING", filler={"delay_ms": 0, "text": "One moment."})
    filler = call.outstanding("PlayFiller").command_id
    call.answers("Hi!").input(TtsComplete, command_id=filler, playback_id="filler-1", chunks=1, duration_ms=9_000)
    assert call.state.playback.total_ms is None
