"""Redis on another machine: services whose Redis user has the rights of docs/security.md and no others."""

import asyncio
import re
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.retry import Retry

import orchestrator
from orchestrator import AccessRequest, Grant, Orchestrator, Settings
from orchestrator.runtime.redis.embedded import find_server
from tests.cli.service import environment, orch
from tests.door import is_same, joining
from tests.gateway.talker import Talker
from tests.network.namespaces import SERVER, Network
from tests.runtime.redis_cluster import Cluster

PORT = 6379
MINE = f"redis://orch:change-me@{SERVER}:{PORT}"
PAGE = Path(__file__).parents[2] / "docs" / "security.md"
ADMIN = ("admin", "on", "nopass", "~*", "+@all")
AGAIN = 1013
"""The close code of a node that does not have the session yet (docs/websocket.md)."""
OPEN = "whoever reaches it may read and change every conversation"


@pytest.fixture
def redis(network: Network, tmp_path: Path) -> Iterator[Redis]:
    """An administrator's connection to a Redis that other machines reach and that asks for no password."""
    options = ("--bind", SERVER, "--port", str(PORT), "--protected-mode", "no", "--dir", str(tmp_path))
    at_once = Retry(NoBackoff(), 0)
    with network.inside("server"), Redis(SERVER, PORT, username="admin", password="any", retry=at_once) as admin:
        command = (find_server(), *options, "--appendonly", "yes", "--user", *ADMIN)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                while not answers(admin):
                    assert server.poll() is None
                yield admin
            finally:
                server.terminate()


def test_the_rights_of_the_page_are_enough_and_no_more(redis: Redis, tmp_path: Path) -> None:
    """A conversation that moves to another node, connections that break, and the commands of operators.

    The log of refusals names nothing but the client library's CLIENT, and each right was used or is in the code.
    """
    line = grant_the_rights(redis)["orch"]

    async def break_all() -> None:
        redis.execute_command("CLIENT", "KILL", "USER", "orch")

    session_id = asyncio.run(a_conversation_moves(MINE, break_all, tmp_path))
    env = environment(tmp_path / "b", ORCH_REDIS_URL=MINE)
    for command in (
        ["doctor"],
        ["sessions"],
        ["show", session_id],
        ["archive"],
        ["purge", "--older-than", "1d", "--yes"],
    ):
        ended = orch(*command, env=env)
        assert ended.exit_code == 0, ended.output
        assert OPEN not in ended.output
    assert {entry["object"] for entry in redis.acl_log()} <= {"client"}
    # Redis 7 counts subcommands: "config|get".
    used = {name.removeprefix("cmdstat_").partition("|")[0] for name in redis.info("commandstats")}
    rights = {word[1:].partition("|")[0] for word in line.split() if word.startswith("+")}
    assert rights - used <= in_the_code()


async def test_the_rights_in_a_cluster(tmp_path: Path) -> None:
    """The same conversation; each server grants the user of nodes what the page says, and refuses it nothing."""
    text = PAGE.read_text()
    (line,) = re.findall(r"^user orch .*$", text, re.MULTILINE)
    (more,) = re.findall(r"In a Redis Cluster, `orch` also needs `([^`]*)`", text)
    async with Cluster(tmp_path) as cluster:
        for node in cluster.nodes:
            await node.ask("ACL", "SETUSER", *line.split()[1:], *more.split())

        async def break_all() -> None:
            for node in cluster.nodes:
                await node.ask("CLIENT", "KILL", "USER", "orch")

        url = cluster.url.replace("//", "//orch:change-me@")
        await a_conversation_moves(url, break_all, tmp_path)
        for node in cluster.nodes:
            async with AsyncRedis(port=node.port) as admin:
                refused = {entry["object"] for entry in await admin.acl_log()}
            assert refused <= {"client", "client|setinfo"}


