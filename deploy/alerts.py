"""Alert rules for Prometheus. Each says what callers notice and what to do."""

from dataclasses import dataclass
from typing import Any

from deploy.dashboards import FAILED, SPOKEN
from deploy.queries import gauge, increase, quantile, rate
from projections.registry import METRICS


@dataclass(frozen=True)
class Alert:
    """One alert. `holds_for`: how long the query must be true before it fires, as a Prometheus duration."""

    name: str
    query: str
    holds_for: str
    severity: str
    summary: str
    todo: str


ALERTS = (
    Alert(
        "OrchSlowAnswers",
        f"{quantile(0.95, 'orch.turn.response_latency', over='5m', where=SPOKEN)} > 1.5",
        "10m",
        "page",
        "One spoken answer in twenty takes more than 1.5 s.",
        "Open the dashboard 'orch: conversations'. The stage that grew is the cause.",
    ),
    Alert(
        "OrchTurnsFail",
        f"{rate('orch.turn.count', over='5m', where=FAILED)} / {rate('orch.turn.count', over='5m')} > 0.05",
        "5m",
        "page",
        "More than one turn in twenty fails: the answer cannot be spoken, and callers hear nothing.",
        "Check text_to_speech under service failures in the dashboard, then the traces of failed turns.",
    ),
    Alert(
        "OrchFallbackAnswers",
        f"{rate('orch.turn.fallback', over='5m')} / {rate('orch.turn.count', over='5m')} > 0.05",
        "5m",
        "page",
        "More than one caller in twenty hears the fallback answer.",
        "The answer service fails or is too slow; the dashboard shows which.",
    ),
    Alert(
        "OrchServiceFails",
        f"{rate('orch.service.duration', 'service', '5m', FAILED)}"
        f" / {rate('orch.service.duration', 'service', '5m')} > 0.05",
        "5m",
        "ticket",
        "More than one request in twenty to a service fails or takes too long.",
        "Check the service named by the label; traces show its requests.",
    ),
    Alert(
        "OrchSlowToStop",
        f"{quantile(0.95, 'orch.interruption.stop_latency', over='10m')} > 0.3",
        "10m",
        "ticket",
        "In one interruption of twenty, the agent speaks on for more than 300 ms.",
        "Check the event loop lag, then the policy's interruption rules.",
    ),
    Alert(
        "OrchNoShards",
        f"{gauge('orch.shard.owned')} == 0 or absent({METRICS['orch.shard.owned'].prometheus})",
        "1m",
        "page",
        "No node owns a shard, so no call can be taken.",
        "Check that the nodes run; `orch doctor` says what is wrong.",
    ),
    Alert(
        "OrchRedisDoesNotAnswer",
        f"{METRICS['orch.redis.silence'].prometheus} > 5",
        "30s",
        "page",
        "Redis does not answer a node: its callers wait, and it takes no new calls.",
        "Check the memory, disk and persistence of Redis.",
    ),
    Alert(
        "OrchLostVersions",
        f"{increase('orch.redis.lost_version', '15m')} > 0",
        "0m",
        "page",
        "Redis has lost committed events.",
        "It failed over or lost its last writes: see docs/guarantees.md. `orch doctor` says how to prevent it.",
    ),
    Alert(
        "OrchReducerFailures",
        f"{increase('orch.reducer.failure', '15m')} > 0",
        "0m",
        "page",
        "orch hit a bug of its own.",
        "Please report it with the dead letter, which is enough to reproduce it.",
    ),
    Alert(
        "OrchUnrecoverable",
        f"{increase('orch.session.unrecoverable', '15m')} > 0",
        "0m",
        "page",
        "The log of a conversation cannot be read, so no node continues it.",
        "The service's log names the session and the reason.",
    ),
    Alert(
        "OrchDeadLetters",
        f"{rate('orch.input.dead_letter', over='5m')} > 0",
        "5m",
        "ticket",
        "A producer sends events that belong to no conversation or cannot be read.",
        "Read the dead letters: each has its reason.",
    ),
    Alert(
        "OrchLoopLags",
        f"{quantile(0.99, 'orch.eventloop.lag', over='5m')} > 0.1",
        "5m",
        "ticket",
        "The event loop is late, and every call with it.",
        "Look for too many calls on this machine, or a blocking function in your agent.",
    ),
    Alert(
        "OrchHistoryLags",
        f"{METRICS['orch.history.lag'].prometheus} > 10",
        "5m",
        "ticket",
        "The history is more than ten seconds behind; calls are not affected.",
        "Check the database. Redis keeps unwritten events, so check its memory too.",
    ),
    Alert(
        "OrchHistoryFails",
        f"{rate('orch.history.failure', over='5m')} > 0",
        "10m",
        "ticket",
        "The history cannot be written; calls are not affected.",
        "The service's log says why. Redis keeps unwritten events, so check its memory too.",
    ),
    Alert(
        "OrchTelemetryDrops",
        f"{rate('orch.telemetry.span.dropped', over='5m')} + {rate('orch.telemetry.event.dropped', over='5m')} > 0",
        "10m",
        "ticket",
        "Traces have gaps; calls are not affected.",
        "Check that the collector runs and keeps up. Missing traces can be exported from the logs.",
    ),
)


def rules() -> dict[str, Any]:
    """The rule file in Prometheus's format."""
    return {"groups": [{"name": "orch", "rules": [_rule(alert) for alert in ALERTS]}]}


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.query,
        "for": alert.holds_for,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.todo},
    }
