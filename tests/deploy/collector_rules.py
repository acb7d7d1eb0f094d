"""What a collector's file may not say any more, and what it must: the dialect of 2026, as problems in words.

No collector runs in the tests; this knows the keys that orch's file uses, and those that were renamed or removed.
"""

import re
from collections.abc import Iterator
from typing import Any

SECTIONS = ("receivers", "processors", "exporters", "extensions", "connectors")
KNOWN: dict[str, dict[str, set[str]]] = {
    "extensions": {"health_check": {"endpoint"}},
    "receivers": {"otlp": {"protocols"}},
    "processors": {
        "memory_limiter": {
            "check_interval",
            "limit_percentage",
            "spike_limit_percentage",
            "limit_mib",
            "spike_limit_mib",
        },
        "transform": {"error_mode", "trace_statements", "metric_statements", "log_statements"},
        "filter": {"error_mode", "traces", "metrics", "logs"},
        "tail_sampling": {"decision_wait", "num_traces", "decision_cache", "policies", "expected_new_traces_per_sec"},
    },
    "connectors": {"span_metrics": {"histogram", "exemplars", "dimensions", "metrics_expiration", "namespace"}},
    "exporters": {
        "otlp_grpc": {"endpoint", "tls", "sending_queue", "retry_on_failure", "timeout", "headers", "compression"},
        "otlp_http": {"endpoint", "tls", "sending_queue", "retry_on_failure", "timeout", "headers", "compression"},
        "prometheus": {"endpoint", "enable_open_metrics", "resource_constant_labels", "namespace"},
        "debug": {"verbosity"},
    },
}
RENAMED = {
    ("processors", "batch"): "batch in the exporter: sending_queue: {batch: {}}; the processor is removed in 0.177",
    ("processors", "memory_ballast"): "was removed; set GOMEMLIMIT and memory_limiter",
    ("extensions", "memory_ballast"): "was removed; set GOMEMLIMIT and memory_limiter",
    ("exporters", "otlp"): "is called otlp_grpc",
    ("exporters", "otlphttp"): "is called otlp_http",
    ("exporters", "logging"): "was removed; use debug",
    ("exporters", "jaeger"): "was removed; Jaeger takes otlp_grpc",
    ("connectors", "spanmetrics"): "is called span_metrics",
    ("processors", "spanmetrics"): "was removed; use the connector span_metrics",
}
REMOVED_KEYS = {
    "check_collector_pipeline": "was removed from health_check",
    "resource_to_telemetry_conversion": "is deprecated; use resource_constant_labels",
    "blocking": "is called block_on_overflow",
    "min_size_items": "is called min_size",
    "address": "of service.telemetry.metrics is ignored; use readers",
}


def problems(config: dict[str, Any]) -> list[str]:
    """What is wrong with a collector's configuration; nothing: it is sound."""
    return [*_components(config), *_pipelines(config), *_keys(config, ""), *_addresses(config, "")]


def _components(config: dict[str, Any]) -> Iterator[str]:
    for section in config.keys() - {*SECTIONS, "service"}:
        yield f"{section}: there is no such section"
    for section in SECTIONS:
        for name, body in config.get(section, {}).items():
            kind = name.partition("/")[0]
            if words := RENAMED.get((section, kind)):
                yield f"{section}.{name}: {words}"
            elif kind not in KNOWN[section]:
                yield f"{section}.{name}: unknown"
            else:
                for key in (body or {}).keys() - KNOWN[section][kind] - REMOVED_KEYS.keys():
                    yield f"{section}.{name}.{key}: unknown"
    for name, body in config.get("connectors", {}).items():
        if name.partition("/")[0] == "span_metrics" and (body or {}).get("histogram", {}).get("unit") != "s":
            yield f"connectors.{name}: say histogram.unit: s, for the default changes"


def _pipelines(config: dict[str, Any]) -> Iterator[str]:
    service = config.get("service", {})
    pipelines, connectors = service.get("pipelines", {}), set(config.get("connectors", {}))
    used: dict[str, set[str]] = {section: set() for section in SECTIONS}
    used["extensions"] |= set(service.get("extensions", ()))
    for name, pipeline in pipelines.items():
        for section in ("receivers", "processors", "exporters"):
            for part in pipeline.get(section, ()):
                is_connector = part in connectors and section != "processors"
                used["connectors" if is_connector else section].add(part)
        if pipeline.get("processors", [""])[0].partition("/")[0] != "memory_limiter":
            yield f"pipelines.{name}: memory_limiter comes first"
    for section in SECTIONS:
        there = set(config.get(section, {}))
        yield from (f"{section}.{name}: is used and not there" for name in sorted(used[section] - there))
        yield from (f"{section}.{name}: is there and not used" for name in sorted(there - used[section]))
    for name in sorted(connectors):
        ends = [
            section
            for section in ("receivers", "exporters")
            if any(name in p.get(section, ()) for p in pipelines.values())
        ]
        if len(ends) == 1:
            yield f"connectors.{name}: must end one pipeline and begin another"


def _keys(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{where}.{key}".lstrip(".")
            if key in REMOVED_KEYS and (key != "address" or path.startswith("service.telemetry")):
                yield f"{path}: {REMOVED_KEYS[key]}"
            yield from _keys(inner, path)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner, where)


def _addresses(value: Any, where: str) -> Iterator[str]:
    """Whoever starts it listens on this machine alone, unless he says otherwise; every variable has a default."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _addresses(inner, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _addresses(inner, where)
    elif isinstance(value, str):
        if "0.0.0.0" in value:
            yield f"{where}: listens on all addresses; use ${{env:OTELCOL_BIND:-127.0.0.1}}"
        for variable in re.findall(r"\$\{(.*?)\}", value):
            if not re.fullmatch(r"env:[A-Z_]+:-.+", variable):
                yield f"{where}: ${{{variable}}} has no default; write ${{env:NAME:-default}}"
