"""The AnswerQuestion effect: what is reported of an answer that comes in pieces, at the first attempt and again."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from events.inputs import AnswerText, RagAnswered
from orchestrator.runtime.effects import answering
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Answer, Attempt
from tests.runtime.support import soon

Reported = list[tuple[type, dict[str, Any]]]


async def pieces(*given: str | Answer) -> AsyncGenerator[str | Answer, None]:
    for piece in given:
        yield piece


async def reported(*given: str | Answer, attempt: Attempt | None = None) -> Reported:
    """What the effect reports of these pieces."""
    said: Reported = []
    await answering.answer(
        pieces(*given), attempt or Attempt(), "en", lambda kind, **fields: said.append((kind, fields))
    )
    return said


def texts(said: Reported) -> list[tuple[int, str]]:
    return [(fields["index"], fields["text"]) for kind, fields in said if kind is AnswerText]


async def test_sentences_are_reported_as_they_come() -> None:
    said = await reported("Hi! We", " are open. Come", " in.")
    assert texts(said) == [(0, "Hi!"), (1, " We are open."), (2, " Come in.")]
    assert said[-1] == (RagAnswered, {"answer": "", "sources": ()})


async def test_a_whole_answer_is_reported_whole() -> None:
    assert await reported(Answer("Hi! We are open.", ("a.md",))) == [
        (RagAnswered, {"answer": "Hi! We are open.", "sources": ("a.md",)})
    ]


async def test_sources_may_come_last_with_more_text() -> None:
    said = await reported("Hi! We", Answer(" are open", ("a.md",)))
    assert texts(said) == [(0, "Hi!"), (1, " We are open")]
    assert said[-1] == (RagAnswered, {"answer": "", "sources": ("a.md",)})


async def test_an_answer_without_words_is_one_text_and_no_tail() -> None:
    """👍 alone is shown; a lonely quotation mark at the end is not spoken."""
    assert texts(await reported("👍")) == [(0, "👍")]
    assert texts(await reported('He said "yes.', '"')) == [(0, 'He said "yes.')]
    assert texts(await reported()) == []


async def test_an_answer_that_comes_again_is_left_out_as_far_as_it_is_recorded() -> None:
    """However it is cut this time."""
    attempt = Attempt(("Hi!", " We are open."))
    said = await reported("Hi! We are", " open. Come in.", attempt=attempt)
    assert texts(said) == [(2, " Come in.")]
    assert texts(await reported("Hi! We are open.", attempt=attempt)) == []


async def test_a_model_that_says_something_else_goes_on_after_as_many_sentences() -> None:
    said = await reported("Hello! We", " open at nine. Come in.", attempt=Attempt(("Hi!", " We are open.")))
    assert texts(said) == [(2, " Come in.")]


async def test_a_function_that_resumes_says_only_the_rest() -> None:
    said = await reported(" Come in.", attempt=Attempt(("Hi!", " We are open."), resumes=True))
    assert texts(said) == [(2, " Come in.")]


async def test_a_whole_answer_after_texts_is_their_rest() -> None:
    """A function that streamed at first, and answers whole when it is asked again."""
    said = await reported(Answer("Hi! We are open. Come in."), attempt=Attempt(("Hi!", " We are open.")))
    assert texts(said) == [(2, " Come in.")]


@pytest.mark.parametrize("given", [("x. " * 3_000,), ("One. " * 1_700, "Two."), ("x" * 8_001,)])
async def test_an_answer_that_is_too_long_fails(given: tuple[str, ...]) -> None:
    with pytest.raises(ServiceError, match="more than 8000 characters"):
        await reported(*given)


async def test_words_that_wait_for_the_end_of_their_sentence_are_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that calls a tool in the middle of a sentence, or is slow."""
    monkeypatch.setattr(answering, "QUIET_S", 0.01)
    said: Reported = []
    more = asyncio.Event()

    async def slow() -> AsyncGenerator[str, None]:
        yield "Let me"
        yield " see"
        await more.wait()
        yield ", yes."

    work = asyncio.create_task(answering.answer(slow(), Attempt(), "en", lambda kind, **f: said.append((kind, f))))
    await soon(lambda: texts(said) == [(0, "Let me see")])
    more.set()
    await work
    assert texts(said)[1:] == [(1, ", yes.")]
