"""Shows that an answer that is given to another question is found by `orch replay --check` and `orch verify`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.derived import CommandIssued, ProcessingComplete, TurnStarted
from events.envelope import Event
from events.inputs import SttPartial
from events.recording import parse, steps
from orchestrator.replay.invariants import Invariants, said
from orchestrator.replay.verify import verify
from orchestrator.session import phrases
from orchestrator.session.phrases import are_alike
from orchestrator.session.policy import Policy
from orchestrator.simulation.simulate import simulate
from orchestrator.testing.conversation import Conversation

FILES = sorted((Path(__file__).resolve().parents[2] / "fixtures").rglob("*.jsonl"))
PAIRS = [
    *[("3-2", "3+2"), ("C#", "C++"), ("C#", "C"), ("पचीस", "पचास"), ("เสือ", "เสื้อ"), ("👎", "👍"), ("3 5", "3.5")],
    *[("买", "卖"), ("5", "-5"), ("3 2", "3-2"), ("50", "50%"), ("كَتَبَ", "كُتِبَ"), ("ma", "má"), ("2²", "22")],
]


def broken(log: list[Event]) -> list[tuple[str, str]]:
    invariants = Invariants()
    for step in steps(iter(log)):
        invariants.look(step)
    return [(each.invariant, each.message) for each in invariants.broken]


def letters(text: str) -> str:
    """Nothing but letters from a to z."""
    return re.sub(r"[^a-z]+", "", normalize("NFD", text.casefold())) or "nothing"


def guessing(asked: str, then: str) -> Conversation:
    """A question that was asked early and answered, and the final."""
    policy = Policy.model_validate({"speculation": {"tries": 1}})
    call = Conversation.listening(policy=policy).input(SttPartial, text=asked, is_complete=True)
    return call.answers(f"about {asked}").says(then)


@pytest.mark.parametrize(("asked", "then"), PAIRS)
def test_a_reducer_that_takes_other_words_for_the_same_is_found(monkeypatch, asked: str, then: str) -> None:
    """As one did that compared letters and digits alone."""
    assert broken([*guessing(asked, then).log]) == []
    monkeypatch.setattr(phrases, "normal", letters)
    found = broken([*guessing(asked, then).log])
    assert ("I-5", f"{then!r} is answered with what was asked about {asked!r}") in found
    assert ("I-5", f"{then!r} gets the answer to {asked!r}") in found


def changed(kind: type[Event], **fields: Any) -> Callable[[Event], Event]:
    return lambda event: event.model_copy(update=fields) if type(event) is kind else event


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(ProcessingComplete, answer="We are open."), "'hello' gets the answer to 'hello'"),
        (changed(TurnStarted, text="goodbye"), "'hello' is asked in the turn of 'goodbye'"),
        (
            lambda event: (
                event.model_copy(update={"payload": event.payload | {"text": "goodbye"}})
                if isinstance(event, CommandIssued) and event.name == "AnswerQuestion"
                else event
            ),
            "'goodbye' is asked in the turn of 'hello'",
        ),
    ],
)
def test_a_log_that_says_so_is_found(change: Callable[[Event], Event], message: str) -> None:
    """Whatever its hashes say: another answer, another question, other words."""
    call = Conversation.listening().says("hello").answers("Hi!").speaks().played()
    assert broken([*call.log]) == []
    assert ("I-5", message) in broken([*map(change, call.log)])


def test_fallback_answers_belong_to_any_question() -> None:
    """They are the policy's."""
    call = Conversation.listening().says("hello").fires("answer_deadline")
    assert any(isinstance(event, ProcessingComplete) for event in call.log)
    assert broken([*call.log]) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_recording_gives_an_answer_to_another_question(file: Path) -> None:
    """Those in fixtures, none of which was made by today's rules, fold to their hashes, too."""
    recording = parse(file.read_bytes(), file.name)
    assert broken([*recording.events()]) == []
    assert verify(recording.header, file.read_bytes().splitlines()[1:]).problems == []


def test_no_simulated_conversation_does() -> None:
    """In many scripts, with guesses, owners that come and go, and late answers."""
    logs = (simulate(seed, replayed=False).log for seed in range(120))
    assert [found for log in logs for found in broken([*log]) if found[0] == "I-5"] == []


TEXT = st.text(max_size=12) | st.text("aA12.,:;-'\"()!?_ +#*/²½’“´\u0301\u0940我。👍\u200d\ufe0f٣", max_size=8)


@given(TEXT, TEXT, st.sampled_from([".", "!", " ", "-", "’", "(", "\u0301", "5"]))
@settings(max_examples=500, deadline=None)
def test_texts_that_are_the_same_say_the_same(one: str, more: str, sign: str) -> None:
    """By both readings: a sound log is never blamed."""
    for other in (phrases.normal(one), one.upper(), one + sign, f"{one} {more}", f"{sign}{one}", more):
        if are_alike(one, other) and one != other:
            assert said(one) == said(other)
