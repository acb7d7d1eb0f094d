"""Effects: what commands do. An effect changes no state and decides nothing; it reports back with an event."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from events.derived import CommandIssued
from events.envelope import Input
from events.inputs import IntentResolved, RagAnswered, ServiceFailed
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.speech import Say, speak
from orchestrator.services.ports import (
    AnswerPort,
    IntentPort,
    Line,
    Request,
    ServiceError,
    SpeechToTextPort,
    TextToSpeechPort,
)
from orchestrator.session import commands

logger = logging.getLogger(__name__)

Report = Callable[[Input], None]


@dataclass(frozen=True, slots=True)
class Services:
    """The four ports, filled."""

    intent: IntentPort
    answer: AnswerPort
    text_to_speech: TextToSpeechPort
    speech_to_text: SpeechToTextPort


class Effects:
    """Performs the commands of committed steps, in the order they were issued."""

    def __init__(self, services: Services, report: Report) -> None:
        self._services = services
        self._report = report

    def perform(self, live: LiveSession, issued: CommandIssued) -> None:
        """Start what the command wants; never waits."""
        match commands.read(issued):
            case commands.ClassifyIntent() as command:
                self._stage(live, issued, partial(self._classify, _request(issued, command.text)))
            case commands.AnswerQuestion() as command:
                so_far = _conversation(live, command.conversation_to)
                self._stage(live, issued, partial(self._answer, _request(issued, command.text, so_far)))
            case commands.Speak() | commands.PlayFiller() as command:
                self._stage(live, issued, partial(self._speak, live, command, _request(issued, command.text)))
            case commands.StartTimer(due_at_us=due_at_us):
                live.timers.start(issued, due_at_us)
            case commands.CancelTimer(command_id=command_id):
                live.timers.cancel(command_id)
            case commands.CloseSession(reason=reason):
                live.watch(asyncio.create_task(live.shut(reason), name=f"{live.session_id}:close"))
            case at_once:
                _cancel(live, at_once)
                _to_connections(live, at_once)

    def _stage(self, live: LiveSession, issued: CommandIssued, work: Callable[[Say], Awaitable[None]]) -> None:
        live.task().start(issued.target, self._guarded(issued, work))

    async def _guarded(self, issued: CommandIssued, work: Callable[[Say], Awaitable[None]]) -> None:
        """Whatever goes wrong in a stage is an event, so that the reducer knows; a cancelled stage says nothing."""
        say = self._saying(issued)
        try:
            await work(say)
        except ServiceError as failure:
            error = str(failure)
        except Exception as failure:
            logger.exception("%s of %s broke", issued.name, issued.session_id)
            error = f"{type(failure).__name__}: {failure}"
        else:
            return
        logger.warning("[%s] %s failed: %s", issued.session_id, issued.name, error)
        say(ServiceFailed, error=error[:500])

    def _saying(self, issued: CommandIssued) -> Say:
        """What a stage reports names its command, and for how long it has been at work."""
        started_ns = time.perf_counter_ns()

        def say(kind: type[Any], **fields: Any) -> None:
            elapsed_us = (time.perf_counter_ns() - started_ns) // 1000
            session_id, command_id = issued.session_id, issued.command_id
            self._report(kind(session_id=session_id, command_id=command_id, elapsed_us=elapsed_us, **fields))

        return say

    async def _classify(self, request: Request, say: Say) -> None:
        result = await self._services.intent.classify(request)
        say(IntentResolved, intent=result.intent, confidence_permille=result.confidence_permille)

    async def _answer(self, request: Request, say: Say) -> None:
        result = await self._services.answer.answer(request)
        say(RagAnswered, answer=result.answer, sources=result.sources)

    async def _speak(
        self, live: LiveSession, command: commands.Speak | commands.PlayFiller, request: Request, say: Say
    ) -> None:
        await speak(live, command, self._services.text_to_speech.synthesize(request), say)


def _request(issued: CommandIssued, text: str, so_far: tuple[Line, ...] = ()) -> Request:
    return Request(text, issued.session_id, issued.turn, issued.idempotency_key, so_far)


def _conversation(live: LiveSession, to: int) -> tuple[Line, ...]:
    """What was said before the question, up to that version of the session's log."""
    return tuple(Line(said.role, said.text) for said in live.conversation.until(to))


def _cancel(live: LiveSession, command: commands.Command) -> None:
    """Commands that end work of the current task."""
    match command:
        case commands.CancelTask():
            live.cancel_task()
        case commands.CancelStage(stage_name=stage):
            live.task().cancel_stage(stage)
        case commands.StopPlayback(playback_id=playback_id):
            live.task().cancel_stage(playback_id)


def _to_connections(live: LiveSession, command: commands.Command) -> None:
    """Commands that a handler or client carries out at once, where there is one."""
    match command, live.handler, live.client:
        case commands.SetMicrophone(setting=setting), handler, _ if handler is not None:
            handler.set_microphone(setting)
        case commands.FinishUtterance(), handler, _ if handler is not None:
            handler.finish_utterance()
        case commands.StopPlayback(playback_id=playback_id), handler, _ if handler is not None:
            handler.stop(playback_id)
        case commands.PausePlayback(playback_id=playback_id), handler, _ if handler is not None:
            handler.pause(playback_id)
        case commands.ResumePlayback(playback_id=playback_id), handler, _ if handler is not None:
            handler.resume(playback_id)
        case commands.ClearText(), _, client if client is not None:
            client.clear_text()
