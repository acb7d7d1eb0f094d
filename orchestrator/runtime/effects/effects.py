"""Carries out commands. An effect changes no state and decides nothing; it reports its result as an event."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from events.derived import CommandIssued
from events.envelope import Input
from events.inputs import IntentResolved, ServiceFailed
from orchestrator.runtime.effects.answering import answer
from orchestrator.runtime.effects.script import Script
from orchestrator.runtime.effects.speech import Say, speak
from orchestrator.runtime.effects.tool_calls import QuestionJournal
from orchestrator.runtime.live_session import LiveSession
from orchestrator.safe_text import named_error, safe_error
from orchestrator.services.failures import ListenerGone, ServiceError, is_cancelled
from orchestrator.services.ports import (
    AnswerPort,
    Attempt,
    IntentPort,
    Request,
    SpeechChunk,
    SpeechToTextPort,
    TextToSpeechPort,
)
from orchestrator.session import commands

logger = logging.getLogger(__name__)

Report = Callable[[Input], None]


@dataclass(frozen=True, slots=True)
class Services:
    """The four services that a node calls. Each is an object that implements a protocol of services/ports.py."""

    intent: IntentPort
    answer: AnswerPort
    text_to_speech: TextToSpeechPort
    speech_to_text: SpeechToTextPort


class Effects:
    """Carries out the commands of committed steps, in the order in which the commands were issued."""

    def __init__(self, services: Services, report: Report) -> None:
        self._services = services
        self._report = report

    def perform(self, live: LiveSession, issued: CommandIssued) -> None:
        """Start the effect of a command; never waits."""
        match commands.read(issued):
            case commands.ClassifyIntent() as command:
                self._stage(live, issued, partial(self._classify, _request(issued, command.text)))
            case commands.AnswerQuestion() as command:
                self._stage(live, issued, partial(self._answer, live, command, issued))
            case commands.RunTool() as command:
                live.tools.start(command, issued.idempotency_key, self._saying(issued))
            case commands.Speak() as command:
                script = Script(command.text, command.index, is_complete=not command.is_open)
                live.scripts[command.playback_id] = script
                self._stage(live, issued, partial(self._speak, live, command, script, issued))
            case commands.SpeakMore() as command:
                _speak_on(live, command)
            case commands.PlayFiller() as command:
                self._stage(live, issued, partial(self._speak, live, command, Script(command.text), issued))
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
        """Do the work of a stage. If it fails, report SERVICE_FAILED.

        A cancelled stage reports nothing. A stage that raises ListenerGone reports nothing either: the client or the
        handler is gone, and another event reports that.
        """
        say = self._saying(issued)
        try:
            await work(say)
        except ListenerGone as gone:
            logger.info("[%s] %s was cut off (%s)", issued.session_id, issued.name, gone)
            return
        except ServiceError as failure:
            logger.warning("[%s] %s failed: %s", issued.session_id, issued.name, failure)
            say(ServiceFailed, error=safe_error(failure))
        except (asyncio.CancelledError, Exception) as failure:
            if is_cancelled(failure):
                raise
            logger.exception("[%s] %s failed", issued.session_id, issued.name)
            say(ServiceFailed, error=named_error(failure))

    def _saying(self, issued: CommandIssued) -> Say:
        """Return a function that reports an event of a command. It adds the session id, the command id, and the time
        since the command was started.
        """
        started_ns = time.perf_counter_ns()

        def say(kind: type[Any], **fields: Any) -> None:
            elapsed_us = (time.perf_counter_ns() - started_ns) // 1000
            session_id, command_id = issued.session_id, issued.command_id
            self._report(kind(session_id=session_id, command_id=command_id, elapsed_us=elapsed_us, **fields))

        return say

    async def _classify(self, request: Request, say: Say) -> None:
        result = await self._services.intent.classify(request)
        say(IntentResolved, intent=result.intent, confidence_permille=result.confidence_permille)

    def _answer(
        self, live: LiveSession, command: commands.AnswerQuestion, issued: CommandIssued, say: Say
    ) -> Awaitable[None]:
        attempt = Attempt(live.state.texts, journal=QuestionJournal(live, issued, say))
        so_far = live.conversation.until(command.conversation_to)  # the lines before the question
        key, turn = issued.idempotency_key, issued.turn
        request = Request(command.text, issued.session_id, turn, key, so_far, attempt)
        return answer(self._services.answer.stream(request), attempt, live.state.policy.answering.language, say)

    async def _speak(
        self,
        live: LiveSession,
        command: commands.Speak | commands.PlayFiller,
        script: Script,
        issued: CommandIssued,
        say: Say,
    ) -> None:
        def synthesize(index: int, text: str) -> AsyncGenerator[SpeechChunk, None]:
            request = _request(issued, text)
            if index:  # each text of an answer is a separate request to the synthesiser, with its own key
                request = replace(request, idempotency_key=f"{request.idempotency_key}/{index}")
            return self._services.text_to_speech.synthesize(request)

        try:
            await speak(live, command, script, synthesize, say)
        finally:
            if live.scripts.get(command.playback_id) is script:
                del live.scripts[command.playback_id]


def _speak_on(live: LiveSession, command: commands.SpeakMore) -> None:
    """Add a text to the running playback that the command names. Does nothing if that playback has ended."""
    if (script := live.scripts.get(command.playback_id)) is not None:
        script.add(command.index, command.text, is_last=command.is_last)


def _request(issued: CommandIssued, text: str) -> Request:
    return Request(text, issued.session_id, issued.turn, issued.idempotency_key)


def _cancel(live: LiveSession, command: commands.Command) -> None:
    """Carry out a command that cancels the current task, a stage, a tool call or a playback. Ignore other commands."""
    match command:
        case commands.CancelTask():
            live.cancel_task()
        case commands.CancelStage(stage_name=stage):
            live.task().cancel_stage(stage)
            live.tools.cancel(stage)
        case commands.StopPlayback(playback_id=playback_id):
            live.task().cancel_stage(playback_id)


def _to_connections(live: LiveSession, command: commands.Command) -> None:
    """Pass a command for the handler or the client to that connection, if it exists. Ignore other commands."""
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
