"""The /metrics page: values of the OpenTelemetry SDK in Prometheus formats, with exemplars.

Replaces the SDK's own Prometheus exporter, which drops exemplars. That exporter also drops series without a value: a
series would first appear with a value above 0, and `rate` would miss this first increase.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import product

from opentelemetry.sdk.metrics.export import DataPointT, HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from projections.registry import METRICS, Metric

Values = tuple[str, ...]
"""Label values, in the order of the registry."""
Points = dict[Values, DataPointT]
Buckets = list[tuple[str, float] | tuple[str, float, Exemplar]]


class MetricsPage(Collector):
    """Makes the /metrics page from the values that the reader of the OpenTelemetry SDK collects."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        self._reader = reader

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type, in the format that the Accept header asks for. Only the OpenMetrics
        format, for which Prometheus asks, has exemplars.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self), content_type

    def collect(self) -> Iterator[Family]:
        """Yield all metrics of registry.py with their values; none if the OpenTelemetry SDK is disabled."""
        data = self._reader.get_metrics_data()
        points: dict[str, Points] = {
            one.name: {tuple(str((p.attributes or {})[name]) for name in METRICS[one.name].labels): p for p in some}
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for one in scope.metrics
            if one.name in METRICS and (some := one.data.data_points)  # the SDK may have metrics of its own
        }
        if points:
            yield from (_family(metric, points.get(name, {})) for name, metric in METRICS.items())


def _family(metric: Metric, points: Points) -> Family:
    """Convert a metric to Prometheus's form, with one series for each combination of label values.

    Label values that the registry lists are shown from the start, with 0. Other label values (event types, phases,
    names) are shown once they have occurred.
    """
    about = (metric.prometheus, metric.meaning)
    each = dict.fromkeys([*product(*metric.labels.values()), *points])
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(*about, labels=list(metric.labels))
        for values in each:
            point = points.get(values)
            assert isinstance(point, HistogramDataPoint | None), "meters.py makes what the registry says"
            histogram.add_metric(values, _buckets(metric, point), point.sum if point else 0)
        return histogram
    number = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(*about, labels=[*metric.labels])
    for values in each:
        point = points.get(values)
        assert isinstance(point, NumberDataPoint | None), "meters.py makes what the registry says"
        number.add_metric(values, point.value if point else 0)
    return number


def _buckets(metric: Metric, point: HistogramDataPoint | None) -> Buckets:
    """Return the cumulative buckets of a histogram. If the SDK has an exemplar for a bucket (a value and its trace id),
    the bucket contains the exemplar.
    """
    bounds = [*(str(float(bound)) for bound in metric.buckets), "+Inf"]
    if point is None:
        return [(bound, 0) for bound in bounds]
    examples = {bisect_left(point.explicit_bounds, one.value): one for one in point.exemplars}
    found: Buckets = []
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
