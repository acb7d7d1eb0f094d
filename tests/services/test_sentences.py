"""Answers cut into texts to speak: sentences in many languages, clauses where a sentence is long."""

import re

import pytest

from orchestrator.services.sentences import Sentences

TOKEN = re.compile(r"\s?\w+|\s?[^\w\s]|\s+")


def cut(text: str, language: str = "en", size: int = 0) -> list[str]:
    """The texts of an answer that comes in tokens, or in pieces of a size."""
    sentences = Sentences(language)
    pieces = [text[at : at + size] for at in range(0, len(text), size)] if size else TOKEN.findall(text)
    texts = [found for piece in pieces for found in sentences.feed(piece)]
    texts += [rest] if (rest := sentences.flush()) else []
    assert "".join(texts) == text
    return [text.strip() for text in texts]


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        ("en", ["Hello there.", "We are open from nine to five."]),
        ("en", ["Dr. Smith is here.", "He waits."]),
        ("en", ["It costs 3.50 euros.", "Is that fine?"]),
        ("en", ["We meet at 5 p.m. on Friday.", "Bye."]),
        ("en", ["Use e.g. a fork.", "Or a spoon."]),
        ("en", ["Mr. and Mrs. Jones live near here.", "Yes."]),
        ("en", ["The U.S. office is closed.", "Sorry!"]),
        ("en", ["Room No. 5 is free.", "Shall I book it?"]),
        ("en", ["Really?", "Yes.", "Great!"]),
        ("de", ["Das kostet z. B. 3,50 Euro.", "Gut?"]),
        ("de", ["Dr. Müller ist da.", "Passt das?"]),
        ("es", ["El Sr. García no está.", "¿Quiere esperar?"]),
        ("it", ["Il dott. Rossi arriva.", "Va bene?"]),
        ("pt", ["O Sr. Silva chegou.", "Tudo bem?"]),
        ("ru", ["Стоимость 5 тыс. руб. за штуку.", "Хорошо?"]),
        ("hi", ["नमस्ते।", "हम खुले हैं।"]),
        ("ar", ["مرحبا.", "هل تريد حجزا؟", "نعم."]),
    ],
)
def test_sentences_end_where_the_language_says(language: str, texts: list[str]) -> None:
    """However the text comes: in tokens, a character at a time, or whole."""
    for size in (0, 1, 3, 1_000):
        assert cut(" ".join(texts), language, size) == texts


@pytest.mark.parametrize(
    "texts", [["您好。", "请问您要什么？", "我们九点开门！"], ["こんにちは。", "ご予約ですか？", "はい。"]]
)
def test_scripts_without_blanks_have_sentences_too(texts: list[str]) -> None:
    for size in (1, 1_000):
        assert cut("".join(texts), "en", size) == texts


def test_a_sentence_does_not_wait_for_the_next_token() -> None:
    """Unless what is there may still become something else."""
    sentences = Sentences("en")
    assert sentences.feed("We are open") == []
    assert sentences.feed(".") == ["We are open."]
    assert sentences.feed(" It is 3.") == []
    assert sentences.feed("50") == []
    assert sentences.feed("! Dr.") == [" It is 3.50!"]
    assert sentences.feed(" Smith says e.g.") == []
    assert sentences.feed(" yes") == []
    assert sentences.flush() == " Dr. Smith says e.g. yes"


def test_signs_without_words_go_with_the_words_after_them() -> None:
    assert cut("👍! That is fine. ... OK?") == ["👍! That is fine.", "... OK?"]


def test_a_long_sentence_is_cut_after_a_clause() -> None:
    """From seven seconds of speech on; a comma is better than a wait."""
    long = (
        "There are many things that one can order here, such as coffee and tea, cake and bread, and it never seems to "
        "come to an end at all because the list is so long"
    )
    assert cut(long) == [
        "There are many things that one can order here, such as coffee and tea, cake and bread,",
        "and it never seems to come to an end at all because the list is so long",
    ]


def test_an_endless_sentence_is_cut_between_words() -> None:
    """Also where no blanks are: Thai by clauses, Chinese by ICU's words."""
    endless = "and so on " * 40
    assert all(len(text) < 260 and not text.startswith("n") for text in cut(endless))
    assert len(cut(endless)) > 1
    thai = "ต้องการจองโต๊ะไหม ขอบคุณครับ " * 8
    assert all(text.startswith(("ต้องการ", "ขอบคุณ")) for text in cut(thai))
    chinese = "我们这里有很多东西可以点" * 12
    assert len(cut(chinese)) > 1


def test_a_word_without_an_end_is_cut_anywhere() -> None:
    """A model that has lost its way: each piece costs as much as the one before, and nothing piles up."""
    sentences = Sentences("en")
    for _ in range(2_000):
        sentences.feed("ha")
        assert sentences.waiting_chars < 400
    assert "".join([*cut("ha" * 2_000)]) == "ha" * 2_000


def test_signs_without_words_are_not_looked_at_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for sentences in all that waits, at each piece, took 4 s for 61 KB of them."""
    sentences = Sentences("en")
    monkeypatch.setattr(sentences, "_sentence_ends", pytest.fail)
    monkeypatch.setattr(sentences, "_clause_end", pytest.fail)
    for _ in range(1_000):
        assert sentences.feed("\n" * 8) == []
    assert sentences.waiting_chars == 8_000


def test_what_is_left_can_be_taken_at_any_time() -> None:
    sentences = Sentences("en")
    assert not sentences.has_words
    sentences.feed("Let me see")
    assert sentences.has_words
    assert sentences.flush() == "Let me see"
    assert sentences.flush() == ""


def test_a_language_that_is_not_known_is_cut_at_its_marks() -> None:
    assert cut("One. Two.", "tlh") == ["One.", "Two."]
