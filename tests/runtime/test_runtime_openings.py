"""A token that opens one conversation: how long it is bound to that conversation."""

import time

import pytest

from orchestrator.grant import Grant
from orchestrator.runtime.openings import SUBJECT_S
from tests.runtime.conftest import MakeNode


@pytest.mark.parametrize(("expires_in_s", "kept_s"), [(0, SUBJECT_S), (600, 600)])
async def test_a_token_stays_bound_to_its_conversation(make_node: MakeNode, expires_in_s: int, kept_s: int) -> None:
    """Until it expires; for a week if the check of callers names no time."""
    node = (await make_node()).node
    expires_at_s = time.time() + expires_in_s if expires_in_s else 0
    grant = Grant(may={"text"}, token_id="of anna", expires_at_s=expires_at_s)
    first = await node.reserve(grant)
    assert (await node.reserve(grant)).session_id == first.session_id
    left_s = await node._callers_redis.ttl(node.keys.token("of anna"))
    assert kept_s - 60 < left_s <= kept_s
