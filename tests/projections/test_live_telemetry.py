"""Shows what a collector gets of a running service, and that the service does not depend on it."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from events.derived import SessionEnded, TurnEnded
from events.envelope import Event
from orchestrator import Orchestrator, Settings
from projections import names
from projections.meters import push_every_s
from projections.otlp import otlp
from projections.span import Layout, Span, trace_id
from projections.spans import SessionSpans, spans_of
from projections.telemetry import Telemetry
from projections.timing import STAGES
from tests.cli.service import ROOT, environment
from tests.gateway.talker import Talker
from tests.projections.collector import Collector, collecting, sorted_bytes, spans_in
from tests.projections.test_spans import events_in
from tests.runtime.support import PATIENCE_S

CALL = ROOT / "fixtures/real_barge_in.jsonl"


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """One that the standard variables name."""
    async with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


def live(past: Iterable[Event] = (), layout: Layout = "session") -> Telemetry:
    """Telemetry without a service; `past` is what the log of every session holds."""

    async def read_log(_: str, first: int) -> list[Event]:
        return [event for event in past if event.version >= first][:7]

    return Telemetry(dict, read_log, lambda _: True, layout=layout)


async def told(events: Iterable[Event], telemetry: Telemetry) -> dict[tuple[str, str], float]:
    """Let it run over these events, as the service does; what /metrics says then."""
    telemetry.start()
    for event in events:
        telemetry.note(event)
    await telemetry.work_off()
    await telemetry.catch_up()
    page, _ = await telemetry.page()
    await telemetry.close()
    return counted(page)


def exported(events: list[Event], layout: Layout = "session") -> list[bytes]:
    """The spans of `orch export`, sorted."""
    return sorted_bytes(spans_in([ExportTraceServiceRequest.FromString(otlp(spans_of(events, layout)))]))


def counted(page: bytes) -> dict[tuple[str, str], float]:
    """Name and first label's value → value."""
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


async def converse(url: str) -> str:
    """Two turns in text, and goodbye; the session's id."""
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{url}/orchestrate") as connection:
        talker = Talker(connection)
        session = await talker.listening()
        for text in ("when are you open", "what is on the menu"):
            await talker.say("text", text=text)
            await talker.until("reply")
            await talker.until("phase", phase="LISTENING")
        await talker.say("goodbye")
        await talker.closed()
    return str(session["session_id"])


async def test_what_a_collector_gets_live_is_what_an_export_of_the_log_says(
    collector: Collector, tmp_path: Path
) -> None:
    """Of a real conversation: the same bytes for each span; parents, links, times and stages are right."""
    async with Orchestrator(Settings(port=0, data_dir=tmp_path, recognizer="domain", voice="espeak")) as service:
        session_id = await converse(service.url)
        await collector.until_there_is(names.SESSION)
        events = await service.node.read_log(session_id)
    spans = collector.spans
    assert sorted_bytes(spans) == exported(events)
    assert len(spans) == len(exported(events)), "nothing is sent twice"
    known = {span.span_id: span for span in spans}
    assert {span.trace_id for span in spans} == {spans[0].trace_id}
    turns = [span for span in spans if span.name == names.TURN]
    assert len(turns) == 2
    for span in spans:
        assert all(link.span_id in known for link in span.links)
        if span.name != names.SESSION:
            parent = known[span.parent_span_id]
            assert parent.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= parent.end_time_unix_nano
    for turn in turns:
        said = {pair.key: pair.value for pair in turn.attributes}
        stages = [said[key].int_value for key in map(names.STAGE_US.format, STAGES) if key in said]
        assert sum(stages) == said[names.RESPONSE_LATENCY_US].int_value > 0
    first, second = sorted(turns, key=lambda turn: turn.start_time_unix_nano)
    assert [link.span_id for link in second.links] == [first.span_id]


@pytest.mark.parametrize("layout", ["session", "turn"])
async def test_a_recorded_call_told_live_is_the_same_trace(collector: Collector, layout: Layout) -> None:
    """A voice call with an interruption, in both layouts."""
    events = events_in(CALL)
    await told(events, live(layout=layout))
    assert sorted_bytes(collector.spans) == exported(events, layout)
    resource = {pair.key: pair.value for pair in collector.traces[0].resource_spans[0].resource.attributes}
    assert names.REEXPORTED not in resource
    assert resource["service.name"].string_value == "orch"


async def test_a_session_that_was_taken_over_has_its_whole_trace(collector: Collector) -> None:
    """What the new owner did not see is read from the log, and measured by nobody twice."""
    events = events_in(CALL)
    for begin in range(1, len(events), 23):
        collector.traces.clear()
        metrics = await told(events[begin:], live(events))
        assert sorted_bytes(collector.spans) == exported(events)
        first_turns = [span for span in resources(collector, is_reexport=False) if span.name == names.TURN]
        ended = sum(isinstance(event, TurnEnded) for event in events[begin:])
        assert sum(value for (name, _), value in metrics.items() if name == "orch_turn_count_total") == ended
        assert len(first_turns) == ended, "the others may have been counted before by a collector"


