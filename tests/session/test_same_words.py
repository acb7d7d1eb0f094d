"""Shows which texts are the same words, in many scripts: an answer is never given to another question."""

import sys
from unicodedata import category, normalize

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from events.derived import ProcessingComplete, TurnStarted
from events.inputs import SttPartial
from orchestrator.session.phrases import are_alike, begins_with, count_words, normal
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation

SPOKEN: tuple[tuple[str, ...], ...] = (
    # One line for each thing that is said, with all ways to write it.
    *[("hello", "Hello", "HELLO!", "hello…"), ("don't", "Don’t", "don´t", "DON'T."), ("dont",), ("uh-huh", "uh huh")],
    *[("3+2", "３＋２"), ("3-2", "3−2", "3‐2"), ("3*2", "3＊2"), ("3/2",), ("3·2",), ("3×2",), ("3÷2",), ("3=2",)],
    *[
        ("32",),
        ("3 2", "3, 2", "3. 2"),
        ("3.2",),
        ("3,2",),
        ("3:2",),
        ("3--2",),
        ("2",),
        ("-2", "−2"),
        (".2",),
        ("+2",),
    ],
    *[("2²",), ("22",), ("2₂",), ("½",), ("1½",), ("1⁄2",), ("11⁄2",), ("50%", "50％"), ("50",), ("50‰",), ("$50",)],
    *[("€50",), ("50°",), ("5'",), ('5"',), ("5",), ("2*(3+4)",), ("2*3+4",), ("2*(x+y)",), ("2*x+y",), ("x-y",)],
    *[
        ("x+y",),
        ("x y",),
        ("C",),
        ("c#", "C#", "Ｃ＃"),
        ("C++",),
        ("C+",),
        ("C-",),
        ("R&D",),
        ("R D",),
        ("a@b",),
        ("a b",),
    ],
    *[("#1",), ("1",), ("👍", "👍\ufe0f"), ("👎",), ("👍🏽",), ("❤", "❤️"), ("🇩🇪",), ("🇫🇷",), ("👨‍💻",), ("👨💻",)],
    *[("पचास",), ("पचीस",), ("पच्चीस",), ("५०",), ("२५",), ("की",), ("का",), ("के",), ("क",)],  # Hindi
    *[("เสือ",), ("เสื้อ",), ("เสื่อ",), ("น้ำ", "น\u0e49\u0e4d\u0e32"), ("นำ",), ("ตา กลม",), ("ตากลม",)],  # Thai
    *[("ma",), ("má", "ma\u0301"), ("mà", "ma\u0300"), ("mạ",), ("mã",), ("mả",)],  # Vietnamese
    *[
        ("año", "AÑO", "an\u0303o"),
        ("ano",),
        ("Straße", "STRASSE", "strasse"),
        ("όδος", "ΌΔΟΣ"),
        ("peut-être", "peut être"),
    ],
    *[("كَتَبَ",), ("كُتُب",), ("كتب",), ("٥٠",), ("٢٥",), ("٣٫٥",), ("٣٥",), ("شكرا؟", "شكرا")],  # Arabic
    *[("שלום", "שלום!"), ("שָׁלוֹם",), ("한국", normalize("NFD", "한국")), ("한극",)],  # Hebrew, Korean
    *[
        ("请等一下", "请等一下。"),
        ("请等一等",),
        ("买",),
        ("卖",),
        ("3点", "３点"),
        ("はい", "はい。"),
        ("ばい",),
        ("ぱい",),
    ],
    *[("カギ", "ｶｷﾞ"), ("カキ", "ｶｷ"), ("ㅋㅋ",), ("မြန်မာ",), ("မန်မာ",), ("ខ្មែរ",), ("ខមែរ",), ("தமிழ்",), ("தமிழ",)],
)
SAID = st.lists(st.integers(0, len(SPOKEN) - 1), min_size=1, max_size=3)
NAMES = [writings[0] for writings in SPOKEN]


def written(draw, said: list[int]) -> str:
    """In some way, with blanks and punctuation around."""
    words = [draw(st.sampled_from(SPOKEN[number])) for number in said]
    return draw(st.sampled_from(["", " ", "\u200b"])) + draw(st.sampled_from([" ", "  ", "\n"])).join(words)


def letters(text: str) -> list[str]:
    """Another reading of what is spoken, with less rules: letters, marks, numbers and symbols."""
    folded = normalize("NFKD", normalize("NFKD", text).casefold())
    return [char for char in folded if category(char)[0] in "LMNS"]


@pytest.mark.parametrize("writings", SPOKEN, ids=NAMES)
def test_one_thing_that_is_said_is_the_same_however_it_is_written(writings: tuple[str, ...]) -> None:
    """Case, width, composition, apostrophes, dashes, layout, and punctuation that nobody says."""
    assert {normal(text) for text in writings} == {normal(writings[0])}


@pytest.mark.parametrize("number", range(len(SPOKEN)), ids=NAMES)
def test_two_things_that_are_said_are_never_the_same(number: int) -> None:
    """Signs that are said, combining marks, digits, symbols, emoji."""
    others = {text for other in (*SPOKEN[:number], *SPOKEN[number + 1 :]) for text in other}
    assert [text for text in others if any(are_alike(text, one) for one in SPOKEN[number])] == []


@given(st.data(), SAID, SAID)
@settings(max_examples=300, deadline=None)
def test_texts_of_several_words_are_the_same_when_the_words_are(data, one: list[int], other: list[int]) -> None:
    """In any mixture of scripts."""
    assert are_alike(written(data.draw, one), written(data.draw, one))
    assert are_alike(written(data.draw, one), written(data.draw, other)) == (one == other)


