"""Encodes spans for ui.perfetto.dev: one process per session, lanes for phases and work, arrows for causes."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from events.derived import StateChanged
from events.envelope import Event
from orchestrator.safe_text import one_line
from projections import names
from projections.span import Context, Span, in_order

PHASES, WORK = 1, 2
_ARROWS = frozenset({names.CAUSED_BY, names.INTERRUPTED, names.RETRY_OF})


def perfetto(events: Sequence[Event], spans: Sequence[Span]) -> bytes:
    """Encode events and their spans as Chrome trace events (JSON); times are microseconds since the first event."""
    zero_us = events[0].at_us if events else 0
    processes = {session_id: number for number, session_id in enumerate(dict.fromkeys(e.session_id for e in events), 1)}
    found: list[dict[str, Any]] = []
    for session_id, pid in processes.items():
        found += _named(session_id, pid)
        found += _phases([event for event in events if event.session_id == session_id], pid, zero_us)
    for number, span in enumerate(in_order(list(spans)), 1):
        found += _work(span, processes[span.session_id], number, zero_us)
    found += _arrows(spans, processes, zero_us)
    trace = {"displayTimeUnit": "ms", "traceEvents": found}
    return json.dumps(trace, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _named(session_id: str, pid: int) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "pid": pid, "name": "process_name", "args": {"name": one_line(session_id)}}
    for tid, name in ((PHASES, "phases"), (WORK, "work")):
        yield {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": name}}
        yield {"ph": "M", "pid": pid, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}


def _phases(events: Sequence[Event], pid: int, zero_us: int) -> Iterator[dict[str, Any]]:
    """Yield one slice per phase of a session, as Chrome's "complete" trace events: phases never overlap."""
    changes = [event for event in events if isinstance(event, StateChanged)]
    ends_us = [*(change.at_us for change in changes[1:]), events[-1].at_us]
    for change, end_us in zip(changes, ends_us, strict=True) if changes else ():
        what = {"ph": "X", "pid": pid, "tid": PHASES, "cat": "phase", "name": change.to_phase}
        args = {"version": change.version, "reason": one_line(change.reason)}
        yield what | {"ts": change.at_us - zero_us, "dur": end_us - change.at_us, "args": args}


def _work(span: Span, pid: int, number: int, zero_us: int) -> Iterator[dict[str, Any]]:
    """Yield a span as an asynchronous slice with an id of its own, because spans may overlap."""
    what = {"pid": pid, "tid": WORK, "cat": span.name, "name": span.name, "id": f"{span.context.span_id:016x}"}
    args = _shown(span.attributes) | ({"error": span.error} if span.error else {}) | {"number": number}
    yield what | {"ph": "b", "ts": span.start_us - zero_us, "args": args}
    for moment in span.moments:
        if moment.name == names.REJECTED:  # transitions show as phases
            yield what | {"ph": "n", "ts": moment.at_us - zero_us, "args": _shown(moment.attributes)}
    yield what | {"ph": "e", "ts": span.end_us - zero_us}


def _shown(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one_line(value) if isinstance(value, str) else value for name, value in attributes.items()}


def _arrows(spans: Iterable[Span], processes: dict[str, int], zero_us: int) -> Iterator[dict[str, Any]]:
    """Yield the arrows from causes to the spans that they caused. Perfetto draws arrows only between slices of a
    thread, so each end of an arrow gets a slice of length 0.
    """
    by_id = {_key(span.context): span for span in spans}
    for span in spans:
        for link in span.links:
            source = by_id.get(_key(link.to))
            if source is None or link.kind not in _ARROWS:
                continue
            pid, arrow = processes[span.session_id], f"{source.context.span_id:016x}>{span.context.span_id:016x}"
            ends = (("s", source, min(source.end_us, span.start_us)), ("f", span, span.start_us))
            for ph, end, at_us in ends:
                where = {"pid": pid, "tid": WORK, "ts": at_us - zero_us}
                yield where | {"ph": "X", "dur": 0, "cat": "cause", "name": end.name}
                yield where | {"ph": ph, "bp": "e", "cat": link.kind, "name": link.kind, "id": arrow}


def _key(context: Context) -> tuple[int, int]:
    return context.trace_id, context.span_id
