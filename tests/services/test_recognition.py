"""Speech-to-text by pocketsphinx in its process: words, partials, many speakers, deaths, and a clean end."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
from service_peers import Say

from orchestrator import child_process
from orchestrator.reference.content import Content
from orchestrator.reference.sphinx import SphinxRecognition
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Recognizer, Transcript
from tests.services import robot_voice

FRAME_BYTES = 640  # 20 ms
SPOKEN = """
hello / hi there / what can you do / when are you open / what are your opening hours / where are you / stop / stop it
wait / goodbye / bye / thank you / thanks / yes / no / i want to change my order / i want to change my booking
i want to change / i would like to book a table / can i cancel my booking / how much is a coffee
do you have vegan food / is there parking / can i speak to a person / a table for two / never mind
"""
"""What is said here, of the phrases that the cafe expects."""
PHRASES = [phrase.strip() for phrase in SPOKEN.replace("\n", "/").split("/") if phrase.strip()]


@pytest.fixture
def say() -> Say:
    """Speech as a microphone would give it: 16 kHz mono s16le, with silence before and after."""

    async def with_silence(text: str) -> bytes:
        silence = bytes(16_000 * 2 * 3 // 10)
        return silence + await asyncio.to_thread(robot_voice.speak, text) + silence

    return with_silence


@pytest.fixture
async def recognition(content: Content) -> AsyncIterator[SphinxRecognition]:
    async with SphinxRecognition(content.phrases()) as service:
        yield service


class Listener:
    """A recogniser and what it said."""

    def __init__(self) -> None:
        self.partials: list[str] = []
        self.results: asyncio.Queue[Transcript | str] = asyncio.Queue()
        self._changed = asyncio.Event()
        self.recognizer: Recognizer

    @classmethod
    async def on(cls, service: SphinxRecognition) -> "Listener":
        listener = cls()
        listener.recognizer = await service.open(listener._take, listener.results.put_nowait)
        return listener

    def _take(self, transcript: Transcript) -> None:
        if transcript.is_final:
            self.results.put_nowait(transcript)
        else:
            self.partials.append(transcript.text)
            self._changed.set()

    async def partial(self, text: str) -> None:
        """Wait until this was understood so far."""
        async with asyncio.timeout(10):
            while text not in self.partials:
                self._changed.clear()
                await self._changed.wait()

    def hear(self, pcm: bytes) -> None:
        self.recognizer.start()
        for at in range(0, len(pcm), FRAME_BYTES):
            self.recognizer.feed(pcm[at : at + FRAME_BYTES])

    async def result(self) -> Transcript | str:
        return await asyncio.wait_for(self.results.get(), 10)

    async def text(self, pcm: bytes) -> str:
        self.hear(pcm)
        self.recognizer.finish()
        result = await self.result()
        assert isinstance(result, Transcript), result
        return result.text


async def test_what_people_say_here_is_understood(recognition: SphinxRecognition, say: Say) -> None:
    """Each phrase by a new speaker, so nothing was learned from the one before."""
    wrong = {}
    for phrase in PHRASES:
        listener = await Listener.on(recognition)
        if (heard := await listener.text(await say(phrase))) != phrase:
            wrong[phrase] = heard
        await listener.recognizer.close()
    assert wrong == {}


async def test_a_hesitation_does_not_hide_the_words_behind_it(recognition: SphinxRecognition, say: Say) -> None:
    """The interruption of the target flow."""
    listener = await Listener.on(recognition)
    assert (await listener.text(await say("mmm, i want to change my order"))).endswith("i want to change my order")


async def test_partials_grow_into_the_final(recognition: SphinxRecognition, say: Say) -> None:
    """They come while the person speaks, only when they changed, and none after the final."""
    listener = await Listener.on(recognition)
    assert await listener.text(await say("when are you open")) == "when are you open"
    # The sound came faster than life, so the partials after `finish` were held back: speak on without an end.
    listener.hear(await say("what are your opening hours"))
    await listener.partial("what are your opening hours")
    assert all(before != after for before, after in pairwise(listener.partials))
    listener.recognizer.finish()
    assert isinstance(await listener.result(), Transcript)


def test_an_utterance_is_complete_after_a_phrase_that_begins_no_other_one() -> None:
    """So nobody is cut off who is about to say on which day, or more than yes."""
    recognition = SphinxRecognition(["When are you open?", "when are you open on sunday", "yes", "where are you"])
    said = ["um, where are you", "when are you open on Sunday", "when are you open", "yes", "where are"]
    assert [recognition.completes(text) for text in said] == [True, True, False, False, False]
    assert not SphinxRecognition(["where are you"], mode="general").completes("where are you")


async def test_finishing_silence_gives_exactly_one_empty_final(recognition: SphinxRecognition) -> None:
    """Whoever waits for the final always gets it, with the time it took."""
    listener = await Listener.on(recognition)
    listener.recognizer.start()
    listener.recognizer.finish()
    listener.recognizer.finish()
    final = await listener.result()
    assert isinstance(final, Transcript)
    assert (final.text, final.is_final) == ("", True)
    assert final.elapsed_us > 0
    assert await listener.text(bytes(32_000)) == ""
    assert listener.results.empty()


async def test_a_cancelled_utterance_gives_nothing(recognition: SphinxRecognition, say: Say) -> None:
    """And the next one is clean: its final is its own."""
    listener = await Listener.on(recognition)
    listener.hear(await say("what are your opening hours"))
    listener.recognizer.cancel()
    listener.recognizer.finish()
    assert await listener.text(await say("stop")) == "stop"
    assert listener.results.empty()


async def test_each_of_several_utterances_gets_its_final(recognition: SphinxRecognition, say: Say) -> None:
    """The caller goes on speaking before the final of what they said before; what is cancelled costs no other final."""
    listener = await Listener.on(recognition)
    for phrase in ("hello", "goodbye"):
        listener.hear(await say(phrase))
        listener.recognizer.finish()
    listener.hear(await say("stop"))
    listener.recognizer.cancel()
    finals = [await listener.result() for _ in range(2)]
    assert [final.text for final in finals if isinstance(final, Transcript)] == ["hello", "goodbye"]
    assert await listener.text(await say("yes")) == "yes"
    assert listener.results.empty()


async def test_people_who_speak_at_once_do_not_mix(recognition: SphinxRecognition, say: Say) -> None:
    """One process serves every microphone: their frames interleave."""
    phrases = ["hello", "goodbye", "when are you open", "i want to change my order"]
    sounds = [await say(phrase) for phrase in phrases]
    listeners = [await Listener.on(recognition) for _ in phrases]
    for listener in listeners:
        listener.recognizer.start()
    for at in range(0, max(map(len, sounds)), FRAME_BYTES):
        for listener, sound in zip(listeners, sounds, strict=True):
            listener.recognizer.feed(sound[at : at + FRAME_BYTES])
    for listener in listeners:
        listener.recognizer.finish()
    assert [getattr(await listener.result(), "text", None) for listener in listeners] == phrases


async def test_one_speaker_too_many_is_told_and_the_others_go_on(
    content: Content, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit bounds memory; it is an error of that utterance alone."""
    monkeypatch.setattr("orchestrator.reference.sphinx.SPEAKERS_READY", 1)
    monkeypatch.setattr("orchestrator.reference.sphinx.SPEAKERS_LIMIT", 1)
    async with SphinxRecognition(content.phrases()) as service:
        first, second = await Listener.on(service), await Listener.on(service)
        first.hear(await say("hello"))
        second.hear(bytes(6_400))
        assert "too many people" in str(await second.result())
        first.recognizer.finish()
        assert getattr(await first.result(), "text", "") == "hello"
        assert await second.text(await say("hello")) == "hello"


