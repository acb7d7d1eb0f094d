"""Generates the table of docs/observability.md from the registry of metrics."""

from projections.registry import METRICS, MOST_NAMES, OTHER, Metric


def table() -> str:
    """One row per metric, with its OpenTelemetry and Prometheus names."""
    lines = [
        f"| `{one.name}` | `{one.prometheus}` | {_kind(one)} | {_labels(one)} | {one.meaning} |"
        for one in METRICS.values()
    ]
    return "\n".join(["| metric | at /metrics | kind | labels | meaning |", "|---|---|---|---|---|", *lines])


def _kind(metric: Metric) -> str:
    return f"{metric.kind}, {metric.unit.strip('{}')}s" if metric.unit != "s" else f"{metric.kind}, seconds"


def _labels(metric: Metric) -> str:
    return "; ".join(
        f"{label}: {', '.join(known) or _unlisted(metric, label)}" for label, known in metric.labels.items()
    )


def _unlisted(metric: Metric, label: str) -> str:
    return f"(at most {MOST_NAMES} names, then {OTHER})" if label == metric.named else "(bounded by the code)"
