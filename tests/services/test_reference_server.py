"""The embedded server: the three contracts over real HTTP, through the same clients that talk to anybody's service."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from itertools import pairwise

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from orchestrator.reference.answers import FolderAnswers
from orchestrator.reference.content import Content
from orchestrator.reference.server import ReferenceServer, _errors_as_json
from orchestrator.reference.speech import EspeakSpeech
from orchestrator.services.failures import ServiceError
from orchestrator.services.http_clients import HttpAnswer, HttpIntent
from orchestrator.services.http_speech import HttpTextToSpeech
from orchestrator.services.ports import Answer, Intent, Request, SpeechChunk
from orchestrator.services.text_functions import whole_answer
from orchestrator.session.conversation import Line


@pytest.fixture
async def url(content: Content) -> AsyncIterator[str]:
    answers = FolderAnswers(content)
    async with ReferenceServer(answers.intents, answers, EspeakSpeech()) as server:
        yield server.base_url


async def test_hello_is_a_greeting_and_is_greeted(http: aiohttp.ClientSession, url: str) -> None:
    """The example of the target flow."""
    assert await HttpIntent(http, url).classify(Request("hello")) == Intent("greeting", 1000)
    assert await whole_answer(HttpAnswer(http, url), Request("hello")) == Answer("Hi! How can I help?")


async def test_a_conversation_as_long_as_can_be_is_accepted_and_ignored(http: aiohttp.ClientSession, url: str) -> None:
    """Forty lines of the longest words there are, each character of which JSON writes in twelve bytes."""
    so_far = tuple(Line(role, "🙂" * 8_000) for role in ("user", "agent") * 20)
    assert await whole_answer(HttpAnswer(http, url), Request("hello", conversation=so_far)) == Answer(
        "Hi! How can I help?"
    )


async def test_speech_arrives_with_its_words(http: aiohttp.ClientSession, url: str) -> None:
    """The clients prefer JSON lines, which carry them, each with a later time than the one before."""
    chunks = [chunk async for chunk in HttpTextToSpeech(http, url).synthesize(Request("Hi! How can I help?"))]
    words = [word for chunk in chunks for word in chunk.words]
    assert [word.text for word in words] == ["Hi!", "How", "can", "I", "help?"]
    assert all(word.at_ms < later.at_ms for word, later in pairwise(words))
    assert words[-1].at_ms < sum(chunk.duration_ms for chunk in chunks)
    assert all(chunk.duration_ms == 200 for chunk in chunks[:-1])


async def test_a_plain_request_gets_raw_sound(http: aiohttp.ClientSession, url: str) -> None:
    """What curl gets, with the text in the query as the contract allows."""
    async with http.post(f"{url}/stream?text=hello") as response:
        assert response.headers["X-Sample-Rate"] == "22050"
        assert response.headers["Content-Type"] == "audio/L16;rate=22050;channels=1"
        assert len(await response.read()) > 10_000


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/intent", b"", 400),
        ("/query", b"{", 400),
        ("/stream", b'{"text": 3}', 400),
        ("/query", b'{"text": "%s"}' % (b"a" * 8_001), 400),
        ("/query", b'{"text": "%s"}' % (b"a" * 5_000_000), 413),
        ("/nothing", b"{}", 404),
    ],
)
async def test_a_bad_question_is_refused_in_json(
    http: aiohttp.ClientSession, url: str, path: str, body: bytes, status: int
) -> None:
    """With a fitting status and an error that says what is expected."""
    async with http.post(url + path, data=body) as response:
        assert response.status == status
        assert (await response.json())["error"]


async def test_a_client_that_leaves_before_the_answer_is_no_error() -> None:
    """Between the close of the connection and the cancellation of the handler, aiohttp raises this on writing."""

    async def left(_: object) -> None:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    request = make_mocked_request("POST", "/stream")
    assert not (await _errors_as_json(request, left)).prepared


class _Broken:
    """Ports that cannot answer."""

    async def classify(self, request: Request) -> Intent:
        raise ServiceError("no intents today")

    async def answer(self, request: Request) -> Answer:
        raise ServiceError("no answers today")

    async def synthesize(self, request: Request) -> AsyncIterator[SpeechChunk]:
        if request.text == "halfway":
            yield SpeechChunk(bytes(6_400), 16_000)
        raise ServiceError("no voice today")


@pytest.mark.parametrize("text", ["at once", "halfway"])
async def test_the_words_of_a_failing_service_reach_the_client(http: aiohttp.ClientSession, text: str) -> None:
    """Whether it fails before the first chunk or after it."""
    broken = _Broken()
    async with ReferenceServer(broken, broken, broken) as server:
        with pytest.raises(ServiceError, match="no intents today"):
            await HttpIntent(http, server.base_url).classify(Request(text))
        with pytest.raises(ServiceError, match="no voice today"):
            async for _ in HttpTextToSpeech(http, server.base_url).synthesize(Request(text)):
                pass


async def test_a_client_that_goes_away_stops_the_work(http: aiohttp.ClientSession) -> None:
    """Through the server too, a cancelled question reaches whoever works on it."""

    class Slow(_Broken):
        asked, dropped = asyncio.Event(), asyncio.Event()

        async def answer(self, request: Request) -> Answer:
            self.asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.dropped.set()
            return Answer("never")

    slow = Slow()
    async with ReferenceServer(slow, slow, slow) as server:
        question = asyncio.create_task(whole_answer(HttpAnswer(http, server.base_url), Request("x")))
        await asyncio.wait_for(slow.asked.wait(), 2)
        question.cancel()
        await asyncio.wait_for(slow.dropped.wait(), 2)


async def test_a_server_that_stopped_listens_no_more(http: aiohttp.ClientSession) -> None:
    """Whoever asks it then is told so."""
    broken = _Broken()
    async with ReferenceServer(broken, broken, broken) as server:
        url = server.base_url
    with pytest.raises(ServiceError, match="cannot connect"):
        await whole_answer(HttpAnswer(http, url), Request("x"))


async def test_questions_share_a_connection(url: str) -> None:
    """Keep-alive: a new connection for each question would cost every turn a round trip."""
    opened = 0

    async def count(*_: object) -> None:
        nonlocal opened
        opened += 1

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(count)
    async with aiohttp.ClientSession(trace_configs=[trace]) as http:
        answers = HttpAnswer(http, url)
        for _ in range(30):
            await whole_answer(answers, Request("can you tell me when you close today"))
    assert opened == 1


async def test_an_answer_streams_to_a_client_that_takes_lines(http: aiohttp.ClientSession) -> None:
    """Others get the same as a whole; a failure in the middle is the last line."""

    class Streams(_Broken):
        async def stream(self, request: Request) -> AsyncGenerator[str | Answer, None]:
            yield "We are "
            yield "open."
            if request.text == "halfway":
                raise ServiceError("no words left")
            yield Answer("", ("a.md",))

    streams = Streams()
    async with ReferenceServer(streams, streams, streams) as server:
        answers = HttpAnswer(http, server.base_url)
        pieces = [piece async for piece in answers.stream(Request("x"))]
        assert pieces == ["We are ", "open.", Answer("", ("a.md",))]
        async with http.post(f"{server.base_url}/query", json={"text": "x"}) as response:
            assert await response.json() == {"answer": "We are open.", "sources": ["a.md"]}
        with pytest.raises(ServiceError, match="no words left"):
            await whole_answer(answers, Request("halfway"))
