"""A collector in the test's own process: takes OTLP over HTTP on loopback, and keeps what it is sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.runtime.support import PATIENCE_S


@dataclass
class Collector:
    """`hangs`: it takes requests and never answers."""

    url: str = ""
    hangs: bool = False
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def take_traces(self, request: web.Request) -> web.Response:
        self.traces.append(ExportTraceServiceRequest.FromString(await request.read()))
        return await self._answer()

    async def take_metrics(self, request: web.Request) -> web.Response:
        self.metrics.append(ExportMetricsServiceRequest.FromString(await request.read()))
        return await self._answer()

    async def _answer(self) -> web.Response:
        self.came.set()
        if self.hangs:
            await asyncio.Event().wait()
        return web.Response()

    @property
    def spans(self) -> list[Span]:
        return spans_in(self.traces)

    async def until_there_is(self, name: str) -> list[Span]:
        """All spans, as soon as one of this name has come."""
        async with asyncio.timeout(PATIENCE_S):
            while not any(span.name == name for span in self.spans):
                self.came.clear()
                await self.came.wait()
        return self.spans


def spans_in(requests: list[ExportTraceServiceRequest]) -> list[Span]:
    return [
        span
        for request in requests
        for part in request.resource_spans
        for scope in part.scope_spans
        for span in scope.spans
    ]


def sorted_bytes(spans: list[Span]) -> list[bytes]:
    """What two exports of the same session must have in common, to the byte."""
    return sorted({span.SerializeToString(deterministic=True) for span in spans})


@asynccontextmanager
async def collecting(*, hangs: bool = False) -> AsyncIterator[Collector]:
    collector = Collector(hangs=hangs)
    app = web.Application()
    app.add_routes([web.post("/v1/traces", collector.take_traces), web.post("/v1/metrics", collector.take_metrics)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield collector
    await runner.cleanup()