def _answered_early(asked: str, said: str) -> tuple[Conversation, str]:
    """What is answered to the final of these words, where the answer to others is there already."""
    policy = Policy.model_validate({"speculation": {"tries": 1}, "intent": {"skip": True}})
    call = Conversation.listening(policy=policy).input(SttPartial, text=asked, is_complete=True)
    call.answers(f"about {asked!r}").says(said)
    answers = [event.answer for event in call.log if isinstance(event, ProcessingComplete)]
    return call, "".join(answers)


@given(st.data(), SAID, SAID)
@settings(max_examples=300, deadline=None)
def test_an_answer_is_never_given_to_another_question(data, one: list[int], other: list[int]) -> None:
    """The answer to an early question is spoken to the same words alone."""
    for said in (one, other):
        asked = written(data.draw, one)
        call, answer = _answered_early(asked, written(data.draw, said))
        assert answer == (f"about {asked!r}" if said == one else "")
        call.check()


ANY_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="´`ʼ−~〜〰\ufe0e\ufe0f"), max_size=12
)


SIGNS = st.text("aAbB12.,:;-()[]{}!?_ +#%&*@/²½ e\u0301क\u0940เ我。、👍\u200d٣٫", max_size=8)
TEXT = ANY_TEXT | SIGNS


@given(TEXT, TEXT)
@example("-5", "5").via("discovered failure")
@example("a(b", "a b").via("discovered failure")
@settings(max_examples=500, deadline=None)
def test_what_is_the_same_has_the_same_letters(one: str, other: str) -> None:
    """Of any text in any script, by another reading."""
    for text in (other, f"{one} {other}", normal(one), one.upper(), f"{one}.", f"{one}-{other}", other + one):
        if are_alike(one, text) and one != text:
            assert letters(one) == letters(text)


@given(TEXT | st.text("aB1 .-'\"’“_()\ufe0f\u0301´ʼ", max_size=8))
@settings(max_examples=500, deadline=None)
def test_a_normal_text_is_normal(text: str) -> None:
    """Once is enough."""
    assert normal(normal(text)) == normal(text)


def test_every_character_that_can_be_said_stays() -> None:
    """Between others, whatever Unicode has: letters, marks, digits and symbols of all scripts."""
    lost = [
        f"U+{code:04X}"
        for code in range(sys.maxunicode + 1)
        if category(char := chr(code))[0] in "LMNS" and code not in (0xFE0E, 0xFE0F) and are_alike(f"x{char}x", "xx")
    ]
    assert lost == []
    assert all(
        normal(normal(f"x{chr(code)}x")) == normal(f"x{chr(code)}x")
        for code in range(0x30000)
        if not 0xD800 <= code < 0xE000
    )


@pytest.mark.parametrize("text", ["", " ", "...", "?!", "-", "--", "( )", "«»", "。", "_", "\u200b", "'", '"'])
def test_what_nobody_says_is_no_words(text: str) -> None:
    """It is the same as itself alone."""
    assert normal(text) == ""
    assert count_words(text) == 0
    assert are_alike(text, text)
    assert not are_alike(text, "?")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *[("wait", 1), ("wait, wait", 2), ("don’t", 1), ("d'accord", 1), ("uh-huh", 2), ("24/7", 1), ("C++", 1)],
        *[("嗯", 1), ("好的", 1), ("请等一下", 3), ("请等一下，我要改预约时间。", 7), ("iPhoneを買う", 3)],
        *[("はい", 1), ("ちょっと待ってください", 5), ("カタカナ", 1), ("以上です", 2)],
        *[("ครับ", 1), ("ค่ะ", 1), ("รอสักครู่", 3), ("ສະບາຍດີ", 1), ("សួស្តីបង", 2), ("မင်္ဂလာပါ", 2)],
        *[("안녕하세요 여러분", 2), ("बस एक मिनट", 3), ("שלום לך", 2), ("3+2 👍", 2)],
    ],
)
def test_words_are_counted_in_every_script(text: str, words: int) -> None:
    """Where no blanks stand between words, by the dictionaries of ICU."""
    assert count_words(text) == words


@pytest.mark.parametrize(
    ("text", "beginning", "begins"),
    [
        *[("hello there", "Hello!", True), ("hello", "hello", True), ("hellos", "hello", False), ("hello", "", False)],
        *[
            ("我要订位", "我要", True),
            ("不过明天呢", "不", False),
            ("ต้องการเปลี่ยนเวลา", "ต้องการ", True),
            ("C++", "C", False),
        ],
        *[("はい、そうです", "はい", True), ("3+2", "3", False), ("caféx", "café", False)],
    ],
)
def test_words_that_go_on_repeat_those_before_word_by_word(text: str, beginning: str, begins: bool) -> None:
    """A text that begins with the letters of another one may be another word."""
    assert begins_with(text, beginning) is begins


@pytest.mark.parametrize(
    ("first", "then", "joined"),
    [
        ("我要", "我要订位", "我要订位"),
        ("不", "不过明天呢", "不 不过明天呢"),
        ("what is 3", "what is 3+2", "what is 3 what is 3+2"),
        ("ต้องการ", "ต้องการเปลี่ยนเวลา", "ต้องการเปลี่ยนเวลา"),
    ],
)
def test_more_words_join_those_before_or_repeat_them(first: str, then: str, joined: str) -> None:
    """In scripts without blanks, too."""
    call = Conversation.listening().says(first).says(then)
    assert [event.text for event in call.log if isinstance(event, TurnStarted)] == [first, joined]