async def a_conversation_moves(url: str, break_all: Callable[[], Awaitable[None]], folder: Path) -> str:
    """Its owner leaves; the other node goes on with it, and every connection to Redis breaks once. Returns its id."""
    async with AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(service(url, folder / name)) for name in ("a", "b")]
        http = await stack.enter_async_context(aiohttp.ClientSession())
        client = Talker(await http.ws_connect(f"{a.url}/orchestrate"))
        session = await client.until("session")
        await break_all()
        await client.say("text", text="hello")
        await client.until("reply")
        await a.__aexit__(None, None, None)
        client = await back(http, f"{b.url}/orchestrate", session)
        await client.say("text", text="hello again")
        await client.until("reply")
        async with http.get(f"{b.url}/readyz") as ready:
            assert ready.status == 200
        await client.say("goodbye")
        await client.until("ended")
        async with asyncio.timeout(20):
            while not b.node.counters["projected"]:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.05)
    return str(session["session_id"])


async def back(http: aiohttp.ClientSession, url: str, session: dict[str, Any]) -> Talker:
    """The client, back in its session: refused with 1013 it tries again, until the node has taken the session over."""
    async with asyncio.timeout(20):
        while True:
            socket = await http.ws_connect(url, **joining(session))
            first = await socket.receive()
            if first.type is aiohttp.WSMsgType.TEXT:
                assert is_same(first.json(), session)
                return Talker(socket)
            assert first.data == AGAIN, first
            await asyncio.sleep(0.1)


def service(url: str, folder: Path) -> Orchestrator:
    """A node whose callers may have three conversations at a time."""

    async def authenticate(request: AccessRequest) -> Grant:
        return Grant(subject="anna", may={"text", "operate"}, sessions=3, token_id="one")

    def words(text: str) -> str:
        return f"You said {text}."

    ports = {"intent": words, "answer": words, "speech_to_text": words, "text_to_speech": lambda _: bytes(320)}
    settings = Settings(port=0, redis_url=url, data_dir=folder)
    return Orchestrator(settings, authenticate=authenticate, **ports)


def test_nobody_else_gets_in_and_a_producer_may_only_send(redis: Redis, tmp_path: Path) -> None:
    """Without the lines everybody gets in, which `orch doctor` says."""
    doctor = orch("doctor", env=environment(tmp_path, ORCH_REDIS_URL=f"redis://{SERVER}:{PORT}"))
    assert (doctor.exit_code, OPEN in doctor.stderr) == (5, True), doctor.output
    grant_the_rights(redis)
    with Redis(host=SERVER, port=PORT) as stranger, pytest.raises(AuthenticationError):
        stranger.get("voice:secret")
    with Redis.from_url(f"redis://producer:change-me-too@{SERVER}:{PORT}") as producer:
        producer.xadd("voice:ingress:{0}", {"e": "{}"})
        for key in ("voice:{07}:inbox", "voice:ingress:{0}:lease"):
            with pytest.raises(NoPermissionError):
                producer.xadd(key, {"e": "{}"})
        with pytest.raises(NoPermissionError):
            producer.get("voice:secret")
    with Redis.from_url(MINE) as node:
        for command in (("FLUSHALL",), ("GET", "other"), ("CONFIG", "SET", "requirepass", ""), ("KEYS", "*")):
            with pytest.raises(NoPermissionError):
                node.execute_command(*command)


def grant_the_rights(redis: Redis) -> dict[str, str]:
    """Apply the lines of the page; user → line."""
    (lines,) = re.findall(r"```acl\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for line in lines.splitlines():
        redis.execute_command("ACL", "SETUSER", *line.split()[1:])
    return {line.split()[1]: line for line in lines.splitlines()}


def in_the_code() -> set[str]:
    """Commands that the runtime sends, or one of its scripts."""
    files = [
        file for ending in ("py", "lua") for file in Path(orchestrator.__path__[0], "runtime").rglob(f"*.{ending}")
    ]
    text = " ".join(file.read_text() for file in files)
    named = re.findall(r"[\"']([A-Z]{3,})[\"']|redis\.([a-z]+)\(", text)
    return {(sent or method).lower() for sent, method in named}


def answers(redis: Redis) -> bool:
    with suppress(RedisError):
        return bool(redis.ping())
    return False
