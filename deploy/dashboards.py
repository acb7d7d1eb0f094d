"""The Grafana dashboards, generated from a short list of panels: title, queries, unit."""

from dataclasses import dataclass
from typing import Any

from deploy.queries import gauge, portions, quantile, rate, share_within
from projections.registry import METRICS

FAILED = 'outcome=~"failed|timed_out"'
WIDTH = 24
HEIGHT = 8
SLOW_S = 1.5
GOOD_S = 0.8


@dataclass(frozen=True)
class Panel:
    """One panel. `queries`: legend → PromQL. `lines`: thresholds, from good to bad."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    is_stacked: bool = False
    lines: tuple[float, ...] = ()
    width: int = 12


def percentiles(name: str, where: str = "") -> dict[str, str]:
    return {f"p{round(part * 100)}": quantile(part, name, where=where) for part in (0.5, 0.95, 0.99)}


LATENCY = "orch.turn.response_latency"
STAGE = "orch.turn.stage.duration"
SPOKEN, TYPED = 'via="speech"', 'via="text"'
CONVERSATIONS = [
    Panel("Response latency, spoken", percentiles(LATENCY, SPOKEN), "s", lines=(GOOD_S, SLOW_S)),
    Panel("Where the time goes (mean)", {"{{stage}}": portions(STAGE, "stage", LATENCY)}, "s", is_stacked=True),
    Panel(
        f"Turns answered within {GOOD_S} s",
        {"spoken": share_within(LATENCY, GOOD_S, where=SPOKEN), "typed": share_within(LATENCY, GOOD_S, where=TYPED)},
        "percentunit",
    ),
    Panel("Response latency, typed", percentiles(LATENCY, TYPED), "s", lines=(GOOD_S, SLOW_S)),
    Panel("Stages, p95", {"{{stage}}": quantile(0.95, STAGE, "stage")}, "s"),
    Panel("Turns by outcome", {"{{outcome}}": rate("orch.turn.count", "outcome")}, "ops", is_stacked=True),
    Panel("Fallback answers", {"{{reason}}": rate("orch.turn.fallback", "reason")}, "ops", is_stacked=True),
    Panel(
        "User sounds while the agent speaks",
        {"{{kind}}": rate("orch.interruption.count", "kind")},
        "ops",
        is_stacked=True,
    ),
    Panel("Stop latency: user's sound to silence", percentiles("orch.interruption.stop_latency"), "s"),
    Panel("Services, p95", {"{{service}}": quantile(0.95, "orch.service.duration", "service")}, "s"),
    Panel("Service failures", {"{{service}}": rate("orch.service.duration", "service", where=FAILED)}, "ops"),
    Panel(
        "Fallback providers",
        {"switched": rate("orch.service.switched"), "broken": gauge("orch.service.broken")},
    ),
    Panel("Tool calls, p95", {"{{tool}}": quantile(0.95, "orch.tool.duration", "tool")}, "s"),
    Panel("Tool calls by outcome", {"{{outcome}}": rate("orch.tool.duration", "outcome")}, "ops", is_stacked=True),
    Panel("Requests to models, p95", {"{{model}}": quantile(0.95, "orch.model.duration", "model")}, "s"),
    Panel(
        "Tokens of models",
        {"{{model}} {{direction}}": rate("orch.model.token.count", "model, direction")},
        is_stacked=True,
    ),
    Panel("First chunk of speech", percentiles("orch.speech.first_chunk"), "s"),
    Panel("Length of conversations", percentiles("orch.session.duration"), "s"),
    Panel("Conversations that ended", {"{{reason}}": rate("orch.session.ended", "reason")}, "ops", is_stacked=True),
]
RUNTIME = [
    Panel("Conversations", {"{{instance}}": gauge("orch.session.active", "instance")}, is_stacked=True),
    Panel("Shards owned", {"{{instance}}": gauge("orch.shard.owned", "instance")}, is_stacked=True),
    Panel("Redis: time since its last answer", {"{{instance}}": gauge("orch.redis.silence", "instance")}, "s"),
    Panel("Event loop lag", percentiles("orch.eventloop.lag"), "s"),
    Panel("Events waiting for Redis", {"{{instance}}": gauge("orch.inbox.queued", "instance")}),
    Panel("Committed events", {"{{type}}": rate("orch.event.count", "type")}, "ops", is_stacked=True),
    Panel("Phase changes", {"{{from}} → {{to}}": rate("orch.transition.count", "from, to")}, "ops"),
    Panel(
        "Inputs",
        {
            "handled": rate("orch.input.handled"),
            "rejected": rate("orch.input.rejected"),
            "duplicate": rate("orch.input.duplicate"),
            "late": rate("orch.input.late"),
            "dead letter": rate("orch.input.dead_letter"),
        },
        "ops",
    ),
    Panel(
        "Failures and takeovers",
        {
            "taken over": rate("orch.take_over.count"),
            "unrecoverable": rate("orch.session.unrecoverable"),
            "versions lost by Redis": rate("orch.redis.lost_version"),
            "the reducer raised": rate("orch.reducer.failure"),
            "queue overflows": rate("orch.overflow.count"),
            "media dropped": rate("orch.media.dropped"),
            "parts that did not end": rate("orch.teardown.stuck"),
            "lines of the log lost": rate("orch.output.lost"),
        },
        "ops",
    ),
    Panel(
        "Admission: who was refused, or waited",
        {
            "connections": rate("orch.connection.refused"),
            "by address": rate("orch.request.refused"),
            "tokens": rate("orch.access.refused"),
            "callers": rate("orch.session.refused"),
            "silent callers": rate("orch.session.silent"),
            "callers away": rate("orch.session.away"),
            "floods": rate("orch.client.flood"),
            "messages that waited": rate("orch.input.delayed"),
        },
        "ops",
    ),
    Panel("History lag", {"{{instance}}": gauge("orch.history.lag", "instance")}, "s"),
    Panel(
        "History",
        {
            "written": rate("orch.history.written"),
            "failures": rate("orch.history.failure"),
            "forks": rate("orch.history.fork"),
            "rebuilt": rate("orch.history.rebuild"),
        },
        "ops",
    ),
    Panel(
        "Telemetry",
        {
            "spans exported": rate("orch.telemetry.span.exported"),
            "spans dropped": rate("orch.telemetry.span.dropped"),
            "events dropped": rate("orch.telemetry.event.dropped"),
        },
        "ops",
    ),
]
BOARDS = {
    "conversations": ("orch: conversations", CONVERSATIONS),
    "runtime": ("orch: runtime", RUNTIME),
}


def board(name: str) -> dict[str, Any]:
    """A dashboard in Grafana's file format."""
    title, panels = BOARDS[name]
    return {
        "uid": f"orch-{name}",
        "title": title,
        "tags": ["orch"],
        "schemaVersion": 41,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    colours = ("green", "yellow", "red")
    steps = [{"color": colour, "value": value} for colour, value in zip(colours, (None, *panel.lines), strict=False)]
    per_row = WIDTH // panel.width
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": _described(panel),
        "datasource": source,
        "gridPos": {
            "h": HEIGHT,
            "w": panel.width,
            "x": number % per_row * panel.width,
            "y": number // per_row * HEIGHT,
        },
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {
                    "stacking": {"mode": "normal" if panel.is_stacked else "none"},
                    "fillOpacity": 20 if panel.is_stacked else 0,
                    "thresholdsStyle": {"mode": "line" if panel.lines else "off"},
                },
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "table", "placement": "right", "calcs": ["lastNotNull", "max"]}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "expr": query,
                "legendFormat": legend,
                "datasource": source,
                "exemplar": True,
            }
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _described(panel: Panel) -> str:
    """Panel description: the registry's meanings of the metrics in its queries."""
    asked = "\n".join(panel.queries.values())
    return "\n".join(metric.meaning for metric in METRICS.values() if metric.prometheus in asked)
