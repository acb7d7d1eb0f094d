"""Shows how words compare, and what counts as a phrase of listening, in each language that brings its own."""

from itertools import pairwise

import pytest
from pydantic import ValidationError

from orchestrator.session.phrases import (
    BACKCHANNELS,
    begins_with,
    consists_of,
    count_words,
    ends_with,
    may_become,
    normal,
    spans,
)
from orchestrator.session.policy import Policy

ENGLISH = BACKCHANNELS["en"]
OF_LISTENING = {
    "de": ["Ja.", "Ach so!", "mhm, genau", "Stimmt, klar", "Okay, gut.", "aha richtig hm hmm mm ok"],
    "en": ["Yeah.", "Uh-huh", "Mm-hmm, I see.", "Okay, got it!", "right, right, right", "go on", "Oh wow", "yeah okay"],
    "es": ["Sí, claro.", "Ya veo", "¡Vale!", "ajá", "bueno, bien"],
    "fr": ["D'accord.", "ah bon ?", "Oui, très bien", "ouais ouais", "euh"],
    "it": ["Sì, va bene", "certo", "ecco!"],
    "nl": ["Ja, precies.", "oké", "klopt, goed"],
    "pl": ["Tak, rozumiem", "no, jasne", "dobrze"],
    "pt": ["Tá bom", "sim, claro", "pois"],
}


def policy(backchannels: object) -> Policy:
    return Policy.model_validate({"interruption": {"backchannels": backchannels}})


def complaint(fields: dict) -> str:
    """What is said about a policy that is wrong."""
    with pytest.raises(ValidationError) as caught:
        Policy.model_validate(fields)
    (error,) = caught.value.errors()
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}"


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Hello, World!", "hello world"),
        ("  Uh-huh…\n", "uh huh"),
        ("D'accord", "d'accord"),
        ("snake_case__words", "snake case words"),
        ("Straße", "strasse"),
        ("SÍ, 24/7", "sí 24/7"),
        ("日本語。", "日本語"),
        # Brackets beside a sign that is said aloud, and without one.
        ("Ärger (b)", "ärger b"),
        ("é+(b)", "é+(b)"),
        # A dash that is silent, and one that may be said.
        ("é -", "é"),
        ("é x -", "é x"),
        ("é- b", "é- b"),
        ("é-b", "é-b"),
        ("é-x\u0301y", "é x\u0301y"),
        # Signs of control are blanks, signs of layout are nothing.
        ("a\x01b", "a b"),
        ("é\x80b", "é b"),
        ("a\u202fb", "a b"),
        ("a\u206ab", "a\u206ab"),
        *((f"a{sign}b", "ab") for sign in "\u202a\u202e\u2066\u2069"),
        *((f"don{sign}t", "don't") for sign in "\u2018\u2019\u201b\u02bc\uff07\u00b4`"),
        ("...", ""),
        ("_", ""),
        ("", ""),
    ],
)
def test_what_is_spoken_alike_is_equal(text: str, spoken: str) -> None:
    """Case, punctuation and blanks are not heard; letters of any language, digits and apostrophes are."""
    assert normal(text) == spoken
    assert normal(normal(text)) == spoken


def test_words_are_found_where_no_blanks_divide_them() -> None:
    """Punctuation belongs to the word before it; a character that is none takes no place of another."""
    assert spans("请等一下。好") == [(0, 1), (1, 2), (2, 5), (5, 6)]
    assert spans("ok请等一下") == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert begins_with("ok请等一下", "ok")
    assert count_words("请等一下\ud800") == 3


@pytest.mark.parametrize("text", ["好👍好吗。", "สวัสดี👍ครับ", "你好😀 world 世界", "𠀀𠀀 b\x85c 𠀀"])
def test_words_follow_each_other_also_beside_emoji(text: str) -> None:
    """The breaker of ICU counts an emoji twice, and so did the words of sessions before state schema 7."""
    found = spans(text)
    assert "".join(text[start:end] for start, end in found) == "".join(text.split())
    assert all(end <= start for (_, end), (start, _) in pairwise(found))
    assert spans(text, in_utf16=True) != found


@pytest.mark.parametrize(
    ("text", "phrases", "listens"),
    [
        ("嗯嗯", ("嗯",), True),
        ("ok 嗯嗯", ("ok", "嗯"), True),
        ("嗯嗯 ok", ("ok", "嗯"), True),
        ("嗯a", ("嗯", "a"), False),
    ],
)
def test_a_row_may_change_its_script(text: str, phrases: tuple[str, ...], listens: bool) -> None:
    assert consists_of(text, phrases) is listens


@pytest.mark.parametrize("language", OF_LISTENING)
def test_each_language_brings_its_phrases_of_listening(language: str) -> None:
    """Alone and in a row, however they are written."""
    assert set(OF_LISTENING) == set(BACKCHANNELS)
    for text in OF_LISTENING[language]:
        assert consists_of(text, BACKCHANNELS[language]), text


