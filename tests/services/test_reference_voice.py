"""How the natural voice cuts a long sentence into pieces that are synthesised one after the other."""

import pytest

from orchestrator.reference.hibari_voice import _LONGEST_CHARACTERS, _pieces

LONGEST = _LONGEST_CHARACTERS


@pytest.mark.parametrize("number", ["1,200", "7:30", "10,000,000", "12:05:30"])
@pytest.mark.parametrize("begins", [100, LONGEST - 8, LONGEST - 5, LONGEST - 2])
def test_a_number_is_spoken_in_one_piece(number: str, begins: int) -> None:
    """A comma or colon ends a clause only before a blank."""
    text = "word " * 59 + "word"
    sentence = f"{text[: begins - 1].rstrip():.<{begins - 1}} {number} euros and {text}"
    pieces = [*_pieces(sentence)]
    assert " ".join(pieces) == sentence
    assert [piece for piece in pieces if number in piece.split()] != []
    assert max(map(len, pieces)) <= LONGEST


def test_a_long_sentence_is_cut_after_its_last_clause() -> None:
    """Also after a mark that is the last character of the longest piece; else at a blank."""
    clause = "a" * (LONGEST - 21) + " " + "b" * 19 + ","
    assert [*_pieces(f"{clause} and more")] == [clause, "and more"]
    assert [*_pieces(f"{clause[:-1]}c, and more")] == ["a" * (LONGEST - 21), "b" * 19 + "c, and more"]
    whole = "a" * (LONGEST - 5) + " bbbb"
    assert [*_pieces(f"{whole} and more")] == [whole, "and more"]


@pytest.mark.parametrize("text", ["a" * 500, "a,b:c;" * 100, "1,200," * 100])
def test_a_sentence_without_blanks_is_cut_by_its_length(text: str) -> None:
    """Nothing is lost."""
    pieces = [*_pieces(text)]
    assert "".join(pieces) == text
    assert {len(piece) for piece in pieces[:-1]} == {LONGEST}
