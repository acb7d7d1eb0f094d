"""Encodes spans as OTLP, in protobuf or JSON lines, with OpenTelemetry's own encoder."""

import json
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from projections import names
from projections.span import Context, Span, in_order

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_IDS = frozenset({"traceId", "spanId", "parentSpanId"})


def resource(*, is_reexport: bool = False) -> Resource:
    """Return the OpenTelemetry resource of exported spans, from OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES. All
    runs of a program get equal resources. `is_reexport`: mark the resource as exported from a log.
    """
    told = OTELResourceDetector().detect().attributes
    return Resource({"service.name": names.SCOPE, **told, **({names.REEXPORTED: True} if is_reexport else {})})


def otlp(spans: Sequence[Span]) -> bytes:
    """Encode spans as an ExportTraceServiceRequest, the body for /v1/traces. The same spans give the same bytes."""
    return bytes(_request(spans).SerializeToString(deterministic=True))


def otlp_json(spans: Sequence[Span]) -> bytes:
    """Encode spans as an ExportTraceServiceRequest in one line of JSON. Jaeger's page reads this format, and a
    collector's file exporter writes it.
    """
    request = MessageToDict(_request(spans), use_integers_for_enums=True)  # type: ignore[no-untyped-call]
    return json.dumps(_with_hex_ids(request), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def readable(spans: Sequence[Span], by: Resource) -> list[ReadableSpan]:
    """Convert spans for the exporters of the OpenTelemetry SDK; `by` is the resource that they belong to."""
    scope = InstrumentationScope(names.SCOPE)
    return [_readable(span, by, scope) for span in in_order(list(spans))]


def _request(spans: Sequence[Span]) -> Any:
    return encode_spans(readable(spans, resource(is_reexport=True)))


def _readable(span: Span, by: Resource, scope: InstrumentationScope) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=_context(span.context),
        parent=None if span.parent is None else _context(span.parent),
        resource=by,
        attributes=dict(sorted(span.attributes.items())),
        events=[Event(moment.name, moment.attributes, moment.at_us * 1000) for moment in span.moments],
        links=[Link(_context(link.to), {names.LINK_TYPE: link.kind}) for link in span.links],
        kind=SpanKind.CLIENT if span.is_call else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
        start_time=span.start_us * 1000,
        end_time=span.end_us * 1000,
        instrumentation_scope=scope,
    )


def _context(context: Context) -> SpanContext:
    return SpanContext(context.trace_id, context.span_id, is_remote=False, trace_flags=_SAMPLED)


def _with_hex_ids(value: Any) -> Any:
    """Rewrite trace and span ids in a JSON value from base64 (protobuf's JSON) to hexadecimal (OTLP's JSON)."""
    if isinstance(value, list):
        return [_with_hex_ids(item) for item in value]
    if isinstance(value, dict):
        return {
            key: b64decode(item).hex() if key in _IDS and isinstance(item, str) else _with_hex_ids(item)
            for key, item in value.items()
        }
    return value
