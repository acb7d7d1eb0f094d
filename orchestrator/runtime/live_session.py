"""LiveSession: state, timers, running tasks, client and media connection of one session in this process."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from events.envelope import Event
from orchestrator.grant import EVERYTHING, Grant
from orchestrator.runtime.effects.script import Script
from orchestrator.runtime.effects.timers import Timers
from orchestrator.runtime.effects.tool_calls import ToolCalls
from orchestrator.services.ports import SpeechChunk
from orchestrator.session.commands import MicrophoneSetting
from orchestrator.session.conversation import ConversationSoFar
from orchestrator.session.lifecycle import CALL_FOLLOWS_MS
from orchestrator.session.state import State

logger = logging.getLogger(__name__)

END_S = 5.0
"""How long a cancelled task may take to end."""
CALL_FOLLOWS_S = CALL_FOLLOWS_MS / 1000
"""How long to wait for a lost media connection to return, after the loss or after its client has reconnected."""


class PlaybackEnd(Protocol):
    """The end of a playback that nobody stopped: who confirmed the end, and the position reached."""

    @property
    def confirmed_by(self) -> Literal["client", "timer"]: ...
    @property
    def position_ms(self) -> int: ...


class Playback(Protocol):
    """One playback on a handler. Every method raises ListenerGone when the playback was stopped."""

    async def write(self, chunk: SpeechChunk) -> None: ...
    async def finish(self) -> PlaybackEnd: ...


class Handler(Protocol):
    """The media connection of a session (orchestrator/media/handler.py)."""

    handler_id: str

    @property
    def unheard_ms(self) -> int:
        """How long the caller has not heard the agent; 0: the connection is alive."""

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
        """Tell the client about a committed event of the session; `line`: its line in the golden log, None if none."""

    async def show_reply(self, playback_id: str, text: str) -> None:
        """Show an answer as text; returns when it is sent. Raises ListenerGone when it cannot be sent."""

    def clear_text(self) -> None: ...
    def warn(self, code: str, message: str) -> None:
        """Show a warning for people to read; the conversation goes on."""

    async def close(self, reason: str) -> None:
        """Tell the client that the conversation is over, and disconnect."""

    async def send_away(self, reason: str, address: str = "") -> None:
        """Disconnect so that the client reconnects: the conversation goes on in another process, at `address` if it is
        known.
        """


class CurrentTask:
    """The task group of a session: all work for the open turn, cancelled as a whole."""

    def __init__(self, session_id: str, epoch: int) -> None:
        self.name = f"{session_id}#{epoch}"
        self._stages: dict[str, asyncio.Task[None]] = {}

    def start(self, stage: str, work: Coroutine[Any, Any, None]) -> None:
        """Start one stage (intent, answer, or a playback id) and cancel an earlier attempt at it. Its asyncio task is
        named by session, epoch and stage.
        """
        self.cancel_stage(stage)
        task = asyncio.create_task(work, name=f"{self.name}:{stage}")
        self._stages[stage] = task
        task.add_done_callback(lambda done: self._ended(stage, done))

    def _ended(self, stage: str, task: asyncio.Task[None]) -> None:
        if self._stages.get(stage) is task:  # else a new attempt runs
            del self._stages[stage]

    def cancel_stage(self, stage: str) -> None:
        """Cancel one stage of the current task, such as "intent", if it is still running."""
        if (task := self._stages.get(stage)) is not None:
            task.cancel()

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel all stages; returns their tasks, which still have to end."""
        stages = list(self._stages.values())
        for task in stages:
            task.cancel()
        return stages


