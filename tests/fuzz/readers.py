"""Everything in orch that reads what somebody else wrote: sound inputs to begin with, and the errors it may raise."""

import asyncio
import json
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from events.codec import DERIVED, INPUTS, BadEventError, decode, decode_input, encode
from events.recording import BadRecordingError, Recording, parse, stream
from orchestrator.gateway.messages import BadMessage, parse_client_message, parse_server_message
from orchestrator.policy_file import PolicyFileError, read_policy
from orchestrator.reference.content import load_content, parse_sections
from orchestrator.replay.fold_on import UnsoundLogError
from orchestrator.replay.invariants import Invariants
from orchestrator.replay.mermaid import mermaid
from orchestrator.replay.redact import redacted
from orchestrator.replay.replay import replay
from orchestrator.replay.timeline import timeline
from orchestrator.replay.verify import verify
from orchestrator.safe_text import escaped, one_line, safe_error, safe_url, without_secrets
from orchestrator.services.failures import ServiceError
from orchestrator.services.http_clients import HttpAnswer, HttpIntent, read_json
from orchestrator.services.ports import SpeechChunk, SpokenWord
from orchestrator.services.speech_wire import WavCutter, WireError, decode_line, encode_line
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation
from projections.golden_log import golden
from projections.otlp import otlp, otlp_json
from projections.perfetto import perfetto
from projections.spans import spans_of

FIXTURES = Path(__file__).parents[2] / "fixtures"


@dataclass(frozen=True, slots=True)
class Reader:
    """`grown(n)` is an input of about n bytes that makes it work hard; times are compared between sizes."""

    read: Callable[[bytes], object]
    sound: tuple[bytes, ...]
    errors: tuple[type[Exception], ...]
    grown: Callable[[int], list[bytes]]
    largest: int = 64 * 1024
    """Bytes, for the comparison of times; what is longer is refused or never comes."""
    takes: int = 1
    """How many times longer it takes than others; it gets so many times fewer inputs in the short run."""


def _events(data: bytes) -> list[Any]:
    return [*parse(data, "fuzz").events()]


def _exports(data: bytes) -> None:
    events = _events(data)
    for lines in (mermaid(events), timeline(events), timeline(events, full=True), golden(events)):
        "".join(lines).encode()
    for layout in ("session", "turn"):
        for with_content in (False, True):
            spans = spans_of(events, layout, with_content=with_content)
            otlp(spans)
            otlp_json(spans)
            perfetto(events, spans)


def _redact(data: bytes) -> None:
    events = _events(data)
    for how in ("default", "hash"):
        for event in redacted(events, how):
            encode(event)


def _verify(data: bytes) -> None:
    header, lines = stream([data[:100], data[100:]], "fuzz")
    verify(header, lines)


def _replay(data: bytes) -> None:
    recording: Recording = parse(data, "fuzz")
    replay(recording, keep_going=True)
    invariants = Invariants()
    for event in recording.events():
        invariants.look([event])


def _codec(data: bytes) -> None:
    event = decode(data)
    assert decode(encode(event)) == event, "what was read is written as it is read"


def _messages(data: bytes) -> None:
    try:
        parse_client_message(data)
    except BadMessage:
        parse_server_message(data)


@cache
def _folder() -> Path:
    kept = TemporaryDirectory(prefix="orch-fuzz-")
    _KEPT.append(kept)
    return Path(kept.name)


_KEPT: list[TemporaryDirectory[str]] = []


