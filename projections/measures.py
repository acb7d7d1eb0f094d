"""Computes values for the metrics of registry.py from committed events and closed spans. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from events.derived import StateChanged
from events.envelope import Event
from projections import names
from projections.registry import METRICS
from projections.span import Span

Labels = tuple[tuple[str, str], ...]
_SERVICES = frozenset({names.INTENT, names.ANSWER, names.FILLER, names.TEXT_TO_SPEECH})


@dataclass(frozen=True, slots=True)
class Measurement:
    """One value: an observation for a histogram, an increment for a counter."""

    metric: str
    value: float
    labels: Labels = ()
    of: Span | None = None
    """The span to attach as an exemplar (an example trace for the value); None: no span."""


def of_events(events: Iterable[Event]) -> Iterator[Measurement]:
    """Count events by type. Count phase changes by the phase before and the phase after."""
    found = Counter[tuple[str, Labels]]()
    for event in events:
        found["orch.event.count", (("type", event.type),)] += 1  # type: ignore[attr-defined] # every concrete event has a type
        if isinstance(event, StateChanged):
            found["orch.transition.count", (("from", event.from_phase), ("to", event.to_phase))] += 1
    return (Measurement(metric, count, labels) for (metric, labels), count in found.items())


def of_span(span: Span) -> Iterator[Measurement]:
    """Yield the measurements that a closed span gives, such as its duration and its outcome."""
    length_s = (span.end_us - span.start_us) / 1e6
    match span.name:
        case names.TURN:
            yield from _of_turn(span)
        case names.SESSION:
            reason = str(span.attributes.get(names.SESSION_END_REASON, ""))
            yield _measured("orch.session.ended", 1, span, reason=reason)
            yield _measured("orch.session.duration", length_s, span)
        case names.BARGE_IN:
            yield _measured("orch.interruption.count", 1, span, kind=str(span.attributes[names.BARGE_IN_KIND]))
            if names.STOP_LATENCY_MS in span.attributes:
                stop_s = int(span.attributes[names.STOP_LATENCY_MS]) / 1e3
                yield _measured("orch.interruption.stop_latency", stop_s, span)
        case _ if span.attributes.get(names.OPERATION) == names.EXECUTE_TOOL:
            outcome, tool = str(span.attributes[names.OUTCOME]), str(span.attributes[names.TOOL_NAME])
            yield _measured("orch.tool.duration", length_s, span, outcome=outcome, tool=tool)
        case _ if span.attributes.get(names.OPERATION) == names.CHAT:
            yield from _of_request(span, length_s)
        case name if name in _SERVICES and span.attributes[names.OUTCOME] != names.SHOWN:
            outcome = str(span.attributes[names.OUTCOME])
            yield _measured("orch.service.duration", length_s, span, outcome=outcome, service=name)
            if names.FIRST_CHUNK_MS in span.attributes:
                yield _measured("orch.speech.first_chunk", int(span.attributes[names.FIRST_CHUNK_MS]) / 1e3, span)


def _of_turn(turn: Span) -> Iterator[Measurement]:
    yield _measured("orch.turn.count", 1, turn, outcome=str(turn.attributes[names.TURN_OUTCOME]))
    if names.FALLBACK in turn.attributes:
        yield _measured("orch.turn.fallback", 1, turn, reason=str(turn.attributes[names.FALLBACK]))
    if names.RESPONSE_LATENCY_US in turn.attributes:
        latency_s = int(turn.attributes[names.RESPONSE_LATENCY_US]) / 1e6
        yield _measured("orch.turn.response_latency", latency_s, turn, via=str(turn.attributes[names.TURN_VIA]))
        for stage in METRICS["orch.turn.stage.duration"].labels["stage"]:
            if (us := turn.attributes.get(names.STAGE_US.format(stage))) is not None:
                yield _measured("orch.turn.stage.duration", int(us) / 1e6, turn, stage=stage)


def _of_request(chat: Span, length_s: float) -> Iterator[Measurement]:
    model = str(chat.attributes.get(names.RESPONSE_MODEL, names.UNNAMED))
    yield _measured("orch.model.duration", length_s, chat, model=model)
    for direction, name in (("input", names.INPUT_TOKENS), ("output", names.OUTPUT_TOKENS)):
        if tokens := int(chat.attributes.get(name, 0)):
            yield _measured("orch.model.token.count", tokens, chat, direction=direction, model=model)


def _measured(name: str, value: float, span: Span, **labels: str) -> Measurement:
    metric = METRICS[name]
    return Measurement(
        name, value, tuple((label, metric.label(label, labels[label])) for label in sorted(labels)), span
    )
