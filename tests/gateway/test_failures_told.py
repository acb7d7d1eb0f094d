"""What a caller is told of services that fail: words for callers, and details only where the developer calls."""

import aiohttp
import pytest

from orchestrator.services.failures import ServiceError
from tests.gateway.conftest import Serve
from tests.gateway.talker import Talker
from tests.media.peer import CallPeer

FAILURES = [
    ServiceError("POST http://stt.internal:9000/listen: status 503 (model whisper-9 is not loaded)"),
    NotImplementedError("whisper-9 at stt.internal"),
    OSError(111, "Connect call failed ('stt.internal', 9000) whisper-9"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("is_developer", [False, True])
async def test_a_call_without_speech_to_text_is_refused_in_words_for_callers(
    serve: Serve, http: aiohttp.ClientSession, failure: Exception, is_developer: bool
) -> None:
    """A provider's name, address and error are for the developer alone; the conversation goes on in text."""
    service = await serve(is_private=is_developer)

    async def refuse(*_: object) -> None:
        raise failure

    service.running.stubs.open = refuse  # type: ignore[method-assign,assignment]
    peer = CallPeer()
    async with http.ws_connect(f"{service.url}/orchestrate") as socket:
        client = Talker(socket)
        await client.listening()
        await client.say("webrtc_offer", sdp=await peer.offer())
        error = await client.until("error", code="call_failed")
        assert ("whisper-9" in error["message"]) is is_developer
        assert ("stt.internal" in error["message"]) is is_developer
        assert not error["message"].startswith(("POST", "Not", "["))
        await client.say("text", text="hello")
        await client.until("reply")
    await peer.close()
