"""LiveSession: what one session has in this process. The successor of the `active_sessions` entry of target-flow.md."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from events.envelope import Event
from orchestrator.runtime.timers import Timers
from orchestrator.services.ports import SpeechChunk
from orchestrator.session.commands import MicrophoneSetting
from orchestrator.session.conversation import ConversationSoFar
from orchestrator.session.state import State

logger = logging.getLogger(__name__)

END_S = 5.0
"""How long something that was cancelled may take to wind up."""
CALL_FOLLOWS_S = 2.0
"""How long the call of a client that has come back is waited for; as long as a greeting waits for the voice."""


class PlaybackEnd(Protocol):
    """How a playback ended by itself."""

    @property
    def confirmed_by(self) -> Literal["client", "timer"]: ...
    @property
    def position_ms(self) -> int: ...


class Playback(Protocol):
    """One playback on a handler. Every method raises when the playback was stopped."""

    async def write(self, chunk: SpeechChunk) -> None: ...
    async def finish(self) -> PlaybackEnd: ...


class Handler(Protocol):
    """The media connection of a session (orchestrator/media/handler.py)."""

    handler_id: str

    def set_microphone(self, setting: MicrophoneSetting) -> None: ...
    def finish_utterance(self) -> None: ...
    def play(
        self, playback_id: str, on_started: Callable[[], None], on_progress: Callable[[int], None]
    ) -> Playback: ...
    def pause(self, playback_id: str) -> None: ...
    def resume(self, playback_id: str) -> None: ...
    def stop(self, playback_id: str) -> None: ...
    def client_confirmed(self, playback_id: str) -> None: ...
    async def close(self) -> None: ...


class Client(Protocol):
    """The control connection of a session (orchestrator/gateway/client.py)."""

    client_id: str

    def committed(self, event: Event, line: str | None) -> None:
        """An event of the session was committed; `line` is what it prints in the golden log."""

    async def show_reply(self, playback_id: str, text: str) -> None:
        """Show an answer as text; returns when it has left."""

    def clear_text(self) -> None: ...
    def warn(self, code: str, message: str) -> None:
        """Something is wrong, and the conversation goes on; a sentence for people."""

    async def close(self, reason: str) -> None:
        """The conversation is over: say so, and hang up."""

    async def send_away(self, reason: str, address: str = "") -> None:
        """The conversation goes on in another process, at that address if one is known: hang up so that the client
        comes back.
        """


class CurrentTask:
    """The one task group of a session: what is being done for the open turn, cancelled as one."""

    def __init__(self, session_id: str, epoch: int) -> None:
        self.name = f"{session_id}#{epoch}"
        self._stages: dict[str, asyncio.Task[None]] = {}

    def start(self, stage: str, work: Coroutine[Any, Any, None]) -> None:
        """Start one stage (intent, answer, or a playback id); its asyncio task is named by session, epoch and stage."""
        task = asyncio.create_task(work, name=f"{self.name}:{stage}")
        self._stages[stage] = task
        task.add_done_callback(lambda done: self._ended(stage, done))

    def _ended(self, stage: str, task: asyncio.Task[None]) -> None:
        if self._stages.get(stage) is task:  # else the stage runs anew
            del self._stages[stage]

    def cancel_stage(self, stage: str) -> None:
        """Cancel one stage, if it is still running."""
        if (task := self._stages.get(stage)) is not None:
            task.cancel()

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel all stages; returns those that still have to wind up."""
        stages = list(self._stages.values())
        for task in stages:
            task.cancel()
        return stages


