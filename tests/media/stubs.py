"""What stands at the edges of the media layer in its tests: a recogniser that remembers, a whole call."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from events.envelope import Input
from orchestrator.media.handler import MediaHandler
from orchestrator.media.settings import MediaSettings
from orchestrator.services.ports import NO_SPEAKER, Recognizer, Speaker, Transcript
from tests.media.peer import CallPeer

ON_LOOPBACK = MediaSettings(ice_host_addresses=("127.0.0.1",))


class RememberingRecognizer:
    """Keeps what it was fed, one entry per utterance; answers `finish` with "utterance N"."""

    def __init__(self, on_transcript: Callable[[Transcript], None]) -> None:
        self.calls: list[str] = []
        self.utterances: list[bytearray] = []
        self._on_transcript = on_transcript

    def start(self) -> None:
        self.calls.append("start")
        self.utterances.append(bytearray())

    def feed(self, pcm: bytes) -> None:
        assert self.calls[-1] == "start", f"fed after {self.calls}"
        self.utterances[-1] += pcm

    def finish(self) -> None:
        self.calls.append("finish")
        final = Transcript(f"utterance {len(self.utterances)}", is_final=True)
        asyncio.get_running_loop().call_soon(self._on_transcript, final)

    def cancel(self) -> None:
        self.calls.append("cancel")

    async def close(self) -> None:
        self.calls.append("close")


class RememberingSpeechToText:
    """Opens RememberingRecognizers; the last one is `recognizer`."""

    recognizer: RememberingRecognizer
    transcribe: Callable[[Transcript], None]
    fail: Callable[[str], None]
    speaker: Speaker

    async def open(
        self,
        on_transcript: Callable[[Transcript], None],
        on_error: Callable[[str], None],
        speaker: Speaker = NO_SPEAKER,
    ) -> Recognizer:
        self.speaker = speaker
        self.transcribe, self.fail = on_transcript, on_error
        self.recognizer = RememberingRecognizer(on_transcript)
        return self.recognizer


@dataclass
class Call:
    """Both ends of one call, and everything that was said about it."""

    handler: MediaHandler
    peer: CallPeer
    stt: RememberingSpeechToText
    events: list[Input]
    told: list[dict[str, str | int]]
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def types(self) -> list[str]:
        return [event.type for event in self.events]  # type: ignore[attr-defined]

    async def reported(self, event_type: str, times: int = 1, within_s: float = 5) -> Input:
        """Wait for the `times`-th event of a type."""

        def found() -> list[Input]:
            return [event for event in self.events if event.type == event_type]  # type: ignore[attr-defined]

        async with asyncio.timeout(within_s):
            while len(found()) < times:
                self.news.clear()
                await self.news.wait()
        return found()[times - 1]

    async def told_client(self, message_type: str, within_s: float = 5) -> dict[str, str | int]:
        """Wait for the first message of a type to the client."""
        async with asyncio.timeout(within_s):
            while not (found := [message for message in self.told if message["type"] == message_type]):
                self.news.clear()
                await self.news.wait()
        return found[0]


async def connect(settings: MediaSettings = ON_LOOPBACK, *, answer: bool = True, rests: bool = False) -> Call:
    """A handler and a peer, connected over loopback. `rests`: see CallPeer."""
    events: list[Input] = []
    told: list[dict[str, str | int]] = []
    news = asyncio.Event()

    def report(event: Input) -> None:
        events.append(event)
        news.set()

    def tell_client(message: dict[str, str | int]) -> None:
        told.append(message)
        news.set()

    peer = CallPeer(rests=rests)
    stt = RememberingSpeechToText()
    handler, answer_sdp = await MediaHandler.accept(
        await peer.offer(),
        handler_id="fastrtc_1",
        session_id="auto_session_1",
        stt=stt,
        report=report,
        tell_client=tell_client,
        settings=settings,
    )
    if answer:
        await peer.answered(answer_sdp)
    return Call(handler, peer, stt, events, told, news)
