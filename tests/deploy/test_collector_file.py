"""otel-collector.yaml is in today's dialect, and what is not would be noticed."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from projections import names
from tests.deploy.collector_rules import problems

ROOT = Path(__file__).parents[2]
FILE = ROOT / "otel-collector.yaml"
Config = dict[str, Any]


def config() -> Config:
    loaded: Config = yaml.safe_load(FILE.read_text())
    return loaded


def test_the_file_is_sound() -> None:
    """No renamed or removed component or key; everything that is there is used, and the other way round."""
    assert problems(config()) == []


def rename(section: str, old: str, new: str) -> Callable[[Config], None]:
    def plant(it: Config) -> None:
        it[section][new] = it[section].pop(old)
        for pipeline in it["service"]["pipelines"].values():
            for part in ("receivers", "processors", "exporters"):
                pipeline[part] = [new if name == old else name for name in pipeline[part]]

    return plant


def put(path: str, value: object) -> Callable[[Config], None]:
    def plant(it: Config) -> None:
        *way, last = path.split(">")
        for step in way:
            it = it.setdefault(step, {})
        it[last] = value

    return plant


PLANTED: dict[str, tuple[Callable[[Config], None], str]] = {
    "the exporter otlp": (rename("exporters", "otlp_grpc/traces", "otlp/traces"), "otlp_grpc"),
    "the exporter otlphttp": (rename("exporters", "otlp_grpc/traces", "otlphttp"), "otlp_http"),
    "the exporter logging": (rename("exporters", "prometheus", "logging"), "debug"),
    "the exporter jaeger": (rename("exporters", "otlp_grpc/traces", "jaeger"), "Jaeger takes otlp_grpc"),
    "the connector spanmetrics": (rename("connectors", "span_metrics", "spanmetrics"), "span_metrics"),
    "the processor batch": (rename("processors", "tail_sampling", "batch"), "sending_queue"),
    "the extension memory_ballast": (put("extensions>memory_ballast", {}), "GOMEMLIMIT"),
    "the telemetry address": (put("service>telemetry>metrics>address", "127.0.0.1:8888"), "readers"),
    "check_collector_pipeline": (put("extensions>health_check>check_collector_pipeline", {}), "removed"),
    "a blocking queue": (put("exporters>otlp_grpc/traces>sending_queue>blocking", True), "block_on_overflow"),
    "min_size_items": (put("exporters>otlp_grpc/traces>sending_queue>batch>min_size_items", 1), "min_size"),
    "all of the resource as labels": (
        put("exporters>prometheus>resource_to_telemetry_conversion", {"enabled": True}),
        "resource_constant_labels",
    ),
    "no unit": (put("connectors>span_metrics>histogram", {}), "unit: s"),
    "a typing error": (put("processors>tail_sampling>decision_weight", 1), "unknown"),
    "an unknown component": (put("processors>magic", {}), "unknown"),
    "an unused exporter": (put("exporters>debug", {}), "not used"),
    "a missing exporter": (put("service>pipelines>traces>exporters", ["debug"]), "not there"),
    "the limiter last": (
        put("service>pipelines>traces>processors", ["tail_sampling", "memory_limiter"]),
        "comes first",
    ),
    "half a connector": (put("service>pipelines>metrics>receivers", ["otlp"]), "begin another"),
    "all addresses": (put("receivers>otlp>protocols>http>endpoint", "0.0.0.0:4318"), "all addresses"),
    "a variable without default": (put("exporters>otlp_grpc/traces>endpoint", "${env:BACKEND}"), "no default"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_outdated_or_wrong_is_caught(what: str) -> None:
    """Planted in a copy, each by itself."""
    plant, words = PLANTED[what]
    changed = copy.deepcopy(config())
    plant(changed)
    assert words in "\n".join(problems(changed))


def test_the_attributes_that_it_names_are_ours() -> None:
    """A name that changes in projections/names.py must change here."""
    ours = {value for name, value in vars(names).items() if name.isupper()} | {"orch.capture_content"}
    text = re.sub(r"#.*", "", FILE.read_text())
    named = set(re.findall(r"\b(?:orch|gen_ai|error)\.[a-z_.]+[a-z]", text.replace("\\\\.", ".")))
    assert len(named) > 5
    assert named <= ours


def test_what_was_said_and_what_is_exported_again_are_kept_out() -> None:
    """Redaction stands before the stores of traces; metrics of spans leave re-exports out."""
    it = config()
    pipelines = it["service"]["pipelines"]
    assert "transform/redact" in pipelines["traces"]["processors"]
    assert "filter/no_reexports" in pipelines["traces/metrics"]["processors"]
    (statement,) = it["processors"]["transform/redact"]["trace_statements"][0]["statements"]
    pattern = re.search(r'"(\^gen_ai.*?)"', statement)
    assert pattern is not None
    for name in (names.INPUT_MESSAGES, names.OUTPUT_MESSAGES):
        assert re.match(pattern[1].replace("\\\\", "\\"), name)
    assert names.REEXPORTED in it["processors"]["filter/no_reexports"]["traces"]["span"][0]
