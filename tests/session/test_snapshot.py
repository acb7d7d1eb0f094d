"""Snapshots: what is loaded is what was dumped, and what is no snapshot of today's rules is refused in words."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from events.codec import decode
from events.envelope import Event
from events.journal import ModelResponded, ToolReturned
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.conversation import ConversationSoFar
from orchestrator.session.evolve import fold
from orchestrator.session.journal import Journal
from orchestrator.session.policy import Interruption, Policy
from orchestrator.session.snapshot import BadSnapshotError, dump, journal, load
from orchestrator.testing.conversation import Conversation
from tests.session.conftest import Converse

RECORDINGS = sorted((Path(__file__).parents[2] / "fixtures").rglob("*.jsonl"))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_what_is_loaded_is_what_was_dumped(path: Path) -> None:
    """At any version of any recording, the rest of the log leads to the same end from there."""
    by_session: dict[str, list[bytes]] = {}
    for line in path.read_bytes().splitlines()[1:]:
        by_session.setdefault(decode(line).session_id, []).append(line)
    for lines in by_session.values():
        log = [decode(line) for line in lines]
        for version in range(1, len(log), 1 + len(log) // 12):
            state, conversation = fold(log[:version]), ConversationSoFar()
            conversation.hear(log[:version])
            loaded, heard = load(dump(state, conversation), state.policy)
            assert loaded == state
            assert heard.said == conversation.said
            conversation.hear(log[version:])
            heard.hear(log[version:])
            assert heard.until(len(log)) == conversation.until(len(log))
            assert fold(log[version:], loaded).hash() == log[-1].state_hash


def from_snapshot(log: Sequence[Event], version: int) -> Journal:
    """The journal of a log, from a snapshot at this version."""
    state, conversation = fold(log[:version]), ConversationSoFar()
    conversation.hear(log[:version])
    found = journal(*load(dump(state, conversation), state.policy))
    found.hear(log[(state.found.facts_from or version + 1) - 1 :])
    return found


@pytest.mark.parametrize("first_ends", [1, 2, 3, 4, 5, 6])
def test_the_journal_knows_each_call_that_was_open_when_its_question_was_asked(first_ends: int) -> None:
    """A first call may end before the next question, or after any of its facts. It would run again where it is missing,
    or its result would be given to a question that came later.
    """
    talk = Conversation.listening(policy=Policy.model_validate({"thinking": {"more_words": "supersede"}}))
    acts: list[Callable[[Conversation], object]] = [
        lambda talk: talk.says("book a table").calls("book", "a/book"),
        lambda talk: talk.says("hello?"),
        lambda talk: talk.input(ModelResponded, command_id=asked(talk), call_id="b/model/1", response="{}"),
        lambda talk: talk.calls("book", "b/book"),
        lambda talk: talk.input(ToolReturned, command_id=runs(talk, "b/book"), call_id="b/book", result="8"),
        lambda talk: talk.says("and now?"),
    ]
    acts.insert(
        first_ends, lambda talk: talk.input(ToolReturned, command_id=runs(talk, "a/book"), call_id="a/book", result="7")
    )
    for act in acts:
        act(talk)
    steps = [event.version for event in talk.log if event.state_hash]
    for upto in steps:
        log, whole = talk.log[:upto], Journal()
        whole.hear(log)
        for version in (
            version for version in steps if version <= upto and talk.log[version - 1].type != "SESSION_OPENED"
        ):
            found = from_snapshot(log, version)
            assert found.calls == whole.calls, f"{version} of {upto}"
            assert found.responses == whole.responses, f"{version} of {upto}"


def asked(talk: Conversation) -> str:
    return talk.outstanding("AnswerQuestion").command_id


def runs(talk: Conversation, call_id: str) -> str:
    return talk.outstanding("RunTool", call_id).command_id


def test_the_policy_is_not_in_it(converse: Converse) -> None:
    """It may be long, never changes, and is the first thing in the log."""
    call = converse("SPEAKING")
    data = dump(call.state, ConversationSoFar())
    assert b"policy" not in data
    other = Policy(interruption=Interruption(min_words=3))
    assert load(data, other)[0].policy == other


def test_one_of_other_rules_is_refused(converse: Converse) -> None:
    """Its state may not have today's fields."""
    data = dump(converse("THINKING").state, ConversationSoFar())
    with pytest.raises(BadSnapshotError, match=f"made by reducer 0.0.9, this one is {REDUCER_VERSION}"):
        load(data.replace(REDUCER_VERSION.encode(), b"0.0.9", 1), Policy())


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b'{"reducer_version": "0.1.0", "state": {"version": "many"}}'])
def test_what_is_no_snapshot_is_refused(data: bytes) -> None:
    """The message says which field is wrong."""
    with pytest.raises(BadSnapshotError, match="not a snapshot"):
        load(data, Policy())