async def test_the_death_of_the_process_is_reported_and_it_comes_back(recognition: SphinxRecognition, say: Say) -> None:
    """Only the open utterance is lost; who was silent does not hear of it."""
    speaking, silent = await Listener.on(recognition), await Listener.on(recognition)
    speaking.hear(bytes(6_400))
    process_id = recognition.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGKILL)
    assert "exit code -9" in str(await speaking.result())
    speaking.recognizer.feed(bytes(640))
    speaking.recognizer.finish()
    await _restarted(recognition, process_id)
    assert await speaking.text(await say("hello")) == "hello"
    assert silent.results.empty()


@pytest.mark.parametrize("caller_gives_up", [False, True])
async def test_a_process_that_hangs_is_replaced(
    recognition: SphinxRecognition, say: Say, monkeypatch: pytest.MonkeyPatch, caller_gives_up: bool
) -> None:
    """It gives no final. Also if the call has closed its recogniser by then, as it does after 5 seconds."""
    monkeypatch.setattr("orchestrator.reference.recognition._FINAL_WITHIN_S", 2.0)
    listener, process_id = await Listener.on(recognition), recognition.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGSTOP)
    listener.hear(await say("hello"))
    listener.recognizer.finish()
    if caller_gives_up:
        await listener.recognizer.close()
        listener = await Listener.on(recognition)
    else:
        assert "exit code -9" in str(await listener.result())
    await _restarted(recognition, process_id)
    assert await listener.text(await say("hello")) == "hello"


