"""The table of docs/observability.md, drawn from the registry of metrics."""

from projections.registry import METRICS, Metric


def table() -> str:
    """Every metric, as OpenTelemetry and as Prometheus call it."""
    lines = [
        f"| `{one.name}` | `{one.prometheus}` | {_kind(one)} | {_labels(one)} | {one.meaning} |"
        for one in METRICS.values()
    ]
    return "\n".join(["| metric | at /metrics | kind | labels | meaning |", "|---|---|---|---|---|", *lines])


def _kind(metric: Metric) -> str:
    return f"{metric.kind}, {metric.unit.strip('{}')}s" if metric.unit != "s" else f"{metric.kind}, seconds"


def _labels(metric: Metric) -> str:
    return "; ".join(
        f"{label}: {', '.join(known) or '(bounded by the code)'}" for label, known in metric.labels.items()
    )