def _policy(suffix: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        file = _folder() / f"policy.{suffix}"
        file.write_bytes(data)
        read_policy(file)

    return read


def _intents(data: bytes) -> None:
    (_folder() / "knowledge").mkdir(exist_ok=True)
    (_folder() / "intents.yaml").write_bytes(data)
    load_content(_folder())


def _markdown(data: bytes) -> None:
    for _ in parse_sections(data.decode(errors="replace"), "fuzz.md"):
        pass


def _answers(data: bytes) -> None:
    """What intent and answer services say, whole or as a line, from the body on."""

    async def understand() -> None:
        async with aiohttp.ClientSession() as http:
            intent, answer = HttpIntent(http, "http://fuzz"), HttpAnswer(http, "http://fuzz")
            document = read_json(answer._service.endpoint, data)
            for read in (intent.understood, answer._whole, answer._piece):
                with suppress(ServiceError):
                    read(document)

    with suppress(ServiceError):
        asyncio.run(understand())


def _speech(data: bytes) -> None:
    """One answer of text-to-speech, as a line of JSON or as a WAV file in two pieces."""
    if data.startswith(b"RIFF"):
        cutter = WavCutter()
        for piece in (data[:30], data[30:]):
            for _ in cutter.feed(piece):
                pass
        for _ in cutter.end():
            pass
    else:
        decode_line(data)


_WAV = struct.pack(
    "<4sI4s4sIHHIIHH4sI", b"RIFF", 100, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16, b"data", 64
) + bytes(64)


def _texts(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    for make in (one_line, escaped, safe_url, lambda text: safe_error(ValueError(text))):
        make(text).encode()
    without_secrets(text)


def _recordings() -> tuple[bytes, ...]:
    short = Conversation.in_phase("SPEAKING").recording()
    spoken = Conversation.in_phase("ENDED").recording()
    return (short, spoken, (FIXTURES / "normal_flow.jsonl").read_bytes())


def _lines(types: Collection[str]) -> tuple[bytes, ...]:
    """One line of each of these types of event, as far as they are in the recordings."""
    found: dict[str, bytes] = {}
    for data in (*_recordings(), (FIXTURES / "real_barge_in.jsonl").read_bytes()):
        for line in parse(data, "sound").lines:
            found.setdefault(json.loads(line)["type"], line)
    return tuple(line for name, line in found.items() if name in types)


def _longer(size: int) -> list[bytes]:
    """A recording with so many bytes of sound turns, and one of one line."""
    call = Conversation.listening()
    while len(data := call.recording()) < size:
        for _ in range(8):
            call.after(1_000).says("hello").answers("Yes.").speaks(chunks=2).played()
    return [data]


def _repeated(*pieces: bytes) -> Callable[[int], list[bytes]]:
    return lambda size: [piece * (size // len(piece) + 1) for piece in pieces]


def _wrapped(before: bytes, piece: bytes, after: bytes) -> Callable[[int], list[bytes]]:
    return lambda size: [before + piece * (size // len(piece)) + after]


def _all_of(*several: Callable[[int], list[bytes]]) -> Callable[[int], list[bytes]]:
    return lambda size: [data for grown in several for data in grown(size)]


def _unknown_keys(size: int) -> list[bytes]:
    return [b"".join(b"kxy%d: 1\n" % number for number in range(size // 12))]


POLICY = json.dumps(Policy().recorded()).encode()
CLIENT = (
    b'{"type": "text", "text": "hello", "message_id": "m-1"}',
    b'{"type": "barge_in", "playback_id": "p", "position_ms": 5}',
    b'{"type": "webrtc_offer", "sdp": "v=0"}',
    b'{"type": "playback_done", "playback_id": "p"}',
    b'{"type": "goodbye"}',
    b'{"type": "reply", "playback_id": "p", "text": "Yes.", "turn": 1}',
)
INTENTS = b"fillers: [um]\nintents:\n  greeting:\n    examples: [hello, 'good day']\n    answer: Hi *there*!\n"
MARKDOWN = (
    b"# Hours\n\nWe are [open](http://x) at **ten**.\n\n- When are you open?\n- <b>always</b>\n\n```\ncode\n```\n",
    b"## Where #\n\n> In the `middle` of _it_. ![map](x.png) <!-- not said --> \\* ~~no~~\n",
)
BODIES = (
    b'{"intent": "greeting", "confidence": 0.5}',
    b'{"answer": "Yes.", "sources": [{"title": "a"}, "b", 3]}',
    b'{"error": "broken"}',
)
DEEP = _all_of(_repeated(b"[", b'{"a":'), _wrapped(b'{"type":"text","text":"', b"\\u0041", b'"}'))

READERS: dict[str, Reader] = {
    "client messages": Reader(_messages, CLIENT, (BadMessage,), DEEP),
    "ingress events": Reader(decode_input, _lines(INPUTS), (BadEventError,), DEEP),
    "codec": Reader(_codec, _lines(INPUTS | DERIVED), (BadEventError,), DEEP),
    "recordings": Reader(
        _events, _recordings(), (BadRecordingError,), _all_of(_longer, _repeated(b"x", b"\n", b"{}\n")), 512 * 1024
    ),
    "redact": Reader(_redact, _recordings(), (BadRecordingError, UnsoundLogError), _longer),
    "verify": Reader(_verify, _recordings(), (BadRecordingError,), _all_of(_longer, _repeated(b"x", b"\n"))),
    "replay": Reader(_replay, _recordings(), (BadRecordingError,), _longer),
    "exports": Reader(_exports, _recordings(), (BadRecordingError,), _longer),
    "policy": Reader(
        _policy("yaml"),
        (POLICY, b"endpointing:\n  phrases: [thanks, please]\ninterruption:\n  min_words: 2\n"),
        (PolicyFileError,),
        _all_of(_unknown_keys, _repeated(b"[", b"- ", b"{a: ", b"a: [1,2]\n"), _wrapped(b"a: &a ", b"[1,2],", b"")),
        largest=16 * 1024,
        takes=10,
    ),
    "policy in JSON": Reader(
        _policy("json"), (POLICY,), (PolicyFileError,), _all_of(DEEP, _wrapped(b"{", b'"a":1,', b'"b":2}'))
    ),
    "intents": Reader(
        _intents,
        (INTENTS,),
        (ServiceError,),
        _all_of(_repeated(b"[", b"- ", b"a: "), _wrapped(INTENTS, b"  b: {}\n", b"")),
        largest=16 * 1024,
        takes=3,
    ),
    "Markdown": Reader(
        _markdown,
        MARKDOWN,
        (),
        _repeated(
            *(
                b"`",
                b"`a",
                b"*",
                b"*a ",
                b"**a",
                b"_a",
                b"[",
                b"[]",
                b"![",
                b"[](",
                b"<",
                b"<a ",
                b"<!--",
                b"# #",
                b"#",
            ),
            *(b"> ", b" \n", b"\n", b"~~~\n", b"~~a", b"- a\n", b"- a?\n", b"\\", b"a b ", b"``a` ", b"***a", b"1. "),
        ),
        largest=16 * 1024,
    ),
    "service answers": Reader(_answers, BODIES, (), _all_of(DEEP, _wrapped(b'{"answer":"', b"a", b'"}')), takes=3),
    "speech": Reader(
        _speech,
        (
            encode_line(SpeechChunk(bytes(320), 16_000, (SpokenWord("Hi", 0),))),
            b'{"pcm": "AAAAAA==", "sample_rate_hz": 8000, "words": [{"word": "Hi", "start": 0.5}]}',
            _WAV,
        ),
        (WireError,),
        _all_of(
            DEEP, _wrapped(b'{"pcm":"', b"AAAAAAAA", b'","sample_rate_hz":8000}'), _repeated(b"RIFFxxxxWAVE", _WAV)
        ),
    ),
    "texts": Reader(
        _texts,
        (b"http://u:p@h/x?key=1", b"password=abc Bearer abcdefgh", "a\u202e👩\u200d💻".encode()),
        (),
        _repeated(
            b"a", b"://", b"http://", b"a://b@", b"@", b"password", b"token=", b"key-", b"basic ", b"\xe2\x80\xae", b"'"
        ),
    ),
}


def inputs(reader: Reader, count: int, seed: int) -> Iterator[bytes]:
    """So many broken inputs, the same for the same seed."""
    from random import Random

    from tests.fuzz.mutations import mutated

    random = Random(seed)
    for _ in range(count):
        yield mutated(random.choice(reader.sound), random)
