"""Ports from the user's own functions and objects: what is accepted, what is refused, what failures become."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Annotated

import pytest

from orchestrator.app import Orchestrator
from orchestrator.reference.natural_speech import NaturalSpeech
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Answer, Intent, Request, SpeechChunk, SpokenWord, Transcript
from orchestrator.services.speech_functions import speech_to_text_port, text_to_speech_port
from orchestrator.services.text_functions import answer_port, intent_port, whole_answer
from orchestrator.settings import Settings


async def test_a_plain_function_of_the_text_is_an_answer_service() -> None:
    """The smallest thing a user can write."""

    def answer(text: str) -> str:
        return text.upper()

    assert await whole_answer(answer_port(answer), Request("hi")) == Answer("HI")


async def test_an_async_function_may_ask_for_the_whole_request() -> None:
    """For those who need the session, too."""

    async def classify(request: Request) -> Intent:
        return Intent(f"{request.session_id}:{request.text}", 500)

    assert await intent_port(classify).classify(Request("hi", session_id="s")) == Intent("s:hi", 500)


CHECKED = """
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nowhere import Answered
IMPORTS


async def answer(FIRST request: Request) -> Answered:
    return request.session_id


class Shop:
    async def answer(self, request: Request) -> Answered:
        return request.session_id
"""


async def test_an_annotated_request_is_a_request() -> None:
    async def answer(request: Annotated[Request, "of the caller"]) -> str:
        return request.session_id

    assert await whole_answer(answer_port(answer), Request("hi", session_id="s")) == Answer("s")


@pytest.mark.parametrize("imports", ["from orchestrator import Request", "    from orchestrator import Request"])
@pytest.mark.parametrize("how", ["answer", "partial(answer, 7)", "Shop().answer"])
async def test_a_function_of_a_request_gets_one_whatever_type_checkers_import(imports: str, how: str) -> None:
    """Linters move what only annotations need under TYPE_CHECKING; a partial has the annotations of its function."""
    names: dict[str, object] = {}
    exec(CHECKED.replace("IMPORTS", imports).replace("FIRST", "table," if "7" in how else ""), names)
    port = answer_port(eval(how, names))
    assert await whole_answer(port, Request("hi", session_id="s")) == Answer("s")


async def test_callables_of_all_kinds_are_functions() -> None:
    """Lambdas, partials, bound methods and objects with __call__."""

    class Sync:
        def __call__(self, request: Request) -> str:
            return request.text

        def method(self, text: str) -> str:
            return text

    class Async:
        async def __call__(self, text: str) -> str:
            return text

    for thing in (lambda text: text, partial(max, "a"), Sync(), Sync().method, Async()):
        assert await whole_answer(answer_port(thing), Request("hi")) == Answer("hi")


async def test_an_object_with_the_method_of_the_port_is_taken_as_it_is() -> None:
    """Whoever writes a port gets no wrapper around it."""

    class Mine:
        async def stream(self, request: Request) -> AsyncIterator[str]:
            yield request.text

    mine = Mine()
    assert answer_port(mine) is mine


async def test_an_answer_may_come_in_pieces() -> None:
    """From a generator, async or sync, or from a function that returns one; the last piece may name the sources."""

    async def pieces(request: Request) -> AsyncIterator[str | Answer]:
        yield "We are"
        yield " open."
        yield Answer("", ("visiting.md",))

    def sync(text: str) -> Iterator[str]:
        yield from ("We are", " open.")

    async def returns(text: str) -> Iterator[str]:
        return sync(text)

    class Port:
        async def answer(self, request: Request) -> AsyncIterator[str]:
            assert isinstance(request, Request), "the method of a port gets the request"
            yield "We are open."

    assert await whole_answer(answer_port(pieces), Request("hi")) == Answer("We are open.", ("visiting.md",))
    for thing in (sync, returns, Port()):
        assert await whole_answer(answer_port(thing), Request("hi")) == Answer("We are open.")


async def test_pieces_that_are_no_text_are_refused() -> None:
    async def answer(text: str) -> AsyncIterator[int]:
        yield 7

    with pytest.raises(ServiceError, match="returned int; expected pieces of a text, or an Answer"):
        await whole_answer(answer_port(answer), Request("hi"))


async def test_a_generator_that_raises_has_failed_and_one_that_is_closed_is_closed() -> None:
    ended: list[str] = []

    async def answer(text: str) -> AsyncIterator[str]:
        try:
            yield "We are"
            raise ValueError("no more")
        finally:
            ended.append("ended")

    with pytest.raises(ServiceError, match="raised ValueError: no more"):
        await whole_answer(answer_port(answer), Request("hi"))
    async with aclosing(answer_port(answer).stream(Request("hi"))) as stream:
        await anext(stream)
    assert ended == ["ended"] * 2


async def test_a_generator_is_closed_in_the_context_in_which_it_ran(caplog: pytest.LogCaptureFixture) -> None:
    """What it holds around a `yield` may be bound to its task: a span of a trace, a variable of its context."""
    spoken_by: ContextVar[str] = ContextVar("spoken_by")
    ended: list[str] = []

    async def answer(text: str) -> AsyncIterator[str]:
        token = spoken_by.set("the agent")
        try:
            yield "We are"
        finally:
            spoken_by.reset(token)
            ended.append("ended")

    async with aclosing(answer_port(answer).stream(Request("hi"))) as stream:
        await anext(stream)
    assert ended == ["ended"]
    assert not caplog.records


async def test_a_generator_that_does_not_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In words, with the name of the function."""
    monkeypatch.setattr("orchestrator.services.generators.END_S", 0.01)

    async def answer(text: str) -> AsyncIterator[str]:
        try:
            yield "We are"
        finally:
            await asyncio.Event().wait()

    async with aclosing(answer_port(answer).stream(Request("hi"))) as stream:
        await anext(stream)
    assert "answer did not end within 0.01 s" in caplog.text


