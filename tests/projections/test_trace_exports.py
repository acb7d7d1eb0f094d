"""Shows that traces come out in formats that others read, the same bytes each time."""

import json
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from projections import names
from projections.otlp import otlp, otlp_json
from projections.perfetto import perfetto
from projections.spans import spans_of
from tests.cli.service import environment, orch, orch_process
from tests.projections.test_spans import ROOT, each, events_in

CALL = "fixtures/real_barge_in.jsonl"


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Where the fixtures are, and no Redis to be had."""
    monkeypatch.chdir(ROOT)
    return environment(tmp_path, ORCH_REDIS_URL="unix:///nonexistent/redis.sock")


@pytest.mark.parametrize("form", ["otlp", "otlp-json", "perfetto"])
def test_an_export_repeated_has_the_same_bytes(form: str, tmp_path: Path, env: dict[str, str]) -> None:
    """Also in another process, whose hashes are salted otherwise."""
    files = [tmp_path / f"{number}.out" for number in range(3)]
    for file in files[1:]:
        assert orch("export", CALL, "--format", form, "-o", str(file), env=env).exit_code == 0
    assert orch_process("export", CALL, "--format", form, "-o", str(files[0]), env=env).returncode == 0
    assert len({file.read_bytes() for file in files}) == 1


def test_the_bytes_of_an_export_last(snapshot) -> None:
    """A trace that was exported years ago is recognised; a library that encodes otherwise is noticed."""
    assert sha256(otlp(spans_of(events_in(ROOT / CALL)))).hexdigest() == snapshot


def test_an_unknown_layout_is_a_usage_error(env: dict[str, str]) -> None:
    """As an unknown format is."""
    assert orch("export", CALL, "--format", "otlp", "--layout", "tree", env=env).exit_code == 3


@each
def test_otlp_in_json_says_what_otlp_in_protobuf_says(file: Path) -> None:
    """Ids are hexadecimal there; all else is protobuf's own JSON."""
    spans = spans_of(events_in(file))
    request = ExportTraceServiceRequest.FromString(otlp(spans))
    (scope,) = request.resource_spans[0].scope_spans
    (told,) = json.loads(otlp_json(spans))["resourceSpans"][0]["scopeSpans"]
    assert len(scope.spans) == len(told["spans"]) == len(spans)
    for one, other in zip(scope.spans, told["spans"], strict=True):
        assert (one.trace_id.hex(), one.span_id.hex()) == (other["traceId"], other["spanId"])
        assert one.parent_span_id.hex() == other.get("parentSpanId", "")
        assert str(one.start_time_unix_nano) == other.get("startTimeUnixNano", "0")
        assert [link.span_id.hex() for link in one.links] == [link["spanId"] for link in other.get("links", [])]


def test_an_export_is_marked_so_that_nobody_counts_it_twice() -> None:
    """The collector's metrics leave it out."""
    request = ExportTraceServiceRequest.FromString(otlp(spans_of(events_in(ROOT / CALL))))
    told = {pair.key: pair.value for pair in request.resource_spans[0].resource.attributes}
    assert told[names.REEXPORTED].bool_value
    assert told["service.name"].string_value == "orch"


@each
def test_perfetto_can_draw_it(file: Path) -> None:
    """Slices of a thread nest, asynchronous ones are balanced, arrows have a beginning and an end, later or equal."""
    events = events_in(file)
    trace = json.loads(perfetto(events, spans_of(events)))["traceEvents"]
    assert all(one.get("ts", 0) >= 0 and one.get("dur", 0) >= 0 for one in trace)
    threads = {(one["pid"], one["tid"]) for one in trace if one["name"] == "thread_name"}
    assert {(one["pid"], one["tid"]) for one in trace if "tid" in one} == threads
    for thread in threads:
        open_until = [float("inf")]
        slices = [one for one in trace if one["ph"] == "X" and (one["pid"], one["tid"]) == thread]
        for one in sorted(slices, key=lambda one: (one["ts"], -one["dur"])):
            while open_until[-1] < one["ts"] or (open_until[-1] == one["ts"] and one["dur"]):
                open_until.pop()
            assert one["ts"] + one["dur"] <= open_until[-1]
            open_until.append(one["ts"] + one["dur"])
    begun = Counter((one["cat"], one["id"]) for one in trace if one["ph"] == "b")
    ended = Counter((one["cat"], one["id"]) for one in trace if one["ph"] == "e")
    assert begun == ended
    assert set(begun.values()) == {1}
    starts = {one["id"]: one for one in trace if one["ph"] == "s"}
    ends = {one["id"]: one for one in trace if one["ph"] == "f"}
    assert starts.keys() == ends.keys()
    assert all(start["ts"] <= ends[arrow]["ts"] for arrow, start in starts.items())