async def test_what_is_told_while_a_log_is_read_is_found_in_it(collector: Collector) -> None:
    """The other sessions are not kept waiting, and the trace is whole in the end."""
    events, may_read, reads = events_in(CALL), asyncio.Event(), asyncio.Event()

    async def read_log(_: str, first: int) -> list[Event]:
        reads.set()
        await may_read.wait()
        return [event for event in events if event.version >= first][:7]

    telemetry = Telemetry(dict, read_log, lambda _: True)
    telemetry.start()
    telemetry.note(events[40])
    await telemetry.work_off()
    await reads.wait()
    other = events_in(ROOT / "fixtures/normal_flow.jsonl")
    for event in [*events[41:], *other]:
        telemetry.note(event)
    metrics = counted((await telemetry.page())[0])
    assert sum(value for (name, _), value in metrics.items() if name == "orch_turn_count_total") == turns(other)
    may_read.set()
    await telemetry.catch_up()
    metrics = counted((await telemetry.page())[0])
    assert sum(value for (name, _), value in metrics.items() if name == "orch_turn_count_total") == turns(
        [*other, *events[40:]]
    )
    await telemetry.close()
    trace = trace_id(events[0].session_id).to_bytes(16)
    assert sorted_bytes([span for span in collector.spans if span.trace_id == trace]) == exported(events)


async def test_a_session_whose_log_holds_its_end_before_its_events_are_told_is_counted_once(
    collector: Collector,
) -> None:
    """After a takeover: the log is read to its end while the later events still wait to be folded."""
    events = events_in(CALL)

    async def read_log(_: str, first: int) -> list[Event]:
        return [event for event in events if event.version >= first]

    telemetry = Telemetry(dict, read_log, lambda _: True)
    telemetry.note(events[40])
    await telemetry.work_off()
    await telemetry.catch_up()
    for event in events[41:]:
        telemetry.note(event)
    await telemetry.work_off()
    await telemetry.catch_up()
    metrics = counted((await telemetry.page())[0])
    await telemetry.close()
    assert metrics["orch_session_ended_total", "goodbye"] == 1
    assert sum(value for (name, _), value in metrics.items() if name == "orch_turn_count_total") == turns(events[40:])
    assert sorted_bytes(collector.spans) == exported(events)
    assert len(collector.spans) == len(exported(events)), "nothing is sent twice"
    assert not telemetry._sessions, "its end is told last"


def resources(collector: Collector, *, is_reexport: bool) -> list[SpanMessage]:
    """The spans whose resource says so, or does not."""
    return [
        span
        for request in collector.traces
        for part in request.resource_spans
        if any(one.key == names.REEXPORTED for one in part.resource.attributes) == is_reexport
        for scope in part.scope_spans
        for span in scope.spans
    ]


def turns(events: list[Event]) -> int:
    return sum(isinstance(event, TurnEnded) for event in events)


async def test_a_log_that_cannot_be_read_costs_the_trace_alone(collector: Collector) -> None:
    """Metrics of what is seen go on."""
    events = events_in(CALL)
    metrics = await told(events[40:], live())
    assert collector.spans == []
    assert metrics["orch_event_count_total", "SESSION_ENDED"] == 1


async def test_a_trace_that_breaks_takes_no_other_along(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in the fold of one session is logged; the other session's trace is whole, and metrics go on."""
    events = events_in(ROOT / "fixtures/session_isolation.jsonl")
    broken, *_, whole = sorted({event.session_id for event in events})
    see = SessionSpans.see

    def break_one(self: SessionSpans, event: Event) -> list[Span]:
        if event.session_id == broken and event.version > 20:
            raise RuntimeError("planted")
        return see(self, event)

    events = [*events, SessionEnded(reason="", session_id=whole, version=max(e.version for e in of(events, whole)) + 1)]
    monkeypatch.setattr(SessionSpans, "see", break_one)
    metrics = await told(events, live())
    assert sum(value for (name, _), value in metrics.items() if name == "orch_event_count_total") == len(events)
    monkeypatch.undo()
    spans = [span for span in collector.spans if span.trace_id == trace_id(whole).to_bytes(16)]
    assert sorted_bytes(spans) == exported(of(events, whole))


def of(events: list[Event], session_id: str) -> list[Event]:
    return [event for event in events if event.session_id == session_id]


async def test_a_collector_that_is_down_costs_a_counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A conversation goes on as ever, and so does the end of the service."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    async with (
        Orchestrator(Settings(port=0, data_dir=tmp_path, recognizer="domain", voice="espeak")) as service,
        aiohttp.ClientSession() as http,
    ):
        await converse(service.url)
        async with asyncio.timeout(PATIENCE_S):
            dropped = 0.0
            while not dropped:
                async with http.get(f"{service.url}/metrics") as response:
                    dropped = counted(await response.read())["orch_telemetry_span_dropped_total", ""]


