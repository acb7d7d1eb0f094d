"""What a grant allows is enforced: conversations at a time, seconds, turns a minute, speaking, typing."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from events.inputs import SttFinal
from tests.door import joining, refused
from tests.gateway.conftest import Serve
from tests.gateway.talker import Service, Talker
from tests.gateway.test_foreign_sessions import ids_of, rejoin
from tests.gateway.test_tokens import KEYS, enter, token, tokens_of
from tests.runtime.support import PATIENCE_S, StubHandler, soon


@pytest.fixture
async def service(serve: Serve) -> Service:
    return await serve(authenticate=tokens_of(*KEYS))


def granted(*may: str, sub: str = "anna", **limits: int) -> str:
    return token(sub=sub, orch={"may": list(may) or ["voice", "text"]} | limits)


async def why_refused(http: aiohttp.ClientSession, service: Service, shown: str) -> tuple[int, str]:
    """The answer to a WebSocket handshake that is refused."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
        "Authorization": f"Bearer {shown}",
    }
    async with http.get(f"{service.url}/orchestrate", headers=headers) as answer:
        return answer.status, await answer.text()


async def test_a_subject_has_as_many_conversations_as_it_may(http: aiohttp.ClientSession, service: Service) -> None:
    """With a token for each. Other subjects are not concerned, and the end of a conversation makes room."""
    clients = [await enter(http, service, granted(sessions=2)) for _ in range(2)]
    for client in clients:
        await client.spoken()
    for _ in range(2):  # a refused one does not count
        status, why = await why_refused(http, service, granted(sessions=2))
        assert (status, why) == (403, "you have 2 conversations, as many as you may; end one first")
    await (await enter(http, service, granted(sub="bob", sessions=1))).spoken()
    await clients[0].say("goodbye")
    await clients[0].closed()
    later = granted(sessions=2)
    async with asyncio.timeout(PATIENCE_S):
        while await refused(http, service.url, token=later) == 403:  # the connection closes before the session is over
            pass
    assert await refused(http, service.url, token=granted(sessions=2)) == 403


async def test_a_limit_holds_over_all_nodes_and_at_the_same_moment(http: aiohttp.ClientSession, serve: Serve) -> None:
    """Ten openings at once, half of them at another node: one is let in."""
    both = [await serve(authenticate=tokens_of(*KEYS)) for _ in range(2)]
    await soon(lambda: all(service.running.node.ready for service in both))

    async def attempt(number: int) -> Talker | int:
        try:
            return await enter(http, both[number % 2], granted(sessions=1))
        except aiohttp.WSServerHandshakeError as error:
            return error.status

    outcomes = await asyncio.gather(*map(attempt, range(10)))
    assert outcomes.count(403) == 9
    (client,) = (one for one in outcomes if isinstance(one, Talker))
    await client.spoken()


async def test_a_token_shown_again_is_not_counted_twice(http: aiohttp.ClientSession, service: Service) -> None:
    """A page that lost its connection before the first word, with a token for one conversation."""
    shown = granted(sessions=1)
    first = await (await enter(http, service, shown)).listening()
    again = await enter(http, service, shown)
    assert (await again.spoken())["session_id"] == first["session_id"]


async def test_a_grant_that_runs_out_ends_the_call_politely(http: aiohttp.ClientSession, service: Service) -> None:
    """The agent says its goodbye first. The grant stands in the log, with a hash for the subject."""
    client = await enter(http, service, granted(seconds=1))
    session = await client.listening()
    await client.say("text", text="good morning")
    assert await client.closed() == 1000
    replies = [message["text"] for message in client.heard if message["type"] == "reply"]
    assert replies[-1] == "Thank you for calling. Goodbye."
    assert client.heard[-1] == {"type": "ended", "reason": "time_limit"}
    opened, *_ = await service.running.node.read_log(session["session_id"])
    assert opened.grant.items() >= {"may": ["text", "voice"], "seconds": 1}.items()  # type: ignore[attr-defined]
    assert "anna" not in opened.model_dump_json()


async def test_typed_turns_beyond_the_grant_are_refused(http: aiohttp.ClientSession, service: Service) -> None:
    """The conversation goes on, and coming back to it renews nothing."""
    client = await enter(http, service, granted(turns_per_minute=2))
    session = await client.spoken()
    for _ in range(2):
        await client.say("text", text="and again")
    error = await client.until("error")
    assert error["code"] == "turn_limit"
    assert error["message"] == "your token allows 2 turns a minute: wait, and say it again"
    back = await rejoin(http, service, ids_of(session))
    await back.until("session")
    await back.say("text", text="and again")
    assert (await back.until("error"))["code"] == "turn_limit"
    assert service.running.node.session(session["session_id"]).state.phase != "ENDED"  # type: ignore[union-attr]
    log = await service.running.node.read_log(session["session_id"])
    assert len([event for event in log if isinstance(event, SttFinal)]) == 2