async def test_a_process_that_hangs_while_it_restarts_is_replaced(
    recognition: SphinxRecognition, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never gets ready; the next one has its usual time."""
    spawn_it, spawned = child_process.spawn, []

    async def spawn(module: str) -> asyncio.subprocess.Process:
        process = await spawn_it(module)
        spawned.append(process.pid)
        if len(spawned) == 1:
            os.kill(process.pid, signal.SIGSTOP)
        monkeypatch.setattr("orchestrator.reference.recognition._READY_WITHIN_S", 0.2 if len(spawned) == 1 else 30.0)
        return process

    monkeypatch.setattr(child_process, "spawn", spawn)
    process_id = recognition.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGKILL)
    await _restarted(recognition, process_id)
    await _restarted(recognition, spawned[0])
    assert await (await Listener.on(recognition)).text(await say("hello")) == "hello"


async def test_a_process_that_owes_no_final_is_not_watched(recognition: SphinxRecognition) -> None:
    """Neither while an utterance is open nor after its final: it may be silent for as long as the callers are."""
    listener = await Listener.on(recognition)
    listener.recognizer.start()
    assert recognition._hang_watch is None
    listener.recognizer.finish()
    assert recognition._hang_watch is not None
    await listener.result()
    assert recognition._hang_watch is None


async def _restarted(recognition: SphinxRecognition, process_id: int) -> None:
    """Wait until another process than this one runs. There is no event for a restart, only its effect."""
    async with asyncio.timeout(10):
        while recognition.process_id in (None, process_id):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_stopping_ends_the_process_and_may_be_repeated(content: Content) -> None:
    """By its process id; afterwards nothing can be opened."""
    service = SphinxRecognition(content.phrases())
    await service.start()
    process_id = service.process_id
    assert process_id is not None
    await service.stop()
    await service.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)
    with pytest.raises(ServiceError, match="not running"):
        await service.open(lambda _: None, lambda _: None)


async def test_no_orphan_stays_when_the_service_is_killed(tmp_path: Path) -> None:
    """The process ends when its stdin does, however the service died."""
    script = tmp_path / "program" / "service.py"
    script.parent.mkdir()
    script.write_text(
        "import asyncio\n"
        "from orchestrator.reference.sphinx import SphinxRecognition\n"
        "async def main():\n"
        "    service = SphinxRecognition(['hello'])\n"
        "    await service.start()\n"
        "    print(service.process_id, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    (tmp_path / "events.py").write_text("raise SystemExit('a file of the user was imported by mistake')\n")
    root = str(Path(__file__).parents[2])
    parent = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdout=subprocess.PIPE, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}
    )
    assert parent.stdout is not None
    process_id = int(await asyncio.wait_for(parent.stdout.readline(), 20))
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(5):
        # Another process's child cannot be awaited.
        while _is_running(process_id):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _is_running(process_id: int) -> bool:
    """A process that ended but was not collected yet (in a container without init) does not run."""
    status = Path(f"/proc/{process_id}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


async def test_words_that_nobody_can_pronounce_are_dropped_and_named(
    say: Say, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest of the phrase still works, and the log says what will never be heard."""
    with caplog.at_level(logging.WARNING):
        async with SphinxRecognition(["hello zorblax", "goodbye"]) as service:
            assert "zorblax" in caplog.text
            assert await (await Listener.on(service)).text(await say("hello")) == "hello"


async def test_a_phrase_list_accepts_its_phrases_and_nothing_else(say: Say) -> None:
    """The strict mode: numbers may be written in digits."""
    async with SphinxRecognition(["Turn left", "Take 21 steps.", "stop"], mode="phrases") as service:
        listener = await Listener.on(service)
        assert await listener.text(await say("take twenty one steps")) == "take twenty one steps"
        assert await listener.text(await say("turn left")) == "turn left"
        assert await listener.text(await say("stop")) == "stop"


def test_a_domain_without_phrases_is_refused() -> None:
    """It could understand nothing."""
    with pytest.raises(ValueError, match="needs phrases"):
        SphinxRecognition([])


async def test_a_process_that_cannot_start_is_a_service_error(content: Content) -> None:
    """start() says so instead of waiting for ever."""
    service = SphinxRecognition(content.phrases(), mode="nonsense")  # type: ignore[arg-type]
    service._configuration = b"\0" * 13  # a configuration that is no JSON
    with pytest.raises(ServiceError, match="before it was ready"):
        await service.start()
    assert service.process_id is None
