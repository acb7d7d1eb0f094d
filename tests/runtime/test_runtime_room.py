"""A Redis that is nearly full takes no new conversations, and those that have begun go on."""

import pytest
from redis.asyncio import Redis

from events.inputs import SttFinal
from orchestrator.grant import EVERYTHING
from orchestrator.runtime.node import NotReadyError
from orchestrator.runtime.redis import room
from tests.runtime.conftest import MakeNode
from tests.runtime.redis_server import Server
from tests.runtime.support import StubClient, soon


async def test_new_conversations_are_refused_before_redis_is_full(
    make_node: MakeNode, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In words, at the door and in the log; with room again they are taken again."""
    monkeypatch.setattr(room, "LOOK_S", 0.05)
    running = await make_node(url=server.url)
    live = await running.listening()
    async with Redis.from_url(server.url) as redis:
        used = (await redis.info("memory"))["used_memory"]
        await redis.config_set("maxmemory", int(used / 0.9))
        await soon(lambda: not running.node.ready)
        with pytest.raises(NotReadyError, match="nearly full"):
            running.node.open_session(StubClient())
        with pytest.raises(NotReadyError, match="nearly full"):
            await running.node.reserve(EVERYTHING)
        running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
        await running.watch.phase(live.session_id, "LISTENING", 2)
        await redis.config_set("maxmemory", 0)
        await soon(lambda: running.node.ready)
    await running.listening()
    assert caplog.text.count("no new conversations from now on") == 1
    await running.node.stop()
