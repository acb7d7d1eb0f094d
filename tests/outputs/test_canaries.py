"""Canary secrets in every setting, canary words in every failure: found where they belong and nowhere else."""

import asyncio
import json
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from orchestrator.safe_log import SAFE_LOG, guard_our_loggers
from orchestrator.safe_text import named_error, safe_traceback
from orchestrator.services.failures import ServiceError
from orchestrator.services.http_clients import open_session
from orchestrator.services.http_speech import HttpTextToSpeech
from orchestrator.services.ports import Request
from orchestrator.services.speech_functions import speech_to_text_port, text_to_speech_port
from orchestrator.services.text_functions import answer_port, intent_port, whole_answer
from tests.calls.service import SUBJECT, Caller, Service
from tests.outputs.hostile_service import FAILURES, failing
from tests.projections.collector import collecting
from tests.runtime.redis_server import Server

SECRET = "kanarie8Xq{}zz"
WORDS = "my knee hurts"
SPOKEN = ("intent", "query")
TOOLS = slice([*FAILURES].index("names a tool by it"), [*FAILURES].index("gives up"))


def secrets_in(text: str) -> list[str]:
    return [name for name in ("redis", "sql", "user", "pass", "key", "otlp") if SECRET.format(name) in text]


def failure_of(path: str, text: str) -> str:
    """The words themselves say which service is to fail, and how: `query: refuses: my knee hurts`."""
    service, _, rest = text.partition(": ")
    return rest.partition(": ")[0] if path.startswith(f"/{service}") else ""


async def asked(service: Service, failure: str, messages: list[str]) -> str:
    """A conversation in which each service fails in this way; its session."""
    async with Caller(service, voice=False) as caller:
        for name in SPOKEN:
            await caller.send(type="text", text=f"{name}: {failure}: {WORDS}")
            await caller.hears("reply")
            await caller.hears("phase", phase="LISTENING", reason="playback_done")
        await caller.send(type="goodbye")
        await caller.hears("ended")
        messages += [json.dumps(message) for _, message in caller.messages if message["type"] != "session"]
        return caller.session_id


async def everything_in(redis: Redis) -> list[str]:
    """Every value of every key. The service still runs, so a key may expire or be deleted before it is read."""
    reads: dict[str | bytes, Any] = {
        b"string": lambda key: redis.get(key),
        b"hash": lambda key: redis.hgetall(key),
        b"stream": lambda key: redis.xrange(key),
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"set": lambda key: redis.smembers(key),
        b"zset": lambda key: redis.zrange(key, 0, -1),
        b"none": lambda key: redis.get(key),
    }
    return [f"{key} {await reads[await redis.type(key)](key)}" async for key in redis.scan_iter()]


def process_lines(pid: int) -> str:
    """The command lines of a process and its descendants."""
    found = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") + "\n"
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += process_lines(int(child))
    return found


async def error_pages(url: str) -> str:
    """What HTTP answers to what it does not understand."""
    pages = []
    async with aiohttp.ClientSession() as http:
        for path in ("/", "/nothing", "/static/../x", "/orchestrate", "/readyz", "/healthz", "/metrics"):
            async with http.get(url + path) as response:
                pages.append(f"{response.headers} {await response.text()}")
        async with http.post(f"{url}/", data=b"x") as response:
            pages.append(await response.text())
    return "\n".join(pages)


async def wrong_tokens(url: str, shown: list[str]) -> str:
    """The answers to tokens that are refused: changed, and in URLs."""
    pages = []
    async with aiohttp.ClientSession() as http:
        for token in shown[:4]:
            for wrong in (token, token[:-4], token[4:]):
                headers = {"Authorization": f"Bearer {wrong}"}
                async with http.get(f"{url}/orchestrate", headers=headers) as answer:
                    pages.append(f"{answer.headers} {await answer.text()}")
                async with http.get(f"{url}/orchestrate", params={"token": wrong}) as answer:
                    pages.append(f"{answer.headers} {await answer.text()}")
                async with http.get(
                    f"{url}/orchestrate", headers={"Sec-WebSocket-Protocol": f"bearer.{wrong}"}
                ) as answer:
                    pages.append(f"{answer.headers} {await answer.text()}")
    return "\n".join(pages)