@pytest.mark.parametrize("language", BACKCHANNELS)
def test_the_phrases_are_written_as_they_compare(language: str) -> None:
    """Once each, without case and punctuation; every one of them counts as itself, and so do two of them."""
    phrases = BACKCHANNELS[language]
    assert len(set(phrases)) == len(phrases)
    for phrase in phrases:
        assert normal(phrase) == phrase
        assert consists_of(phrase, phrases)
        assert consists_of(f"{phrase} {phrases[0]}", phrases)


@pytest.mark.parametrize(
    "text", ["", "...", "no", "go", "on", "on go", "yeah but", "but yeah", "yeah no okay", "uh i", "see", "yeahokay"]
)
def test_anything_else_is_more_than_listening(text: str) -> None:
    """Silence, half a phrase, or one word too many."""
    assert not consists_of(text, ENGLISH)


@pytest.mark.parametrize(("words", "listens"), [(1, True), (5, True), (6, True), (7, False)])
def test_a_long_row_of_backchannels_wants_to_be_heard(words: int, listens: bool) -> None:
    """Six words are still listening, seven are not."""
    assert consists_of("yeah " * words, ENGLISH) is listens


def test_a_row_is_taken_apart_in_whatever_way_fits() -> None:
    """A phrase that begins as another one must not hide it."""
    assert consists_of("a b c", ("a", "a b", "b c"))
    assert consists_of("a b c", ("a b", "c"))
    assert not consists_of("a b c", ("a b", "b c"))
    assert not consists_of("b", ("a b", "b c"))


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        *[("I want this please", True), ("PLEASE!", True), ("that's all.", True)],
        *[("please don't", False), ("displease", False), ("all", False), ("", False)],
    ],
)
def test_the_end_of_a_text_is_compared_word_by_word(text: str, ends: bool) -> None:
    """Not letter by letter, and not its middle."""
    assert ends_with(text, ("please", "That's all")) is ends
    assert not ends_with(text, ())


@pytest.mark.parametrize("partial", ["y", "Yea", "go", "uh", "i s", "mm h", "okay", "yeah okay", "uh-huh, right"])
def test_what_may_still_become_a_backchannel_has_to_be_waited_for(partial: str) -> None:
    """The beginning of one, or a row of them."""
    assert may_become(partial, ENGLISH)


@pytest.mark.parametrize("partial", ["", " ", "...", "stop", "yeah but", "go away", "yes please", "seeing"])
def test_what_cannot_become_a_backchannel_is_words(partial: str) -> None:
    """Or nothing yet, which is no beginning."""
    assert not may_become(partial, ENGLISH)


@pytest.mark.parametrize("language", BACKCHANNELS)
def test_a_policy_takes_the_code_of_a_language(language: str) -> None:
    """The session's first event records the phrases themselves, and reads them back."""
    written = policy(language)
    assert written.interruption.backchannels == BACKCHANNELS[language]
    recorded = written.recorded()
    assert recorded["interruption"]["backchannels"] == [*BACKCHANNELS[language]]
    assert Policy.read(recorded) == written


def test_the_phrases_are_english_where_nothing_is_said() -> None:
    """And the policy may bring its own, or none."""
    assert Policy().interruption.backchannels == ENGLISH
    assert policy(["Jo.", "eh"]).interruption.backchannels == ("Jo.", "eh")
    assert policy(("jo",)).interruption.backchannels == ("jo",)
    assert policy([]).interruption.backchannels == ()


@pytest.mark.parametrize("code", ["EN", "english", "", "sv"])
def test_a_language_that_brings_no_phrases_is_said_to_be_unknown(code: str) -> None:
    """With what there is instead."""
    assert complaint({"interruption": {"backchannels": code}}) == (
        f"interruption.backchannels: Value error, no phrases for the language {code!r}: "
        "one of de, en, es, fr, it, nl, pl, pt, or a list of phrases"
    )


def test_phrases_that_end_an_utterance_have_no_language() -> None:
    """A text is not a list of phrases there."""
    assert complaint({"endpointing": {"phrases": "en"}}) == "endpointing.phrases: Input should be a valid tuple"
    phrases = Policy.model_validate({"endpointing": {"phrases": ["over", "bye"]}}).endpointing.phrases
    assert phrases == ("over", "bye")


@pytest.mark.parametrize("part", ["endpointing", "interruption"])
def test_phrases_are_bounded(part: str) -> None:
    """Two hundred of them, none longer than an utterance."""
    field = {"endpointing": "phrases", "interruption": "backchannels"}[part]
    assert Policy.model_validate({part: {field: ["x"] * 200}})
    assert complaint({part: {field: ["x"] * 201}}).startswith(f"{part}.{field}: ")
    assert complaint({part: {field: ["x" * 8_001]}}).startswith(f"{part}.{field}.0: ")
    assert complaint({part: {field: [7]}}) == f"{part}.{field}.0: Input should be a valid string"
    assert complaint({part: {field: 7}}) == f"{part}.{field}: Input should be a valid tuple"