@pytest.fixture
def spoken_by(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[SttFinal], None]]:
    """In place of WebRTC: how each call reports what its user has said."""
    reports: list[Callable[[SttFinal], None]] = []

    async def accept(_: str, *, handler_id: str, report: Any, **__: Any) -> tuple[StubHandler, str]:
        reports.append(report)
        return StubHandler(handler_id), "v=0"

    monkeypatch.setattr("orchestrator.gateway.call.MediaHandler.accept", accept)
    return reports


async def called(http: aiohttp.ClientSession, service: Service) -> tuple[Talker, dict[str, Any]]:
    """A caller who may say two turns a minute, and is in a call; and their session."""
    client = await enter(http, service, granted("voice", turns_per_minute=2))
    session = await client.listening()
    await client.say("webrtc_offer", sdp="v=0")
    await client.until("webrtc_answer")
    return client, session


async def test_spoken_turns_a_minute_ahead_of_the_grant_end_the_conversation(
    http: aiohttp.ClientSession, service: Service, spoken_by: list[Callable[[SttFinal], None]]
) -> None:
    """With the reason: nobody can be asked to wait in mid-sentence."""
    client, session = await called(http, service)
    for number in range(4):  # two at once, and those of the next minute
        spoken_by[0](SttFinal(session_id=session["session_id"], text=f"sentence {number}"))
    await client.say("nonsense")
    assert (await client.until("error"))["code"] == "bad_message"
    spoken_by[0](SttFinal(session_id=session["session_id"], text="and one more"))
    assert (await client.until("error"))["code"] == "turn_limit"
    assert await client.closed() == 1000
    assert client.heard[-1]["reason"] == "turn_limit"


async def test_a_cough_is_no_spoken_turn(
    http: aiohttp.ClientSession, service: Service, spoken_by: list[Callable[[SttFinal], None]]
) -> None:
    """Finals without words start no turn, so a noisy line uses nothing of the grant."""
    client, session = await called(http, service)
    for text in ["", " "] * 5 + [f"sentence {number}" for number in range(4)]:
        spoken_by[0](SttFinal(session_id=session["session_id"], text=text))
    await client.say("nonsense")
    assert (await client.until("error"))["code"] == "bad_message"


async def test_a_grant_for_typing_alone_opens_no_microphone(
    http: aiohttp.ClientSession, service: Service, spoken_by: list[Callable[[SttFinal], None]]
) -> None:
    """The offer is refused in words; typing works."""
    client = await enter(http, service, granted("text"))
    await client.listening()
    await client.say("webrtc_offer", sdp="v=0")
    error = await client.until("error")
    assert error["code"] == "call_failed"
    assert "your token allows to type, not to speak" in error["message"]
    assert spoken_by == []
    await client.say("text", text="hello")
    await client.until("reply")


async def test_a_grant_for_speaking_alone_takes_no_typed_words(
    http: aiohttp.ClientSession, service: Service, spoken_by: list[Callable[[SttFinal], None]]
) -> None:
    """A typed word is refused and leaves no session; the call works, also after coming back."""
    client = await enter(http, service, granted("voice"))
    session = await client.listening()
    await client.say("text", text="hello")
    error = await client.until("error")
    assert (error["code"], error["message"]) == ("not_allowed", "your token allows to speak, not to type")
    assert not await service.running.node._redis.exists(service.running.node.keys.log(session["session_id"]))
    back = await rejoin(http, service, ids_of(session))
    newer = await back.until("session")
    await back.say("text", text="hello")
    assert (await back.until("error"))["code"] == "not_allowed"
    await back.say("webrtc_offer", sdp="v=0")
    await back.until("webrtc_answer")
    spoken_by[0](SttFinal(session_id=newer["session_id"], text="hello"))
    await back.until("reply")


async def test_a_grant_is_not_widened_by_a_token_shown_at_a_rejoin(
    http: aiohttp.ClientSession, service: Service
) -> None:
    """The conversation keeps what its opening allowed."""
    session = await (await enter(http, service, granted("text", turns_per_minute=1))).spoken()
    socket = await http.ws_connect(f"{service.url}/orchestrate", **joining(ids_of(session), granted("voice", "text")))
    back = Talker(socket)
    await back.until("session")
    await back.say("webrtc_offer", sdp="v=0")
    assert "not to speak" in (await back.until("error"))["message"]
    await back.say("text", text="more")
    await back.until("error", code="turn_limit")