@dataclass(slots=True, eq=False)
class LiveSession:
    """A session and everything of it that lives in this process."""

    session_id: str
    state: State
    timers: Timers
    conversation: ConversationSoFar = field(default_factory=ConversationSoFar)
    """What was said, as far as it is committed."""
    snapshot_version: int = 0
    """The version up to which there is a snapshot."""
    failures: int = 0
    """Inputs on which the reducer raised: bugs of ours."""
    current_task: CurrentTask | None = None
    closing: set[asyncio.Task[None]] = field(default_factory=set)
    """Work that must be awaited before the shard is given up: cancelled stages winding up, connections closing."""
    call_follows: bool = False
    """The user was in a call when the connection was lost; the client comes back first, and its call after it."""
    _client: Client | None = field(default=None, init=False)
    _handler: Handler | None = field(default=None, init=False)
    _somebody: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set for as long as there is a client or a handler."""
    _in_a_call: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set for as long as there is a handler."""

    @property
    def client(self) -> Client | None:
        """Who is connected; None while nobody is."""
        return self._client

    @client.setter
    def client(self, client: Client | None) -> None:
        self._client = client
        self._note_who_is_connected()

    @property
    def handler(self) -> Handler | None:
        """The media connection; None in a conversation in text."""
        return self._handler

    @handler.setter
    def handler(self, handler: Handler | None) -> None:
        self._handler = handler
        self._note_who_is_connected()

    def _note_who_is_connected(self) -> None:
        if self._client is None and self._handler is None:
            self._somebody.clear()
        else:
            self._somebody.set()
        if self._handler is None:
            self._in_a_call.clear()
        else:
            self._in_a_call.set()
            self.call_follows = False

    async def somebody_is_connected(self) -> None:
        """Return when there is a client or a handler: at once, or with the first that comes; but where a call follows
        its client, that is waited for a little.
        """
        while self._handler is None and (self._client is None or self.call_follows):
            if self._client is None:  # it may have left again before we were woken
                await self._somebody.wait()
                continue
            try:
                async with asyncio.timeout(CALL_FOLLOWS_S):
                    await self._in_a_call.wait()
            except TimeoutError:
                self.call_follows = False

    def task(self) -> CurrentTask:
        """The current task; a new one where there is none."""
        if self.current_task is None:
            self.current_task = CurrentTask(self.session_id, self.state.epoch)
        return self.current_task

    def cancel_task(self) -> None:
        """Cancel the current task. Starting the next never waits for the last to wind up."""
        if self.current_task is not None:
            for task in self.current_task.cancel():
                self.watch(task)
            self.current_task = None

    def watch(self, task: asyncio.Task[None]) -> None:
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)

    async def shut(self, reason: str) -> None:
        """The session has ended: end everything of it in this process, and wait for it. The log is not touched."""
        await self._end(self.client.close(reason) if self.client else None)

    async def wind_up(self) -> None:
        """As shut, but the session goes on under another owner: its client stays until it is sent there."""
        await self._end(None)

    async def send_away(self, reason: str, address: str) -> None:
        """Ask the client to come back: to the new owner, if its address is known."""
        if self.client:
            self._part(self.client.send_away(reason, address))
        await self._closed()

    def hush(self, reason: str) -> None:
        """Nothing more can be taken from this caller for now: hang up; whoever it is comes back by themselves."""
        for part in (
            self.handler.close() if self.handler else None,
            self.client.send_away(reason) if self.client else None,
        ):
            if part is not None:
                self._part(part)

    async def _end(self, farewell: Coroutine[Any, Any, None] | None) -> None:
        """Nothing that refuses to end, or breaks while ending, keeps the rest from it."""
        self.timers.cancel_all()
        self.cancel_task()
        for part in (self.handler.close() if self.handler else None, farewell):
            if part is not None:
                self._part(part)
        await self._closed()

    def _part(self, farewell: Coroutine[Any, Any, None]) -> None:
        self.watch(asyncio.create_task(_unbroken(self.session_id, farewell), name=f"{self.session_id}:farewell"))

    async def _closed(self) -> None:
        ending = self.closing - {asyncio.current_task()}
        if ending:
            _, stuck = await asyncio.wait(ending, timeout=END_S)
            for task in stuck:
                logger.error("%s does not end when it is cancelled; going on without it", task.get_name())


async def _unbroken(session_id: str, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        logger.exception("a connection of %s broke while it was closed", session_id)
