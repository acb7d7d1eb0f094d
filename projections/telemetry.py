"""Metrics and traces of the running service, computed and exported in the background.

`note` only appends an event to a queue. Folding and exporting happen later, in small slices. If a queue is full, new
entries are dropped and counted. Traces are exported only if a collector is configured.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from events.derived import SessionEnded
from events.envelope import Event
from projections.measures import Measurement, of_events, of_span
from projections.meters import Meters, check_protocol, collector, push_every_s
from projections.otlp import readable, resource
from projections.quiet import Quiet
from projections.span import Layout, Span
from projections.spans import SessionSpans

logger = logging.getLogger(__name__)

EVERY_S = 0.25
SLICE = 16
"""Number of events folded before yielding to the event loop; this takes some tenths of a millisecond."""
BACKLOG = 1_000
"""If more events than this are queued, folding no longer waits for a quiet moment."""
MOST_EVENTS = 50_000
MOST_SPANS = 20_000
"""Limits of the queues of events (MOST_EVENTS) and of closed spans (MOST_SPANS). If a queue is full, new entries are
dropped and counted.
"""
EXPORT_EVERY_S = 1.0
BATCH = 64
"""Number of spans per request to the collector. A larger batch would delay conversations: a thread encodes the batch,
and competes with the event loop for the Python interpreter.
"""
CLOSE_S = 2.0
"""Time limit, in seconds, for the last export of spans, and for the last push of metrics, when orch stops."""

FORGET_S = 60.0
"""Interval, in seconds, between two drops of the state of sessions that other nodes own now."""

ReadLog = Callable[[str, int], Awaitable[list[Event]]]
"""(session id, version) → a page of the session's committed events from this version on. An empty page: the log has
ended or cannot be read.
"""
T = TypeVar("T")


def span_exporter() -> SpanExporter | None:
    """Make an exporter to the collector that the standard OTEL_… variables name; None: they name no collector."""
    if not collector("TRACES"):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


class Telemetry:
    """Computes and exports the metrics and traces of the running service. Call `note` with every committed event.

    `now` returns the current values of gauges and counters: name of the metric in registry.py → value. `lives_here`
    returns whether this node owns the session with this id.
    """

    def __init__(
        self,
        now: Callable[[], Mapping[str, float]],
        read_log: ReadLog,
        lives_here: Callable[[str], bool],
        *,
        layout: Layout = "session",
        with_content: bool = False,
        quiet: Quiet | None = None,
    ) -> None:
        self._now = now
        self._present: Mapping[str, float] = now()
        self.meters = Meters(lambda: self._present)  # not `now` itself, because threads call the lambda
        self._read_log = read_log
        self._lives_here = lives_here
        self._quiet = quiet or Quiet()
        self._layout: Layout = layout
        self._with_content = with_content
        self._exporter = span_exporter()
        self._events: deque[Event] = deque()
        self._spans: deque[tuple[Span, bool]] = deque()
        """Spans to export: (span, whether another process may have exported it before)."""
        self._resources = {is_reexport: resource(is_reexport=is_reexport) for is_reexport in (False, True)}
        self._sessions: dict[str, SessionSpans | None] = {}
        """Session → its spans so far; None: its log could not be read, or folding it failed."""
        self._behind: dict[str, tuple[int, int]] = {}
        """Session whose log must be read, because `note` did not get all its events → (version of the first event after
        the missed events, version of the newest event).
        """
        self._is_behind = asyncio.Event()
        self._reading = asyncio.Lock()
        self._working = asyncio.Lock()
        self._paging = asyncio.Lock()
        self._is_taking = True
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the background tasks on this event loop."""
        check_protocol()
        self._tasks.append(asyncio.create_task(self._work(), name="telemetry"))
        self._tasks.append(asyncio.create_task(self._catch_up_all(), name="telemetry:logs"))
        if collector("METRICS"):
            self._tasks.append(asyncio.create_task(self._push_all(), name="telemetry:metrics"))
        if self._exporter is not None:
            self._tasks.append(asyncio.create_task(self._export_all(), name="telemetry:traces"))

    async def close(self) -> None:
        """Fold the queued events. Then export spans for at most CLOSE_S, and push metrics for at most CLOSE_S."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.work_off()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.catch_up()
                while self._spans and self._is_taking:
                    await self._export_some()
        if self._exporter is not None:
            self._exporter.shutdown()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_in_a_thread(self.meters.close), CLOSE_S)

    def note(self, event: Event) -> None:
        """Queue a committed event. If the queue is full, drop the event and count it."""
        if len(self._events) < MOST_EVENTS:
            self._events.append(event)
        else:
            self.meters.record(Measurement("orch.telemetry.event.dropped", 1))

    async def page(self, accept: str = "") -> tuple[bytes, str]:
        """The /metrics page and its content type. `accept`: the request's Accept header, which chooses the format. The
        page counts all events noted so far.
        """
        await self.work_off()
        self._present = self._now()
        async with self._paging:  # one page at a time: each takes some milliseconds
            return await _in_a_thread(lambda: self.meters.page(accept))

    async def work_off(self, *, is_urgent: bool = True) -> None:
        """Fold all queued events, in slices. Waits for a quiet moment before each slice, so that turns are not delayed;
        does not wait if `is_urgent`, or while more than BACKLOG events are queued.
        """
        async with self._working:
            while self._events:
                if is_urgent or len(self._events) > BACKLOG:
                    await asyncio.sleep(0)
                else:
                    await self._quiet.moment()
                some = [self._events.popleft() for _ in range(min(SLICE, len(self._events)))]
                self._record(of_events(some))
                for event in some:
                    self._tell(event)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        forget_at = loop.time() + FORGET_S
        while True:
            self._present = self._now()
            if loop.time() >= forget_at:
                forget_at += FORGET_S
                self._forget()
            due = loop.time() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self.meters.record(Measurement("orch.eventloop.lag", max(0.0, loop.time() - due)))
            await self.work_off(is_urgent=False)

    def _forget(self) -> None:
        """Drop the state of sessions that other nodes own now. If a session returns to this node, its log is read."""
        waiting = {event.session_id for event in self._events}
        for session_id in [name for name in self._sessions if name not in waiting and not self._lives_here(name)]:
            del self._sessions[session_id]

    def _tell(self, event: Event) -> None:
        """Fold one event into the spans of its session, and queue the spans that are closed by it. An exception ends
        only the trace of this session.
        """
        session_id = event.session_id
        if session_id in self._behind:
            self._behind[session_id] = self._behind[session_id][0], event.version
            return
        try:
            for span in self._fold(event):
                self._record(of_span(span))
                self._queue(span)
        except Exception:
            logger.exception("no trace of %s from version %d on", session_id, event.version)
            self._sessions[session_id] = None
        if isinstance(event, SessionEnded) and session_id not in self._behind:
            self._sessions.pop(session_id, None)

    def _fold(self, event: Event) -> list[Span]:
        session_id = event.session_id
        if event.version == 1:
            self._sessions[session_id] = SessionSpans(event, self._layout, with_content=self._with_content)
        elif session_id not in self._sessions or not _is_next(self._sessions[session_id], event):
            self._behind[session_id] = event.version, event.version
            self._is_behind.set()
            return []
        session = self._sessions[session_id]
        return [] if session is None or event.version <= session.version else session.see(event)

    async def _catch_up_all(self) -> None:
        while True:
            await self._is_behind.wait()
            self._is_behind.clear()
            await self.catch_up()

    async def catch_up(self) -> None:
        """Read and fold the logs of sessions for which `note` did not get all events, such as after a takeover."""
        async with self._reading:
            while self._behind:
                session_id, session, is_over = next(iter(self._behind)), None, False
                try:
                    session, is_over = await self._read_on(session_id)
                except Exception:
                    logger.exception("no trace of %s: its log cannot be read on", session_id)
                del self._behind[session_id]
                self._sessions[session_id] = session
                if is_over:
                    del self._sessions[session_id]

    async def _read_on(self, session_id: str) -> tuple[SessionSpans | None, bool]:
        """Read and fold the log of a session of which `note` missed events, up to the newest event that `note` got.
        Returns (the session's spans, whether that event is the session's end). The spans are None if the log cannot be
        read or is gone: the session then has no trace.

        Exports all spans again, with the same ids, because the old owner may not have exported them all. Spans that
        closed within the missed events are marked as re-exported, and are not measured: the old owner may have measured
        them.
        """
        session, is_over = self._sessions.get(session_id), False
        while session is None or session.version < self._behind[session_id][1]:
            next_version = session.version + 1 if session else 1
            # Page by page, because a log may be an hour long, and a takeover brings many logs.
            page = [one for one in await self._read_log(session_id, next_version) if one.version >= next_version]
            if not page or page[0].version != next_version:
                return None, False
            if session is None:  # stored at once, so that a cancelled read continues from here
                session = SessionSpans(page[0], self._layout, with_content=self._with_content)
                self._sessions[session_id] = session
            for event in page:
                for span in session.see(event):
                    if event.version >= self._behind[session_id][0]:
                        self._queue(span)
                        self._record(of_span(span))
                    else:
                        self._queue(span, is_reexport=True)
                is_over = isinstance(event, SessionEnded)
            await self._quiet.moment()
        # If events up to the end are still queued, the session must stay: they would cause another reading of the log.
        return session, is_over and session.version == self._behind[session_id][1]

    def _record(self, measured: Iterable[Measurement]) -> None:
        for one in measured:
            self.meters.record(one)

    async def _push_all(self) -> None:
        every_s = push_every_s()
        while True:
            await asyncio.sleep(every_s)
            try:
                await _in_a_thread(self.meters.push)
            except Exception:
                logger.exception("metrics could not be pushed")

    # Traces.

    def _queue(self, span: Span, *, is_reexport: bool = False) -> None:
        if self._exporter is None:
            return
        if len(self._spans) < MOST_SPANS:
            self._spans.append((span, is_reexport))
        else:
            self.meters.record(Measurement("orch.telemetry.span.dropped", 1))

    async def _export_all(self) -> None:
        while True:
            await asyncio.sleep(EXPORT_EVERY_S)
            while self._spans:
                await self._quiet.moment()
                await self._export_some()

    async def _export_some(self) -> None:
        exporter = self._exporter
        assert exporter is not None, "spans are queued only with an exporter"
        batch = [self._spans.popleft() for _ in range(min(BATCH, len(self._spans)))]
        spans = [one for span, is_reexport in batch for one in readable([span], self._resources[is_reexport])]
        try:
            taken = await _in_a_thread(lambda: exporter.export(spans)) is SpanExportResult.SUCCESS
        except asyncio.CancelledError:
            self._spans.extendleft(reversed(batch))
            raise
        what = "exported" if taken else "dropped"
        self.meters.record(Measurement(f"orch.telemetry.span.{what}", len(batch)))
        if taken != self._is_taking:
            self._is_taking = taken
            logger.warning("the collector takes traces again" if taken else "the collector does not take traces")


def _is_next(session: SessionSpans | None, event: Event) -> bool:
    """Whether an event can be folded without reading the log first: it follows the last folded event directly, or is
    folded already.

    `session`: the spans of the event's session; None: the session has no trace, and further events are ignored. Returns
    True for None.
    """
    return session is None or event.version <= session.version + 1


def _in_a_thread(do: Callable[[], T]) -> "asyncio.Future[T]":
    """Run a function in a daemon thread; returns a future of its result. A thread that hangs, such as on a collector,
    does not delay the end of the process.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(set_it: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(lambda: None if future.done() else set_it())

    def run() -> None:
        try:
            done = do()
        except Exception as error:  # noqa: BLE001 - raised where the future is awaited
            failed = error
            tell(lambda: future.set_exception(failed))
        else:
            tell(lambda: future.set_result(done))

    threading.Thread(target=run, name="telemetry", daemon=True).start()
    return future
