"""A deploy: `orch serve` is stopped while people talk, and their conversations go on at another one."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.gateway.messages import (
    AckMessage,
    EndedMessage,
    GoodbyeMessage,
    PhaseMessage,
    ReplyMessage,
    SessionMessage,
    TextMessage,
)
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from tests.cli.service import ORCH, Serve, environment, orch_process
from tests.cli.test_cli_service import Chat
from tests.gateway.talk_page_server import page_server

SESSION = "auto_session_12345"
READY = SessionMessage(session_id=SESSION, resume_token="token-1")
LISTENING = PhaseMessage(phase="LISTENING", reason="client_connected")


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
        session_id = orch_process("sessions", env=env).stdout.split()[0]
        assert "SESSION_RESUMED" in orch_process("export", session_id, env=env).stdout
        assert orch_process("replay", session_id, env=env).returncode == 0
        assert second.stop(signal.SIGINT) == 0, second.stderr


async def test_the_part_of_a_line_that_is_not_sent_is_said(tmp_path: Path) -> None:
    """A message has at most 2,000 characters; the rest is not lost in silence."""
    async with page_server() as server:
        typed = f"{'a' * 2_000}{'b' * 500}\n"
        arguments = ("chat", "--url", server.url)
        chatting = asyncio.create_task(
            asyncio.to_thread(orch_process, *arguments, env=environment(tmp_path), stdin=typed)
        )
        wire = await server.connection()
        await wire.send(READY, LISTENING)
        line = await wire.receive()
        assert isinstance(line, TextMessage)
        assert line.text == "a" * 2_000
        await wire.send(EndedMessage(reason="goodbye"))
        done = await chatting
        assert "! the line is too long: 2000 characters are sent, the last 500 are not\n" in done.stderr


async def test_a_keyboard_that_cannot_be_read_ends_the_conversation(tmp_path: Path) -> None:
    """With a sentence and a goodbye, not a traceback and a wait without end."""
    async with page_server() as server:
        unreadable = os.open("/proc/self/mem", os.O_RDONLY)
        process = await asyncio.create_subprocess_exec(
            *(*ORCH, "chat", "--url", server.url),
            env=environment(tmp_path),
            stdin=unreadable,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(unreadable)
        wire = await server.connection()
        await wire.send(READY, LISTENING)
        assert isinstance(await wire.receive(), GoodbyeMessage)
        await wire.send(EndedMessage(reason="goodbye"))
        _, said = await process.communicate()
        assert "! standard input cannot be read (Input/output error); the conversation ends\n" in said.decode()
        assert "Traceback" not in said.decode()


async def test_a_line_that_the_old_service_did_not_read_is_sent_again(tmp_path: Path, ends: ExitStack) -> None:
    """It was typed between the server's close and the terminal's reading of it; what is in the log is not repeated."""
    async with page_server() as server:
        starting = asyncio.create_task(asyncio.to_thread(Chat, server.url, environment(tmp_path)))
        first = await server.connection()
        await first.send(READY, LISTENING)
        chat = await starting
        ends.callback(chat.process.kill)
        chat.keyboard.write("hello\n")
        chat.keyboard.flush()
        line = await first.receive()
        assert isinstance(line, TextMessage)
        await first.close(1013, "the service is stopping")
        second = await server.connection()
        await second.send(READY, LISTENING)
        assert await second.receive() == line
        await second.send(
            AckMessage(message_id=str(line.message_id)), ReplyMessage(playback_id="answer-1", text="Hi!", turn=1)
        )
        await second.close(1013, "the service is stopping")
        third = await server.connection()
        await third.send(READY, LISTENING, EndedMessage(reason="goodbye"))
        code, words = await asyncio.to_thread(chat.ended)
        assert (code, third.unread()) == (0, 0), words
