"""A service that hangs never silences the agent: each of the four, in a real call over real WebRTC."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Orchestrator, Settings
from tests.calls.service import Caller
from tests.media.speech import speak

pytestmark = pytest.mark.calls


async def hangs(*_: Any) -> Any:
    await asyncio.Event().wait()


def beep(text: str) -> bytes:
    return bytes(2 * 2_205)


WORKING: dict[str, Any] = {
    "intent": lambda text: "question",
    "answer": lambda text: "We are open.",
    "speech_to_text": lambda pcm: "when are you open",
    "text_to_speech": beep,
}
HEARD = {
    "intent": {"kind": "reply", "text": "We are open."},
    "answer": {"kind": "reply", "text": "Sorry, I could not look that up just now. Could you ask me again?"},
    "speech_to_text": {"kind": "reply", "text": "Sorry, I did not hear that. Could you say it again?"},
    "text_to_speech": {"kind": "phase", "phase": "LISTENING", "reason": "tts_deadline"},
}


@pytest.mark.parametrize("service", WORKING)
async def test_a_service_that_hangs_never_silences_the_agent(service: str, tmp_path: Path) -> None:
    """The caller asks aloud, and learns within seconds what there is to learn; then the agent listens again."""
    settings = Settings(data_dir=tmp_path, ice_host_addresses=("127.0.0.1",), port=0)
    async with Orchestrator(settings, **(WORKING | {service: hangs})) as running, Caller(running) as caller:  # type: ignore[arg-type]
        await caller.hears("phase", phase="LISTENING")
        await caller.peer.say(speak("when are you open"))
        await caller.hears(**HEARD[service], within_s=15)
        if service != "text_to_speech":
            await caller.hears("phase", phase="LISTENING", reason="playback_done")
