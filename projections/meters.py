"""Records measurements in OpenTelemetry instruments, one per metric of registry.py, and pushes them over OTLP.

metrics_page.py serves the same values at /metrics. The values are pushed only if the standard OTEL_… variables name a
collector.
"""

import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from uuid import uuid4

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from projections import names
from projections.measures import Measurement
from projections.metrics_page import MetricsPage
from projections.otlp import resource
from projections.registry import METRICS, MOST_NAMES, OTHER, Metric
from projections.span import Span

logger = logging.getLogger(__name__)

CLOSE_MS = 1_000
"""Time limit for the shutdown of the meter provider, in milliseconds."""
PUSH_EVERY_MS = 60_000
SPOKEN = "http/protobuf"
"""The only OTLP protocol with which orch exports."""


def collector(signal: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the standard OTEL_… variables name a collector for a signal (`TRACES` or `METRICS`), and do not disable
    the export of this signal.
    """
    told = environment.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    is_off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return bool(told) and not is_off and environment.get(f"OTEL_{signal}_EXPORTER", "otlp") != "none"


def check_protocol(environment: Mapping[str, str] = os.environ) -> None:
    """Log a warning if the OTEL_… variables ask for another protocol than http/protobuf: orch supports no other."""
    is_named = collector("TRACES", environment) or collector("METRICS", environment)
    for signal in ("_TRACES", "_METRICS", ""):
        name = f"OTEL_EXPORTER_OTLP{signal}_PROTOCOL"
        if is_named and (protocol := environment.get(name, SPOKEN)) != SPOKEN:
            logger.warning("%s=%s: not supported; orch exports with %s", name, protocol, SPOKEN)


def push_every_s(environment: Mapping[str, str] = os.environ) -> float:
    """Return the interval between pushes of metrics, in seconds (OTEL_METRIC_EXPORT_INTERVAL is in milliseconds)."""
    said = environment.get("OTEL_METRIC_EXPORT_INTERVAL", "")
    if said and not (said.isdecimal() and int(said)):
        logger.warning("OTEL_METRIC_EXPORT_INTERVAL=%s: not a number of milliseconds; using %d", said, PUSH_EVERY_MS)
        said = ""
    return int(said or PUSH_EVERY_MS) / 1e3


class Meters:
    """The OpenTelemetry instruments of all metrics in registry.py. `now` returns the current values of gauges and
    runtime counters: name of the metric → value.
    """

    def __init__(self, now: Callable[[], Mapping[str, float]]) -> None:
        self._now = now
        reader = InMemoryMetricReader()
        readers: list[MetricReader] = [reader]
        self._page = MetricsPage(reader)
        self._pushing: PeriodicExportingMetricReader | None = None
        if collector("METRICS"):
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

            # math.inf: only `push` pushes. A timer's thread would restart in forked children and push inherited values.
            self._pushing = PeriodicExportingMetricReader(OTLPMetricExporter(), math.inf)
            readers.append(self._pushing)
        self._provider = MeterProvider(readers, resource=_instance(), shutdown_on_exit=False)
        meter = self._provider.get_meter(names.SCOPE)
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._names: dict[str, set[str]] = defaultdict(set)
        """Label → the names (of tools, of models) that are shown as its values: at most MOST_NAMES."""
        for metric in METRICS.values():
            about = {"name": metric.name, "unit": metric.unit, "description": metric.meaning}
            if metric.kind == "gauge":
                meter.create_observable_gauge(callbacks=[self._observed(metric)], **about)
            elif metric.counted:
                meter.create_observable_counter(callbacks=[self._observed(metric)], **about)
            elif metric.kind == "counter":
                self._counters[metric.name] = meter.create_counter(**about)
                if not metric.labels:
                    self._counters[metric.name].add(0)  # so that pushed series start at 0, as on the page
            else:
                self._histograms[metric.name] = meter.create_histogram(
                    explicit_bucket_boundaries_advisory=metric.buckets, **about
                )

    def record(self, one: Measurement) -> None:
        labels = dict(one.labels)
        if named := METRICS[one.metric].named:
            labels[named] = self._shown(named, labels[named])
        if one.metric in self._counters:
            self._counters[one.metric].add(one.value, labels)
        else:
            context = None if one.of is None else _example(one.of)
            self._histograms[one.metric].record(one.value, labels, context)

    def _shown(self, label: str, name: str) -> str:
        """Return the name as a label value; OTHER if the label has MOST_NAMES other values already."""
        names_so_far = self._names[label]  # each makes a time series that is kept until the process ends
        if name not in names_so_far and len(names_so_far) < MOST_NAMES:
            names_so_far.add(name)
        return name if name in names_so_far else OTHER

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """The /metrics page and its content type, in the format that the Accept header asks for."""
        return self._page.text(accept)

    def push(self) -> None:
        """Push the current values to the collector, if one is configured. Blocks."""
        if self._pushing is not None:
            self._pushing.collect()

    def close(self) -> None:
        """Push the current values once more, then shut the instruments down. Blocks."""
        self.push()
        self._provider.shutdown(CLOSE_MS)

    def _observed(self, metric: Metric) -> Callable[[CallbackOptions], list[Observation]]:
        return lambda _: [Observation(self._now().get(metric.name, 0))]


def _instance() -> Resource:
    """Return a resource with an id of this process, so that several processes push separate series."""
    return Resource({"service.instance.id": str(uuid4())}).merge(resource())


def _example(span: Span) -> Context:
    """Return the span's OpenTelemetry context. The SDK makes the exemplar of a histogram value from this context."""
    context = SpanContext(span.context.trace_id, span.context.span_id, False, TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(context))
