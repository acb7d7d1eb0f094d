"""LiveSession: state, timers, running tasks, client and media connection of one session in this process."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Set
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
from orchestrator.session.phases import CALL_FOLLOWS_MS
from orchestrator.session.state import State

logger = logging.getLogger(__name__)

END_S = 5.0
"""How long, in seconds, orch waits for cancelled tasks and closing connections before it goes on without them."""
CALL_FOLLOWS_S = CALL_FOLLOWS_MS / 1000
"""Seconds to wait for a lost media connection to come back. The wait starts again when the client reconnects."""


class HandlerPlaybackEnd(Protocol):
    """The end of a playback that nobody stopped. `confirmed_by`: "client" if the client reported that the audio was
    played, "timer" if no report came in time. `position_ms`: length of the audio sent in this playback, in ms.
    """

    @property
    def confirmed_by(self) -> Literal["client", "timer"]: ...
    @property
    def position_ms(self) -> int: ...


class HandlerPlayback(Protocol):
    """One playback over the media connection of a session. Every method raises ListenerGone once the playback is
    stopped or the connection has ended.
    """

    async def write(self, chunk: SpeechChunk) -> None: ...
    async def finish(self) -> HandlerPlaybackEnd: ...


class Handler(Protocol):
    """The media connection of a session (orchestrator/media/handler.py)."""

    handler_id: str

    @property
    def unheard_ms(self) -> int:
        """Estimated time, in ms, for which the user has not heard the agent because the connection is dead: about the
        time since the last datagram from the user's side. 0: the connection is alive.
        """

    def set_microphone(self, setting: MicrophoneSetting) -> None: ...
    def finish_utterance(self) -> None: ...
    def play(
        self, playback_id: str, on_started: Callable[[], None], on_progress: Callable[[int], None]
    ) -> HandlerPlayback: ...
    def pause(self, playback_id: str) -> None: ...
    def resume(self, playback_id: str) -> None: ...
    def stop(self, playback_id: str) -> None: ...
    def client_confirmed(self, playback_id: str) -> None: ...
    async def close(self) -> None: ...


class Client(Protocol):
    """The control connection of a session (orchestrator/gateway/client.py)."""

    client_id: str

    def committed(self, event: Event, line: str | None) -> None:
        """Tell the client about a committed event. `line`: the event's line in the golden log; None: it has no line."""

    async def show_reply(self, playback_id: str, text: str) -> None:
        """Show a text of an answer. Returns when the text is sent; raises ListenerGone if it cannot be sent."""

    def clear_text(self) -> None: ...
    def warn(self, code: str, message: str) -> None:
        """Send a warning, which the client's page or program shows to the user; the connection stays open.

        `code` names the warning for programs; `message` is a sentence for people.
        """

    async def close(self, reason: str) -> None:
        """Tell the client that the conversation is over, and disconnect."""

    async def send_away(self, reason: str, address: str = "") -> None:
        """Disconnect so that the client reconnects: to the process at `address`, which continues the conversation, or
        to any process if the address is empty.
        """


