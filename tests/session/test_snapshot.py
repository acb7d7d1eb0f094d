"""Snapshots: what is loaded is what was dumped, and what is no snapshot of today's rules is refused in words."""

from pathlib import Path

import pytest

from events.codec import decode
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.conversation import ConversationSoFar
from orchestrator.session.evolve import fold
from orchestrator.session.policy import Interruption, Policy
from orchestrator.session.snapshot import BadSnapshotError, dump, load
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
