"""Shows that the registry is all there is: what is measured, how it is called, and that its labels cannot grow."""

import ast
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.dashboards import BOARDS, board
from events import derived
from events.envelope import Event
from projections.measures import Measurement, of_events, of_span
from projections.meters import Meters
from projections.registry import ENDINGS, METRICS, MOST_NAMES, OTHER, Metric
from projections.span import Span
from projections.spans import spans_of
from projections.timing import STAGES
from tests.projections.test_spans import FILES, ROOT, each, events_in


def some(name: str) -> Measurement:
    labels = tuple((label, known[0] if known else "ANY") for label, known in METRICS[name].labels.items())
    return Measurement(name, 1, labels)


def a_page() -> str:
    """/metrics, with a value of each."""
    meters = Meters(lambda: dict.fromkeys(METRICS, 7))
    for name, metric in METRICS.items():
        if metric.kind != "gauge" and not metric.counted:
            meters.record(some(name))
    page = meters.page()[0].decode()
    meters.close()
    return page


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: apt-get install prometheus")
def test_promtool_finds_no_fault_with_the_page() -> None:
    """`promtool check metrics`: what is called how, and that each has a help."""
    done = subprocess.run(["promtool", "check", "metrics"], input=a_page(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_bucket_that_a_dashboard_names_is_on_the_page() -> None:
    """A bound is written there as in the query, to the letter."""
    drawn = json.dumps([board(name) for name in BOARDS]).replace("\\", "")
    asked = set(re.findall(r'\w+_bucket\{le="[^"]+"', drawn))
    page = a_page()
    assert asked
    assert all(one in page for one in asked)


def test_prometheus_calls_each_metric_as_the_registry_says() -> None:
    """Name, type, help and labels of the page are those that dashboards and docs are drawn from."""
    families = {family.name: family for family in text_string_to_metric_families(a_page())}
    assert len(families) == len(METRICS)
    for metric in METRICS.values():
        family = families[metric.prometheus.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)
        names = {sample.name for sample in family.samples}
        if metric.kind == "histogram":
            assert {f"{metric.prometheus}_{part}" for part in ("bucket", "sum", "count")} <= names
            bounds = [s.labels["le"] for s in family.samples if s.name.endswith("_bucket")]
            assert list(map(float, dict.fromkeys(bounds)))[:-1] == list(map(float, metric.buckets))
        else:
            assert names == {metric.prometheus}
        assert {label for sample in family.samples for label in sample.labels} - {"le"} == set(metric.labels)


def test_what_has_known_labels_is_there_before_anything_happens() -> None:
    """A rate does not see the value that a series begins with: the first failed turn of a node would be no failure."""
    meters = Meters(dict)
    page = meters.page()[0].decode()
    meters.close()
    for line in (
        'orch_turn_count_total{outcome="failed"} 0.0',
        'orch_session_ended_total{reason="internal_error"} 0.0',
        'orch_interruption_count_total{kind="false_interruption"} 0.0',
        "orch_telemetry_span_dropped_total 0.0",
        'orch_turn_response_latency_seconds_bucket{le="0.8",via="speech"} 0.0',
        'orch_service_duration_seconds_count{outcome="timed_out",service="answer"} 0.0',
    ):
        assert line in page


@pytest.mark.parametrize(
    ("file", "reason"), [("answer_slow", "answer_deadline"), ("answer_down", "service_failed"), ("normal_flow", "")]
)
def test_a_fallback_answer_is_counted_with_its_reason(file: str, reason: str) -> None:
    """The turn is completed, and yet the caller heard no answer."""
    (found,) = (ROOT / "fixtures").rglob(f"{file}.jsonl")
    measured = [one for span in spans_of(events_in(found)) for one in of_span(span)]
    counted = [dict(one.labels) for one in measured if one.metric == "orch.turn.fallback"]
    assert counted == ([{"reason": reason}] if reason else [])


def test_what_the_sdk_measures_of_itself_does_not_break_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be asked to; the page shows ours."""
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    meters = Meters(dict)
    pages = [meters.page()[0] for _ in range(3)]
    meters.close()
    assert pages[0] == pages[2] != b""


def test_every_counter_of_the_runtime_is_shown() -> None:
    """None is forgotten, and none is made up."""
    folders = (ROOT / "orchestrator/runtime", ROOT / "orchestrator/gateway")
    files = [ROOT / "orchestrator/app.py", *(file for folder in folders for file in folder.rglob("*.py"))]
    code = "\n".join(file.read_text() for file in files)
    counted = set(re.findall(r'counters\["(\w+)"\]', code))
    assert len(counted) > 8
    assert counted == {metric.counted for metric in METRICS.values() if metric.counted}


def test_every_metric_is_filled() -> None:
    """Those that come from conversations, by the recordings; the others by name, in the code that fills them."""
    measured = {one.metric for file in FILES for one in measurements(events_in(file))}
    code = "\n".join((ROOT / name).read_text() for name in ("orchestrator/app.py", "projections/telemetry.py"))
    for name, metric in METRICS.items():
        by_hand = f'"{name}"' in code or name.startswith("orch.telemetry.span.")
        assert (name in measured) + bool(metric.counted) + by_hand == 1, name


@each
def test_measurements_say_what_the_log_says(file) -> None:
    """As many turns as ended, stages that add up, values that their labels can have."""
    events = events_in(file)
    found = measurements(events)
    sums = Counter[str]()
    for one in found:
        sums[one.metric] += one.value
        assert [label for label, _ in one.labels] == sorted(METRICS[one.metric].labels)
        assert all(METRICS[one.metric].label(label, value) == value for label, value in one.labels)
        assert one.value >= 0
    ended = {event.session_id for event in events if isinstance(event, derived.SessionEnded)}
    if len(ended) == len({event.session_id for event in events}):
        assert sums["orch.turn.count"] == sum(isinstance(event, derived.TurnEnded) for event in events)
    assert sums["orch.event.count"] == len(events)
    assert abs(sums["orch.turn.stage.duration"] - sums["orch.turn.response_latency"]) < 1e-6
    interruptions = [one for one in found if dict(one.labels).get("kind") == "interruption"]
    assert len(interruptions) <= sum(isinstance(event, derived.UserInterrupted) for event in events)


def test_a_label_that_somebody_outside_chooses_is_bounded() -> None:
    """A reason of a client's own is counted as another one."""
    ended = Span("session", "s", "e", 0, end_us=1, attributes={"orch.session.end_reason": "because 4711"})
    labels = [dict(one.labels) for one in of_span(ended)]
    assert {"reason": OTHER} in labels
    assert all(
        known
        for name, metric in METRICS.items()
        for label, known in metric.labels.items()
        if label != metric.named and name != "orch.event.count" and name != "orch.transition.count"
    )
    assert METRICS["orch.turn.stage.duration"].labels["stage"] == STAGES


def ending_reasons(node: ast.AST) -> Iterator[ast.AST]:
    """The expressions in a piece of code that name a reason for which a session ends."""
    match node:
        case ast.Call(func=ast.Name(id="SessionCloseRequested"), keywords=named):
            yield from (keyword.value for keyword in named if keyword.arg == "reason")
        case ast.Call(func=ast.Name(id="end" | "bid_farewell"), args=[_, reason]):
            yield reason
        case ast.Call(func=ast.Name(id="_announce"), args=[*_, ends]) if len(node.args) > 4:
            yield ends
        case ast.Assign(targets=[ast.Name(id="ends")], value=value):
            yield value
        case ast.FunctionDef(name="_ends"):
            yield from (part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value)


def test_every_reason_for_which_the_product_ends_a_session_is_a_label() -> None:
    """Found in the sources: a reason that is not listed would be counted with those that clients make up."""
    folders = ("session", "runtime", "gateway", "media", "siblings")
    files = [file for name in folders for file in (ROOT / "orchestrator" / name).rglob("*.py")]
    trees = [ast.parse(file.read_text()) for file in files]
    constants: dict[str, str] = {}
    for tree in trees:
        for node in tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(value))):
                    constants[name] = value
    found: set[str] = set()
    for part in (part for tree in trees for node in ast.walk(tree) for part in ending_reasons(node)):
        found |= {one.value for one in ast.walk(part) if isinstance(one, ast.Constant) and isinstance(one.value, str)}
        found |= {constants[one.id] for one in ast.walk(part) if isinstance(one, ast.Name) and one.id in constants}
    assert found - {""} == set(ENDINGS) - {OTHER}