class CurrentTask:
    """The stages of a session that run now, for a turn, a speculation or an announcement: cancelled together."""

    def __init__(self, session_id: str, epoch: int) -> None:
        self.name = f"{session_id}#{epoch}"
        self._stages: dict[str, asyncio.Task[None]] = {}

    def start(self, stage: str, work: Coroutine[Any, Any, None]) -> None:
        """Start the coroutine `work` of a stage ("intent", "answer" or a playback id). If an earlier attempt at the
        same stage still runs, cancel it. The asyncio task is named after session, epoch and stage.
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
        """Cancel all stages. Returns their asyncio tasks, so that the caller can wait for their end."""
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
    """The conversation up to the last committed step."""
    open: Callable[[], None] | None = None
    """Opens a promised session (a client has its id, but it has no log yet) by reporting SESSION_OPENED. None: the
    session is open already.
    """
    grant: Grant = EVERYTHING
    """The rights of the session's client. After a takeover: EVERYTHING, until the client returns with its resume token,
    which contains the grant.
    """
    snapshot_version: int = 0
    """Version of the session at the last snapshot that this process made of it; 0: it has made no snapshot."""
    failures: int = 0
    """How often the reducer has raised on an input of this session, because of a bug."""
    current_task: CurrentTask | None = None
    closing: set[asyncio.Task[None]] = field(default_factory=set)
    """Tasks to await before the shard is given up: cancelled stages that are ending, connections that are closing."""
    tools: ToolCalls = field(init=False)
    """Runs the tool calls of the session's agent."""
    scripts: dict[str, Script] = field(default_factory=dict)
    """Playback id → the texts that this playback speaks."""
    call_follows: bool = False
    """Whether the session has lost its handler, and the handler may come back. If only the client is connected, answers
    then wait for the handler, at most CALL_FOLLOWS_S.
    """
    _connecting: Handler | None = field(default=None, init=False)
    _client: Client | None = field(default=None, init=False)
    _handler: Handler | None = field(default=None, init=False)
    _connections: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set whenever a client or a handler connects, begins to connect, or disconnects."""
    _changed_s: float = field(default=0.0, init=False)
    """When a client or a handler last connected or disconnected, by the clock of the event loop."""

    def __post_init__(self) -> None:
        self.tools = ToolCalls(self.session_id)

    @property
    def client(self) -> Client | None:
        """The connected client; None: no client is connected."""
        return self._client

    @client.setter
    def client(self, client: Client | None) -> None:
        self._client = client
        self._note_a_change()

    @property
    def handler(self) -> Handler | None:
        """The media connection. None: the conversation is in text, or has lost its media connection."""
        return self._handler

    @handler.setter
    def handler(self, handler: Handler | None) -> None:
        self.call_follows = handler is None and (self.call_follows or self._handler is not None)
        self._handler = handler
        self._note_a_change()

    @property
    def connecting(self) -> Handler | None:
        """The handler whose media connection is being made, while answers wait for it; else None.

        Answers wait at most CALL_FOLLOWS_S. After that time, `connecting` becomes None, and answers are shown as text.
        """
        return self._connecting

    @connecting.setter
    def connecting(self, handler: Handler | None) -> None:
        self._connecting = handler
        self._connections.set()

    def _note_a_change(self) -> None:
        self._changed_s = asyncio.get_running_loop().time()
        self._connections.set()

    async def somebody_is_connected(self, gone: Client | None = None) -> None:
        """Wait until a handler is connected, or a client other than `gone` (a client that could not be reached).

        A client ends the wait at once, unless a handler is expected (`connecting` or `call_follows`). Then a client
        ends the wait after CALL_FOLLOWS_S, so that the answer can be spoken and not shown. CALL_FOLLOWS_S counts from
        the last time that a client or handler connected or disconnected; while a handler is being connected, from the
        start of this wait if that is later.
        """
        begun_s = asyncio.get_running_loop().time()
        while self._handler is None:
            wait_s = None
            if self._client not in (None, gone):
                since_s = max(self._changed_s, begun_s) if self.connecting else self._changed_s
                left_s = since_s + CALL_FOLLOWS_S - asyncio.get_running_loop().time()
                wait_s = left_s if self.call_follows or self.connecting else 0.0
                if wait_s <= 0:
                    self.call_follows, self._connecting = False, None
                    return
            self._connections.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._connections.wait()

    def task(self) -> CurrentTask:
        """Return the group of the stages that run now (`CurrentTask`); make an empty group if there is none."""
        if self.current_task is None:
            self.current_task = CurrentTask(self.session_id, self.state.epoch)
        return self.current_task

    def cancel_task(self) -> None:
        """Cancel the current task. The next task never waits for the end of the cancelled task."""
        if self.current_task is not None:
            for task in self.current_task.cancel():
                self.watch(task)
            self.current_task = None

    def watch(self, task: asyncio.Task[None]) -> None:
        """Remember a task that is ending, such as a cancelled stage; returns at once. Before the session leaves this
        process, `shut` and `wind_up` wait for these tasks, at most END_S.
        """
        self.closing.add(task)
        task.add_done_callback(self.closing.discard)

    async def shut(self, reason: str) -> None:
        """End all tasks and connections of an ended session in this process, and wait for their end, at most END_S. The
        session's log stays in Redis. Does not wait for running tool calls: they run to their end, and their results are
        not recorded.
        """
        for task in self.tools.running:
            logger.warning("%s still runs, and its session has ended: its result will not be recorded", task.get_name())
        await self._end(self.client.close(reason) if self.client else None)

    async def wind_up(self) -> None:
        """End the tasks and the handler of a session that goes on under another owner. Wait at most END_S for their end
        and for the end of the session's tool calls. The client stays connected until `send_away`.
        """
        for task in self.tools.running:
            self.watch(task)
        await self._end(None)

    async def send_away(self, reason: str, address: str) -> None:
        """Disconnect the client so that it reconnects: to the new owner at `address`; if that is empty, to any node.
        Wait for this at most END_S, but not for tasks that are still ending: `wind_up` has waited for them.
        """
        if self.client:
            await _ended({self._part(self.client.send_away(reason, address))})

    def hush(self, reason: str) -> None:
        """Close handler and client, because the node can take no more input now. The client reconnects by itself."""
        for part in (
            self.handler.close() if self.handler else None,
            self.client.send_away(reason) if self.client else None,
        ):
            if part is not None:
                self._part(part)

    async def _end(self, farewell: Coroutine[Any, Any, None] | None) -> None:
        """End the timers, the tasks and the handler. If one of them hangs or fails, the others still end. `farewell`:
        coroutine that closes the client's connection; None: the client stays connected.
        """
        self.timers.cancel_all()
        self.cancel_task()
        self.tools.close()
        for part in (self.handler.close() if self.handler else None, farewell):
            if part is not None:
                self._part(part)
        await _ended(self.closing - {asyncio.current_task()})

    def _part(self, farewell: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(_unbroken(self.session_id, farewell), name=f"{self.session_id}:farewell")
        self.watch(task)
        return task


async def _ended(tasks: Set[asyncio.Task[None]]) -> None:
    """Wait until these tasks have ended, at most END_S. Logs each task that has not."""
    if tasks:
        _, stuck = await asyncio.wait(tasks, timeout=END_S)
        for task in stuck:
            logger.error("%s does not end; going on without it", task.get_name())


async def _unbroken(session_id: str, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        logger.exception("a connection of %s broke while it was closed", session_id)