async def test_a_generator_whose_end_is_cancelled_from_within_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """The answer was complete: it has not failed."""

    async def answer(text: str) -> AsyncIterator[str]:
        try:
            yield "We are"
        finally:
            raise asyncio.CancelledError

    async with aclosing(answer_port(answer).stream(Request("hi"))) as stream:
        await anext(stream)
    assert "answer broke while it was ended" in caplog.text


def unwritable() -> None:
    raise ValueError


def surrogate() -> None:
    raise KeyError("half \ud83d")


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        ("x" * 8_001, "the answer has 8001 characters; at most 8000 are allowed"),
        (None, "returned NoneType; expected a text or an Answer"),
        (7, "returned int"),
        (unwritable, "raised ValueError"),
        (surrogate, "raised KeyError: 'half �'|raised KeyError: 'half"),
    ],
)
async def test_what_a_function_must_not_return_is_refused_by_its_name(
    result: object, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An event could not carry it. What it raised by mistake is logged with its traceback."""

    def answer(text: str) -> object:
        return result() if callable(result) else result

    with pytest.raises(ServiceError, match=problem) as refused:
        await whole_answer(answer_port(answer), Request("hi"))
    assert "answer" in str(refused.value)
    assert not str(refused.value).rstrip().endswith(":")
    str(refused.value).encode()
    assert ("Traceback" in caplog.text) == callable(result)


async def test_half_a_character_is_replaced_wherever_a_service_says_something() -> None:
    """A lone surrogate, as a text cut in the middle of an emoji has it; a whole one stays."""
    half, whole = "a\ud83d", "a\ud83d\ude42"
    assert await whole_answer(answer_port(lambda text: half), Request("hi")) == Answer("a�")
    assert Answer(whole, (half,)) == Answer("a🙂", ("a�",))
    assert await intent_port(lambda text: half).classify(Request("hi")) == Intent("a�", 1000)
    assert Transcript(half, is_final=True).text == "a�"
    assert SpokenWord(half, 0).text == "a�"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Answer("x" * 9_000), "the answer has 9000 characters"),
        (lambda: Answer(None), "the answer is nothing; expected a text"),
        (lambda: Answer("x", "name"), "the sources are of type str"),
        (lambda: Intent("x" * 501), "the intent has 501 characters"),
        (lambda: Intent("x", 2_000), "the confidence is 2000 permille"),
        (lambda: Intent("x", float("nan")), "the confidence in permille is nan"),
        (lambda: SpokenWord("x", float("inf")), "the time of the word 'x' is inf"),
        (lambda: SpokenWord("x", None), "the time of the word 'x' is None"),
        (lambda: SpeechChunk(b"ab", 0), "the sample rate of the speech is 0"),
        (lambda: SpeechChunk("ab", 16_000), "of type str"),
        (lambda: Transcript(None, is_final=True), "the transcript is nothing"),
    ],
)
def test_a_port_object_cannot_say_what_no_event_can_carry(make: Callable[[], object], problem: str) -> None:
    """It is refused where it is made, so that the traceback names the line that made it."""
    with pytest.raises(ServiceError, match=problem):
        make()


def test_an_answer_from_a_document_names_fifty_sources_at_most_and_a_transcript_is_cut() -> None:
    """What is beyond a bound is left out; the answer is still spoken."""
    assert len(Answer("x", ("y" * 600,) * 60).sources) == 50
    assert Answer("x", ("y" * 600,)).sources == ("y" * 500,)
    assert len(Transcript("x" * 9_000, is_final=True).text) == 8_000
    assert SpokenWord("x", 12.6).at_ms == 13


@pytest.mark.parametrize("thing", [None, 3, "answer", str, lambda: "x", lambda a, b: "x", object()])
def test_what_cannot_be_a_service_is_refused_when_it_is_wired(thing: object) -> None:
    """A TypeError at the start, that says what would be right, rather than a failed call at noon."""
    for make in (intent_port, answer_port, text_to_speech_port, speech_to_text_port):
        with pytest.raises(TypeError, match=r"cannot be .* service"):
            make(thing)


@pytest.mark.parametrize("error", [ValueError("boom"), StopIteration("boom"), TimeoutError("boom")])
async def test_whatever_a_function_raises_is_a_service_error(error: Exception) -> None:
    """Also StopIteration, which a future cannot carry."""

    def sync(_: str) -> str:
        raise error

    async def asynchronous(_: str) -> str:
        raise error

    with pytest.raises(ServiceError, match=r"sync raised .*boom"):
        await asyncio.wait_for(whole_answer(answer_port(sync), Request("x")), 2)
    with pytest.raises(ServiceError, match="asynchronous raised "):
        await asyncio.wait_for(intent_port(asynchronous).classify(Request("x")), 2)


async def test_a_result_of_the_wrong_kind_is_a_service_error() -> None:
    """A forgotten return is the usual one."""
    with pytest.raises(ServiceError, match="returned NoneType"):
        await whole_answer(answer_port(lambda text: None), Request("x"))
    with pytest.raises(ServiceError, match="returned int"):
        await intent_port(lambda text: 3).classify(Request("x"))


async def test_a_sync_function_never_blocks_the_loop() -> None:
    """It runs in a thread, while the loop turns."""
    release = threading.Event()

    def slow(text: str) -> str:
        assert release.wait(2)
        return text

    asked = asyncio.create_task(whole_answer(answer_port(slow), Request("x")))
    await asyncio.sleep(0)
    release.set()  # reached only because the loop turns
    assert await asked == Answer("x")


async def test_cancellation_passes_through_an_async_function() -> None:
    """Our cancellation stops the user's work at once and stays a cancellation."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def slow(_: str) -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    asked = asyncio.create_task(whole_answer(answer_port(slow), Request("x")))
    await began.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert ended.is_set()


async def test_a_function_that_was_cancelled_from_within_has_failed() -> None:
    """Nobody cancelled the turn, so the turn must hear of a failure."""

    async def broken(_: str) -> str:
        raise asyncio.CancelledError

    with pytest.raises(ServiceError, match="cancelled from within"):
        await whole_answer(answer_port(broken), Request("x"))


def pcm(text: str) -> bytes:
    return b"\1\0" * 16_000


def pcm_pieces(text: str) -> Iterator[bytes]:
    yield from [b"\1", b"\0" + b"\1\0" * 15_999]


async def pcm_async(text: str) -> bytes:
    return pcm(text)


async def pcm_async_pieces(request: Request) -> AsyncIterator[bytes]:
    for piece in pcm_pieces(request.text):
        yield piece


@pytest.mark.parametrize("function", [pcm, pcm_pieces, pcm_async, pcm_async_pieces])
async def test_a_speaking_function_may_return_or_yield_sync_or_async(function: object) -> None:
    """All four come out as chunks of 200 ms."""
    port = text_to_speech_port(function, sample_rate_hz=16_000)
    chunks = [chunk async for chunk in port.synthesize(Request("x"))]
    assert [chunk.duration_ms for chunk in chunks] == [200] * 5
    assert b"".join(chunk.pcm for chunk in chunks) == pcm("x")


async def test_chunks_of_a_speaking_function_pass_as_they_are() -> None:
    """A function that knows its words keeps them."""
    mine = SpeechChunk(b"\0\0", 8_000)
    port = text_to_speech_port(lambda text: mine)
    assert [chunk async for chunk in port.synthesize(Request("x"))] == [mine]


async def test_a_speaking_function_that_fails_halfway_is_a_service_error() -> None:
    """After the sound that it made."""

    def broken(text: str) -> Iterator[bytes]:
        yield b"\0\0" * 8_000
        raise ValueError("boom")

    heard: list[int] = []

    async def listen() -> None:
        async for chunk in text_to_speech_port(broken, sample_rate_hz=16_000).synthesize(Request("x")):
            heard.append(chunk.duration_ms)  # noqa: PERF401 - what was heard before the failure counts

    with pytest.raises(ServiceError, match="broken raised ValueError: boom"):
        await listen()
    assert heard == [200, 200]


@pytest.mark.parametrize("result", [None, "text", 3, ["text"]])
async def test_speech_that_is_no_sound_is_a_service_error(result: object) -> None:
    """A text is iterable, and still no sound."""
    with pytest.raises(ServiceError, match="expected bytes"):
        async for _ in text_to_speech_port(lambda text: result).synthesize(Request("x")):
            pass


async def test_a_listener_who_stops_closes_the_users_generator() -> None:
    """Also a sync one that is busy: it is closed when its step ends, and nobody waits for that."""
    closed, step = threading.Event(), threading.Event()

    def endless(text: str) -> Iterator[bytes]:
        try:
            yield b"\0\0" * 16_000
            step.wait(2)
            yield b"\0\0" * 16_000
        finally:
            closed.set()

    async def listen(heard: asyncio.Event) -> None:
        async with aclosing(text_to_speech_port(endless, sample_rate_hz=16_000).synthesize(Request("x"))) as chunks:  # type: ignore[type-var]
            async for _ in chunks:
                heard.set()

    heard = asyncio.Event()
    listener = asyncio.create_task(listen(heard))
    await heard.wait()
    await asyncio.sleep(0.01)  # into the second step
    listener.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listener
    step.set()
    assert await asyncio.to_thread(closed.wait, 2)


async def test_a_sync_function_that_exits_is_a_failure_and_not_silence() -> None:
    """sys.exit in a thread would end the thread alone, and the caller would wait until the deadline."""
    with pytest.raises(ServiceError, match="SystemExit"):
        await whole_answer(answer_port(lambda text: sys.exit(3)), Request("hi"))


HANGS = """
import asyncio, threading
from orchestrator.services.ports import Request
from orchestrator.services.text_functions import answer_port, whole_answer

hung = threading.Semaphore(0)

def hangs(text):
    hung.release()
    threading.Event().wait()

async def main():
    port = answer_port(hangs)
    calls = [asyncio.create_task(whole_answer(port, Request("hi"))) for _ in range(40)]
    for _ in calls:
        while not hung.acquire(blocking=False):
            await asyncio.sleep(0.001)
    for call in calls:
        call.cancel()

asyncio.run(main())
print("ended")
"""


async def test_sync_functions_that_hang_keep_neither_each_other_nor_the_exit() -> None:
    """A pool of threads would run as many as there are threads, and be joined when the process ends."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", HANGS, stdout=subprocess.PIPE)
    async with asyncio.timeout(30):
        said, _ = await process.communicate()
    assert (said, process.returncode) == (b"ended\n", 0)


async def test_a_function_of_a_recording_is_a_speech_to_text_service() -> None:
    """One final per finish, of exactly the sound between start and finish."""
    heard: asyncio.Queue[Transcript] = asyncio.Queue()
    recognizer = await speech_to_text_port(lambda sound: f"{len(sound)} bytes").open(heard.put_nowait, pytest.fail)
    recognizer.feed(b"before the start")
    recognizer.start()
    recognizer.feed(bytes(640))
    recognizer.feed(bytes(640))
    recognizer.finish()
    recognizer.finish()
    final = await asyncio.wait_for(heard.get(), 2)
    assert (final.text, final.is_final) == ("1280 bytes", True)
    assert heard.empty()
    await recognizer.close()


async def test_each_of_several_utterances_gets_its_final_in_the_order_of_speech() -> None:
    """The caller goes on speaking while the function still transcribes what they said before."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    first_may_end = asyncio.Event()

    async def transcribe(sound: bytes) -> str:
        if len(sound) == 1:
            await first_may_end.wait()
        return f"{len(sound)} bytes"

    recognizer = await speech_to_text_port(transcribe).open(lambda final: heard.put_nowait(final.text), pytest.fail)
    for length in (1, 2):
        recognizer.start()
        recognizer.feed(bytes(length))
        recognizer.finish()
    recognizer.start()
    recognizer.feed(bytes(3))
    recognizer.cancel()
    first_may_end.set()
    assert [await asyncio.wait_for(heard.get(), 2) for _ in range(2)] == ["1 bytes", "2 bytes"]
    assert heard.empty()
    await recognizer.close()


async def test_a_cancelled_recording_gives_no_result() -> None:
    """Also when it is being written down already."""
    heard: list[Transcript] = []

    async def slow(_: bytes) -> str:
        await asyncio.sleep(0)
        return "late"

    recognizer = await speech_to_text_port(slow).open(heard.append, pytest.fail)
    recognizer.start()
    recognizer.finish()
    recognizer.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert heard == []


async def test_a_recording_that_cannot_be_written_down_is_reported() -> None:
    """By on_error, in words."""
    errors: asyncio.Queue[str] = asyncio.Queue()
    recognizer = await speech_to_text_port(lambda sound: 1 / 0).open(lambda _: None, errors.put_nowait)
    recognizer.start()
    recognizer.finish()
    assert "ZeroDivisionError" in await asyncio.wait_for(errors.get(), 2)


async def test_with_a_voice_of_ones_own_no_other_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the reference services answer: it takes time and memory, and may not be installed."""

    async def loaded(_: NaturalSpeech) -> None:
        raise ServiceError("hibari-tts is not installed")

    monkeypatch.setattr(NaturalSpeech, "start", loaded)
    async with Orchestrator(Settings(port=0, data_dir=tmp_path), text_to_speech=pcm) as service:
        assert service.url
    with pytest.raises(ServiceError, match="is not installed"):
        await Orchestrator(Settings(port=0, data_dir=tmp_path)).__aenter__()


def test_time_is_not_wasted_on_imports() -> None:
    """Functions need no recogniser and no engine: nothing of them is loaded for a port of the user's."""
    code = (
        "import sys; from orchestrator.services.text_functions import answer_port; answer_port(lambda text: text);"
        "print([name for name in sys.modules if 'reference' in name or 'onnx' in name or 'hibari' in name])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
