"""A call that ends is over at once, whatever the libraries and services under it do."""

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path

import pytest
from aiortc.rtp import RtcpByePacket

from orchestrator import teardown
from orchestrator.media.aiortc_private import ice_connections
from orchestrator.media.handler import MediaHandler
from orchestrator.services.failures import ServiceError
from orchestrator.teardown import STUCK
from tests.media.peer import CallPeer
from tests.media.stubs import ON_LOOPBACK, Call, RememberingSpeechToText
from tests.media.test_media_hostile_audio import FRAME, Wire

ROOT = Path(__file__).parents[2]


async def never(*_: object) -> None:
    await asyncio.Event().wait()


def sockets() -> int:
    """Of this process. Descriptors may be closed while we look."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(str(descriptor.readlink()))
    return sum(name.startswith("socket:") for name in names)


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "audio-decoder"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teardown.end_within, "__kwdefaults__", {"within_s": 0.2, "counters": None})


STUCK_PARTS = {
    "peer connection": lambda handler: setattr(handler._peer, "close", never),
    "receiver": lambda handler: setattr(handler._transceiver.receiver, "stop", never),
    "sender": lambda handler: setattr(handler._transceiver.sender, "stop", never),
    "DTLS": lambda handler: setattr(handler._transceiver.receiver.transport, "stop", never),
    "ICE": lambda handler: setattr(handler._transceiver.receiver.transport.transport, "stop", never),
    "recogniser": lambda handler: setattr(handler._microphone, "close", never),
}


@pytest.mark.parametrize("part", STUCK_PARTS)
async def test_a_part_that_never_ends_keeps_neither_the_caller_nor_a_socket(
    call: Call, part: str, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    """close() returns, one line names what is stuck, and the sockets of the call are closed."""
    handler = call.handler
    handler._counters = counters = Counter()
    (connection,) = [handler._transceiver.receiver.transport.transport._connection]
    transports = [protocol.transport for protocol in connection._protocols]
    STUCK_PARTS[part](handler)
    threads = decoders()
    async with asyncio.timeout(2):
        await handler.close()
    assert counters[STUCK] >= 1
    assert "did not end within" in caplog.text
    assert all(transport.is_closing() for transport in transports)
    assert len(decoders()) < len(threads)


def test_a_call_that_nobody_ends_does_not_keep_the_process() -> None:
    """aiortc decodes in a thread of its own, which only the end of the call ends."""
    program = "import asyncio; from tests.media import test_media_teardown as it; asyncio.run(it.connect_and_leave())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, timeout=30, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "2 decoders\n"), done.stderr


async def connect_and_leave() -> None:
    peer = CallPeer()
    _, answer = await MediaHandler.accept(
        await peer.offer(),
        handler_id="mh",
        session_id="s",
        stt=RememberingSpeechToText(),
        report=lambda _: None,
        tell_client=lambda _: None,
        settings=ON_LOOPBACK,
    )
    await peer.answered(answer)
    while len(decoders()) < 2:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    print(len(decoders()), "decoders")


async def says_bye(call: Call) -> None:
    wire = Wire(call)
    await wire.transport._send_rtp(bytes(RtcpByePacket(sources=[wire.ssrc])))


async def sends_from_many_sources(call: Call) -> None:
    wire = Wire(call)
    for ssrc in range(100):
        await wire.rtp(ssrc, FRAME, ssrc=1_000 + ssrc)


async def is_gone_without_a_word(call: Call) -> None:
    for connection in ice_connections(call.peer.connection):
        for protocol in connection._protocols:
            protocol.transport.abort()


async def both_hang_up(call: Call) -> None:
    await asyncio.gather(call.handler.close(), call.peer.close())


ENDINGS = {
    "we hang up": lambda call: call.handler.close(),
    "the caller hangs up": lambda call: call.peer.close(),
    "both at once": both_hang_up,
    "RTCP BYE": says_bye,
    "many sources": sends_from_many_sources,
    "the caller is gone": is_gone_without_a_word,
    "never answered": None,
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_calls_leave_no_socket_task_or_thread_behind(make_call, ending: str) -> None:
    """However they end, and whether or not our side of the handshake is done when they do."""
    first = await make_call()  # what the libraries keep for the process is there now
    await first.handler.close()
    await first.peer.close()
    before = (sockets(), threading.active_count(), len(asyncio.all_tasks()))
    for _ in range(3):
        call = await make_call(answer=ending != "never answered")
        if (end := ENDINGS[ending]) is not None:
            await end(call)
        async with asyncio.timeout(1):
            await call.handler.close()
        await call.peer.close()
    async with asyncio.timeout(5):
        while (sockets(), threading.active_count(), len(asyncio.all_tasks())) > before:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    assert sockets() <= before[0]
    assert threading.active_count() <= before[1]
    assert len(asyncio.all_tasks()) <= before[2]


async def test_a_recogniser_that_never_opens_costs_the_call_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is told, in words."""
    monkeypatch.setattr("orchestrator.media.handler.OPEN_WITHIN_S", 0.05)
    stt = RememberingSpeechToText()
    stt.open = never
    peer = CallPeer()
    with pytest.raises(ServiceError, match=r"did not open within 0\.05 s"):
        await MediaHandler.accept(
            await peer.offer(),
            handler_id="fastrtc_1",
            session_id="auto_session_1",
            stt=stt,
            report=lambda _: None,
            tell_client=lambda _: None,
            settings=ON_LOOPBACK,
        )
    await peer.close()


async def test_a_closed_call_gives_its_voice_detector_back_at_once(call: Call) -> None:
    """It is most of a call's memory, and the garbage collector sees none of it: 29 offers a second grew to 470 MB."""
    gc.disable()
    try:
        detector = weakref.ref(call.handler._microphone._activity)
        await call.peer.close()
        await call.handler.close()
        async with asyncio.timeout(2):
            while detector() is not None:  # noqa: ASYNC110 - what still runs of the call holds it for some turns
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
