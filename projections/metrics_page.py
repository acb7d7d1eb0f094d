"""The page /metrics: what the OpenTelemetry SDK has measured, as Prometheus reads it, with examples of traces.

The SDK's own exporter for Prometheus leaves the examples (exemplars) out; the formats are written by prometheus_client.
"""

from bisect import bisect_left
from collections.abc import Iterator

from opentelemetry.sdk.metrics.export import (
    Gauge,
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as Measured
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from projections.registry import METRICS


class MetricsPage(Collector):
    """Of what the reader reads."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        self._reader = reader

    def text(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type, in the format that a scraper's Accept header asks for: Prometheus asks for
        OpenMetrics, which alone has examples.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self), content_type

    def collect(self) -> Iterator[Family]:
        """All metrics that have a value by now."""
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                yield from map(_family, scope.metrics)


def _family(measured: Measured) -> Family:
    metric = METRICS[measured.name]
    names = list(metric.labels)
    family: HistogramMetricFamily | CounterMetricFamily | GaugeMetricFamily
    if isinstance(measured.data, Sum | Gauge):
        kind = CounterMetricFamily if isinstance(measured.data, Sum) else GaugeMetricFamily
        family = kind(metric.prometheus, metric.meaning, labels=names)
        for number in measured.data.data_points:
            family.add_metric(_values(names, number), number.value)
        return family
    family = HistogramMetricFamily(metric.prometheus, metric.meaning, labels=names)
    for point in measured.data.data_points:
        assert isinstance(point, HistogramDataPoint), "no other kind is made in meters.py"
        family.add_metric(_values(names, point), _buckets(point), point.sum)
    return family


def _values(names: list[str], point: NumberDataPoint | HistogramDataPoint) -> list[str]:
    told = point.attributes or {}
    return [str(told[name]) for name in names]


def _buckets(point: HistogramDataPoint) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    """Each with all that is below its bound, and an example of what fell into it since the last scrape."""
    bounds = [*(str(float(bound)) for bound in point.explicit_bounds), "+Inf"]
    examples = {bisect_left(point.explicit_bounds, one.value): one for one in point.exemplars}
    found: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    so_far = 0
    for index, (bound, count) in enumerate(zip(bounds, point.bucket_counts, strict=True)):
        so_far += count
        one = examples.get(index)
        if one is None or one.trace_id is None or one.span_id is None:
            found.append((bound, so_far))
        else:
            ids = {"trace_id": f"{one.trace_id:032x}", "span_id": f"{one.span_id:016x}"}
            found.append((bound, so_far, Exemplar(ids, one.value, one.time_unix_nano / 1e9)))
    return found
