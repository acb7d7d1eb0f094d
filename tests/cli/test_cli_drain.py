"""A deploy: `orch serve` is stopped while people talk, and their conversations go on at another one."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.runtime.embedded import EmbeddedRedis
from tests.cli.service import Serve, environment, orch_process
from tests.cli.test_cli_service import Chat


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    """What ends processes; called when the test is over, however it went."""
    with ExitStack() as stack:
        yield stack


async def test_a_conversation_goes_on_at_another_service_when_its_own_is_stopped(
    tmp_path: Path, ends: ExitStack
) -> None:
    """The terminal is told where to go and goes there by itself; services exit with 0 after SIGTERM as after Ctrl-C."""
    async with EmbeddedRedis(tmp_path) as url:
        env = environment(tmp_path, ORCH_REDIS_URL=url)
        first = Serve(env)
        ends.callback(first.kill)
        chat = Chat(first.url, env)
        ends.callback(chat.process.kill)
        assert chat.type("hello").strip()
        second = Serve(env)
        ends.callback(second.kill)
        assert first.stop(signal.SIGTERM) == 0, first.stderr
        answer = chat.type("what are your opening hours")
        assert answer.strip(), chat.ended()
        chat.keyboard.write("\n")
        chat.keyboard.flush()
        code, words = chat.ended()
        assert code == 0, words
        assert "the conversation is over (goodbye)" in words
        session_id, _ = orch_process("sessions", env=env).stdout.split()
        assert "SESSION_RESUMED" in orch_process("export", session_id, env=env).stdout
        assert orch_process("replay", session_id, env=env).returncode == 0
        assert second.stop(signal.SIGINT) == 0, second.stderr