async def test_a_collector_that_hangs_does_not_keep_the_service_from_ending() -> None:
    """Whatever it has been sent, the service ends."""
    with pytest.MonkeyPatch.context() as patch:
        async with collecting(hangs=True) as collector:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
            async with asyncio.timeout(PATIENCE_S):
                await told(events_in(CALL), live())
            assert collector.traces


@pytest.mark.parametrize(
    "switch", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}]
)
async def test_the_standard_switches_switch_it_off(
    switch: dict[str, str], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent."""
    for name, value in switch.items():
        monkeypatch.setenv(name, value)
    await told(events_in(CALL), live())
    assert collector.spans == []


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
async def test_whoever_asks_for_another_protocol_is_told(
    name: str, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said at the start which one is spoken, and that one is."""
    monkeypatch.setenv(name, "grpc")
    events = events_in(CALL)
    await told(events, live())
    assert sorted_bytes(collector.spans) == exported(events)
    assert f"{name}=grpc" in caplog.text


async def test_metrics_are_pushed_to_a_collector_with_examples(collector: Collector) -> None:
    """A value names the span that it comes from, by the ids of our trace."""
    events = events_in(CALL)
    await told(events, live())
    metrics = {
        metric.name: metric
        for request in collector.metrics
        for part in request.resource_metrics
        for scope in part.scope_metrics
        for metric in scope.metrics
    }
    latency = metrics["orch.turn.response_latency"]
    assert latency.unit == "s"
    turns = {span.span_id: span for span in collector.spans if span.name == names.TURN}
    (point,) = latency.histogram.data_points
    assert {example.span_id for example in point.exemplars} <= turns.keys()
    assert point.exemplars


async def test_the_page_has_examples_for_whoever_asks_for_openmetrics() -> None:
    """As Prometheus asks; each lies in its bucket and names a span of the call. In the plain format there are none."""
    events = events_in(CALL)
    telemetry = live()
    telemetry.start()
    for event in events:
        telemetry.note(event)
    page, content_type = await telemetry.page("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4")
    plain, plain_type = await telemetry.page()
    await telemetry.close()
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert plain_type.startswith("text/plain")
    assert counted(plain)
    samples = [
        sample
        for family in openmetrics_families(page.decode())
        for sample in family.samples
        if sample.name == "orch_turn_response_latency_seconds_bucket" and sample.exemplar
    ]
    ours = {
        (f"{s.context.trace_id:032x}", f"{s.context.span_id:016x}") for s in spans_of(events) if s.name == names.TURN
    }
    assert {(s.exemplar.labels["trace_id"], s.exemplar.labels["span_id"]) for s in samples} <= ours
    assert samples
    assert all(s.exemplar.value <= float(s.labels["le"]) for s in samples)


async def test_processes_that_push_are_told_apart(collector: Collector) -> None:
    """Each is an instance of the service; two in one would be one series that jumps to and fro."""
    for _ in range(2):
        await told(events_in(CALL), live())
    instances = {
        attribute.value.string_value
        for request in collector.metrics
        for part in request.resource_metrics
        for attribute in part.resource.attributes
        if attribute.key == "service.instance.id"
    }
    assert len(instances) == 2


async def test_metrics_are_pushed_as_often_as_the_standard_variable_says(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when the service stops."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    telemetry = live()
    telemetry.start()
    async with asyncio.timeout(PATIENCE_S):
        while len(collector.metrics) < 2:
            collector.came.clear()
            await collector.came.wait()
    await telemetry.close()


@pytest.mark.parametrize("said", ["often", "0", "-5", "1.5"])
def test_an_interval_that_is_none_is_said_and_not_used(said: str, caplog: pytest.LogCaptureFixture) -> None:
    assert push_every_s({"OTEL_METRIC_EXPORT_INTERVAL": said}) == 60
    assert f"OTEL_METRIC_EXPORT_INTERVAL={said}" in caplog.text


CHILD = """
import asyncio, uvloop
from projections.telemetry import Telemetry

async def main():
    telemetry = Telemetry(dict, None, lambda _: True)
    telemetry.start()
    await telemetry.close()
    await (await asyncio.create_subprocess_exec("true")).wait()

uvloop.run(main())
"""


async def test_a_child_process_pushes_nothing(collector: Collector) -> None:
    """uvloop tells a child that it was forked, and the SDK's own thread would begin again there."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert said == b""
    assert len(collector.metrics) == 1


async def test_replay_sends_nothing(collector: Collector, tmp_path: Path) -> None:
    """It does not even load what could."""
    env = environment(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    code = (
        "import sys; from typer.testing import CliRunner; from cli.main import app; "
        f"done = CliRunner().invoke(app, ['replay', {str(CALL)!r}, '--jobs', '1']); assert done.exit_code == 0, done; "
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    done = await asyncio.to_thread(
        lambda: subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, check=False)
    )
    assert done.returncode == 0, done.stderr.decode()
    assert collector.traces == []