async def test_canaries_are_found_nowhere_but_in_redactable_fields(tmp_path: Path) -> None:
    """Others can reach this service, so words are masked; its services fail in every way and repeat what they hear."""
    redis_server = Server(str(tmp_path))
    await redis_server.start()
    try:
        plain = Redis.from_url(redis_server.url)
        await plain.config_set("requirepass", SECRET.format("redis"))
        await plain.aclose()
        redis_url = redis_server.url.replace("unix://", f"unix://:{SECRET.format('redis')}@")
        async with failing(failure_of) as address, collecting() as collector:
            base = f"http://{SECRET.format('user')}:{SECRET.format('pass')}@{address}/?key={SECRET.format('key')}"
            keys = tmp_path / "keys.json"
            secret = token_urlsafe(32)
            keys.write_text(json.dumps({"keys": [{"kty": "oct", "kid": "k", "alg": "HS256", "k": secret}]}))
            settings = {
                "ORCH_HOST": "127.0.0.2",
                "ORCH_AUTH_KEYS": str(keys),
                "ORCH_AUTH_ISSUER": "https://shop.example",
                "ORCH_REDIS_URL": redis_url,
                "ORCH_SQL_URL": f"postgresql://orch:{SECRET.format('sql')}@127.0.0.1:1/orch",
                "ORCH_INTENT_URL": base,
                "ORCH_ANSWER_URL": base,
                "ORCH_TTS_URL": base,
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={SECRET.format('otlp')}",
            }
            messages: list[str] = []
            async with Service(tmp_path / "data", **settings) as service:
                sessions = [await asked(service, failure, messages) for failure in FAILURES]
                exports = [
                    await service.orch("export", session, "--redact", how)
                    for session in (*sessions[:3], *sessions[TOOLS])
                    for how in ("default", "hash")
                ]
                commands = [await service.orch(*words) for words in (["doctor"], ["sessions"], ["show", sessions[0]])]
                pages, lines = await error_pages(service.url), process_lines(service.process.pid)
                pages += await wrong_tokens(service.url, service.shown)
                async with Redis.from_url(redis_url) as redis:
                    stored = "\n".join(await everything_in(redis))
                await collector.until_there_is("session")
            logs = "\n".join(service.words + service.lines)
            traces = "\n".join(map(str, (*collector.traces, *collector.metrics)))
    finally:
        await redis_server.kill()
    told = "\n".join(messages)
    everywhere = {
        "log": logs,
        "traces and metrics": traces,
        "pages": pages,
        "argv": lines,
        "Redis": stored,
        "clients": told,
        "exports": str(exports),
        "commands": str(commands),
    }
    assert {where: found for where, text in everywhere.items() if (found := secrets_in(text))} == {}
    tokens = [secret, SUBJECT, *service.shown]
    assert len(service.shown) >= 2 * len(FAILURES), "each caller showed a token, and got one to come back with"
    assert [where for where, text in everywhere.items() if any(token in text for token in tokens)] == []
    assert stored.count("SERVICE_FAILED") >= len(FAILURES), "services did fail"
    assert WORDS in stored, "the log of a session holds what was said"
    called = [line for line in stored.split('"type":') if '"arguments":' in line]
    assert [WORDS in line for line in called] == [True, True], "and what was said to tools"
    assert stored.count('"type":"TOOL_RETURNED"') == 2
    assert "execute_tool book" in everywhere["traces and metrics"], "which name the tool"
    for where in ("log", "traces and metrics", "pages", "argv", "exports"):
        assert WORDS not in everywhere[where], where
    assert "cannot answer" not in told, "callers are told nothing of a provider's"
    assert address not in told
    assert all(code == 0 for code, _, _ in exports), exports


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failing_voice_repeats_nothing_in_masked_words(failure: str) -> None:
    """The same for text-to-speech, whose errors go the same way."""
    async with failing(lambda *_: failure) as address, open_session() as http:
        voice = HttpTextToSpeech(http, f"http://{address}?key={SECRET.format('key')}")
        with pytest.raises(ServiceError) as caught:
            async for _ in voice.synthesize(Request(WORDS)):
                pass
    for text in (named_error(caught.value, mask=True), safe_traceback(caught.value, mask=True)):
        assert WORDS not in text
        assert SECRET.format("key") not in text
    assert "/stream" in str(caught.value), "which service it was is told"


async def test_a_failing_function_repeats_nothing_in_masked_words() -> None:
    """Each port filled by a function of the user's, which raises what it was asked."""

    def fails(text: object) -> str:
        raise RuntimeError(f"cannot do {WORDS}: {text!r}")

    errors: list[BaseException] = []
    for asking in (
        intent_port(fails).classify(Request(WORDS)),
        whole_answer(answer_port(fails), Request(WORDS)),
        anext(text_to_speech_port(fails).synthesize(Request(WORDS))),
    ):
        with pytest.raises(ServiceError) as caught:
            await asking
        errors.append(caught.value)
    assert all(WORDS in str(error) for error in errors), "on this machine alone it is told"
    assert not any(WORDS in named_error(error, mask=True) for error in errors)
    assert not any(WORDS in safe_traceback(error, mask=True) for error in errors)


async def test_a_failing_recogniser_repeats_nothing_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speech-to-text tells its failures by a callback, whose text the media layer logs."""
    monkeypatch.setattr(SAFE_LOG, "mask", True)
    guard_our_loggers()  # as the service does
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def fails(_: bytes) -> str:
        raise RuntimeError(f"did not understand {WORDS}")

    recognizer = await speech_to_text_port(fails).open(lambda _: None, told.set_result)
    recognizer.start()
    recognizer.feed(bytes(640))
    recognizer.finish()
    assert WORDS not in await told
    assert WORDS not in caplog.text
    await recognizer.close()
