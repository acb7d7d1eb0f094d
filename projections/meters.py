"""Records measurements in instruments of the OpenTelemetry SDK, one for each metric of registry.py; metrics_page.py
shows them, and they are pushed over OTLP where the standard OTEL_… variables name a collector.
"""

import logging
import math
import os
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
from projections.registry import METRICS, Metric
from projections.span import Span

logger = logging.getLogger(__name__)

CLOSE_MS = 1_000
"""How long the collector may take to part."""
PUSH_EVERY_MS = 60_000
SPOKEN = "http/protobuf"


def collector(signal: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the standard variables name a collector for `TRACES` or `METRICS`, and do not switch it off."""
    told = environment.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    is_off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return bool(told) and not is_off and environment.get(f"OTEL_{signal}_EXPORTER", "otlp") != "none"


def check_protocol(environment: Mapping[str, str] = os.environ) -> None:
    """Say so where a collector is named with another protocol than orch speaks. It speaks its own all the same."""
    is_named = collector("TRACES", environment) or collector("METRICS", environment)
    for signal in ("_TRACES", "_METRICS", ""):
        name = f"OTEL_EXPORTER_OTLP{signal}_PROTOCOL"
        if is_named and (protocol := environment.get(name, SPOKEN)) != SPOKEN:
            logger.warning("%s=%s: orch speaks %s alone, and does so now", name, protocol, SPOKEN)


def push_every_s(environment: Mapping[str, str] = os.environ) -> float:
    """How often metrics are pushed, as the standard variable says."""
    said = environment.get("OTEL_METRIC_EXPORT_INTERVAL", "")
    if said and not (said.isdecimal() and int(said)):
        logger.warning("OTEL_METRIC_EXPORT_INTERVAL=%s is no number of milliseconds: %d it is", said, PUSH_EVERY_MS)
        said = ""
    return int(said or PUSH_EVERY_MS) / 1e3


class Meters:
    """`now` gives the present value of gauges and of the runtime's counters, by the names of the registry."""

    def __init__(self, now: Callable[[], Mapping[str, float]]) -> None:
        self._now = now
        reader = InMemoryMetricReader()
        readers: list[MetricReader] = [reader]
        self._page = MetricsPage(reader)
        self._pushing: PeriodicExportingMetricReader | None = None
        if collector("METRICS"):
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

            # Its own thread would come to life again in every child process, and push from there what it had inherited.
            self._pushing = PeriodicExportingMetricReader(OTLPMetricExporter(), math.inf)
            readers.append(self._pushing)
        self._provider = MeterProvider(readers, resource=_instance(), shutdown_on_exit=False)
        meter = self._provider.get_meter(names.SCOPE)
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS.values():
            about = {"name": metric.name, "unit": metric.unit, "description": metric.meaning}
            if metric.kind == "gauge":
                meter.create_observable_gauge(callbacks=[self._observed(metric)], **about)
            elif metric.counted:
                meter.create_observable_counter(callbacks=[self._observed(metric)], **about)
            elif metric.kind == "counter":
                self._counters[metric.name] = meter.create_counter(**about)
                if not metric.labels:
                    self._counters[metric.name].add(0)  # what is pushed begins with 0, as the page does
            else:
                self._histograms[metric.name] = meter.create_histogram(
                    explicit_bucket_boundaries_advisory=metric.buckets, **about
                )

    def record(self, one: Measurement) -> None:
        labels = dict(one.labels)
        if one.metric in self._counters:
            self._counters[one.metric].add(one.value, labels)
        else:
            context = None if one.of is None else _example(one.of)
            self._histograms[one.metric].record(one.value, labels, context)

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """/metrics and its content type, as a scraper's Accept header asks for it."""
        return self._page.text(accept)

    def push(self) -> None:
        """Give a collector what there is now, if one is named. Blocks."""
        if self._pushing is not None:
            self._pushing.collect()

    def close(self) -> None:
        """Push what there is for the last time. Blocks."""
        self.push()
        self._provider.shutdown(CLOSE_MS)

    def _observed(self, metric: Metric) -> Callable[[CallbackOptions], list[Observation]]:
        return lambda _: [Observation(self._now().get(metric.name, 0))]


def _instance() -> Resource:
    """Of this process: what several push into one collector would be one series else."""
    return Resource({"service.instance.id": str(uuid4())}).merge(resource())


def _example(span: Span) -> Context:
    """The context of a span, so that a histogram can name it as an example of a value (an exemplar)."""
    context = SpanContext(span.context.trace_id, span.context.span_id, False, TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(context))