@dataclass(slots=True, eq=False)
class LiveSession:
    """A session with its state, timers, tasks and connections in this process."""

    session_id: str
    state: State
    timers: Timers
    conversation: ConversationSoFar = field(default_factory=ConversationSoFar)
    """The conversation, as far as it is committed."""
    open: Callable[[], None] | None = None
    """Opens a promised session (a client has its id, but it has no log yet) by reporting SESSION_OPENED. None: the
    session is open already.
    """
    grant: Grant = EVERYTHING
    """What the session's client may do. After a takeover, the resume token of the client contains the grant."""
    snapshot_version: int = 0
    """Version of the last snapshot."""
    failures: int = 0
    """How many inputs made the reducer raise, because of a bug."""
    current_task: CurrentTask | None = None
    closing: set[asyncio.Task[None]] = field(default_factory=set)
    """Tasks to await before the shard is given up: cancelled stages that are ending, connections that are closing."""
    tools: ToolCalls = field(init=False)
    """Runs the tool calls of the session's agent."""
    scripts: dict[str, Script] = field(default_factory=dict)
    """Playback id → the texts that this playback speaks."""
    call_follows: bool = False
    """Whether the handler was lost and may return. The client's control connection may return some seconds earlier."""
    _client: Client | None = field(default=None, init=False)
    _handler: Handler | None = field(default=None, init=False)
    _connections: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set whenever a client or a handler connects or disconnects."""
    _changed_s: float = field(default=0.0, init=False)
    """When a client or a handler last connected or disconnected, by the clock of the event loop."""

    def __post_init__(self) -> None:
        self.tools = ToolCalls(self.session_id)

    @property
    def client(self) -> Client | None:
        """The connected client; None while there is none."""
        return self._client

    @client.setter
    def client(self, client: Client | None) -> None:
        self._client = client
        self._note_a_change()

    @property
    def handler(self) -> Handler | None:
        """The media connection; None in a conversation in text."""
        return self._handler

    @handler.setter
    def handler(self, handler: Handler | None) -> None:
        self.call_follows = handler is None and (self.call_follows or self._handler is not None)
        self._handler = handler
        self._note_a_change()

    def _note_a_change(self) -> None:
        self._changed_s = asyncio.get_running_loop().time()
        self._connections.set()

    async def somebody_is_connected(self, gone: Client | None = None) -> None:
        """Wait until a handler is connected, or a client other than `gone`. For CALL_FOLLOWS_S after the session lost
        its handler, a client is not enough: its call may come back, and then the answer is spoken and not shown.
        """
        while self._handler is None:
            wait_s = None
            if self._client not in (None, gone):
                left_s = self._changed_s + CALL_FOLLOWS_S - asyncio.get_running_loop().time()
                wait_s = left_s if self.call_follows else 0.0
                if wait_s <= 0:
                    self.call_follows = False
                    return
            self._connections.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._connections.wait()

    def task(self) -> CurrentTask:
        """The current task; makes a new one if there is none."""
        if self.current_task is None:
            self.current_task = CurrentTask(self.session_id, self.state.epoch)
        return self.current_task

    def cancel_task(self) -> None:
        """Cancel the current task. The next task never waits for the cancelled one to end."""
        if self.current_task is not None:
            for task in self.current_task.cancel():
                self.watch(task)
            self.current_task = None

    def watch(self, task: asyncio.Task[None]) -> None:
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)

    async def shut(self, reason: str) -> None:
        """End all tasks and connections of an ended session in this process, and wait for them. The session's log stays
        in Redis. Tool calls run to their end, but their results are not recorded.
        """
        for task in self.tools.running:
            logger.warning("%s still runs, and its session has ended: its result will not be recorded", task.get_name())
        await self._end(self.client.close(reason) if self.client else None)

    async def wind_up(self) -> None:
        """End the tasks and the handler of a session that goes on under another owner, and wait for them and for its
        tool calls, at most END_S. The client stays connected until `send_away`.
        """
        for task in self.tools.running:
            self.watch(task)
        await self._end(None)

    async def send_away(self, reason: str, address: str) -> None:
        """Disconnect the client so that it reconnects: to `address`, the new owner's, or anywhere if that is empty."""
        if self.client:
            self._part(self.client.send_away(reason, address))
        await self._closed()

    def hush(self, reason: str) -> None:
        """Disconnect the caller because no more input can be taken now; the client reconnects by itself."""
        for part in (
            self.handler.close() if self.handler else None,
            self.client.send_away(reason) if self.client else None,
        ):
            if part is not None:
                self._part(part)

    async def _end(self, farewell: Coroutine[Any, Any, None] | None) -> None:
        """End timers, tasks and connections; `farewell` closes the client's. A part that hangs or fails does not keep
        the others from ending.
        """
        self.timers.cancel_all()
        self.cancel_task()
        self.tools.close()
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
                logger.error("%s does not end; going on without it", task.get_name())


async def _unbroken(session_id: str, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        logger.exception("a connection of %s broke while it was closed", session_id)