@pytest.mark.parametrize("named", [metric for metric in METRICS.values() if metric.named], ids=lambda one: one.name)
def test_names_that_agents_choose_are_bounded(named: Metric) -> None:
    """A model makes up tools: the first ones have series of their own, all others share one, and none is lost."""
    meters = Meters(dict)
    for number in [*range(MOST_NAMES + 20), 0, MOST_NAMES]:
        labels = dict(some(named.name).labels) | {named.named: f"name {number}"}
        meters.record(Measurement(named.name, 1, tuple(sorted(labels.items()))))
    families = text_string_to_metric_families(meters.page()[0].decode())
    meters.close()
    (family,) = (one for one in families if one.name == named.prometheus.removesuffix("_total"))
    counted = {
        sample.labels[named.named]: sample.value
        for sample in family.samples
        if sample.name.endswith(("_count", "_total"))
    }
    assert counted == {f"name {n}": 2 if n == 0 else 1 for n in range(MOST_NAMES)} | {OTHER: 21}


def test_tool_calls_and_tokens_are_measured() -> None:
    """By tool and outcome, by model and direction, and to the microsecond of the log."""
    found = measurements(events_in(ROOT / "fixtures/failures/tool_in_an_answer.jsonl"))
    values = {(one.metric, *(value for _, value in one.labels)): one.value for one in found}
    assert values["orch.tool.duration", "returned", "create_reservation"] == 0.4
    assert values["orch.model.duration", "local"] == 0.48
    assert values["orch.model.token.count", "input", "local"] == 212
    assert values["orch.model.token.count", "output", "local"] == 18


def measurements(events: list[Event]) -> list[Measurement]:
    return [*of_events(events), *(one for span in spans_of(events) for one in of_span(span))]
