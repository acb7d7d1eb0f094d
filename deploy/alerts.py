"""The alerts, as rules for Prometheus: each says what a caller suffers, and what to do."""

from dataclasses import dataclass
from typing import Any

from deploy.dashboards import FAILED, SPOKEN
from deploy.queries import gauge, increase, quantile, rate
from projections.registry import METRICS


@dataclass(frozen=True)
class Alert:
    """`holds_for`: so long it must be true before somebody is called."""

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
        "Look at the stages of the dashboard orch: conversations; the one that grew is to blame.",
    ),
    Alert(
        "OrchTurnsFail",
        f"{rate('orch.turn.count', over='5m', where=FAILED)} / {rate('orch.turn.count', over='5m')} > 0.05",
        "5m",
        "page",
        "More than one turn in twenty fails: the answer cannot be spoken, and callers hear nothing.",
        "Look at text_to_speech in the service failures of the dashboard; the traces of failed turns say more.",
    ),
    Alert(
        "OrchFallbackAnswers",
        f"{rate('orch.turn.fallback', over='5m')} / {rate('orch.turn.count', over='5m')} > 0.05",
        "5m",
        "page",
        "More than one caller in twenty hears the fallback answer.",
        "The answer service fails or is too slow; the dashboard says which.",
    ),
    Alert(
        "OrchServiceFails",
        f"{rate('orch.service.duration', 'service', '5m', FAILED)}"
        f" / {rate('orch.service.duration', 'service', '5m')} > 0.05",
        "5m",
        "ticket",
        "More than one request in twenty to a service fails or takes too long.",
        "Ask the service named by the label; traces show its requests.",
    ),
    Alert(
        "OrchSlowToStop",
        f"{quantile(0.95, 'orch.interruption.stop_latency', over='10m')} > 0.3",
        "10m",
        "ticket",
        "The agent goes on speaking over its callers.",
        "Look at the event loop lag, then at the policy's interruption rules.",
    ),
    Alert(
        "OrchNoShards",
        f"{gauge('orch.shard.owned')} == 0 or absent({METRICS['orch.shard.owned'].prometheus})",
        "1m",
        "page",
        "No node owns a shard, so no call can be taken.",
        "Do the nodes run? `orch doctor` says what is wrong.",
    ),
    Alert(
        "OrchRedisDoesNotAnswer",
        f"{METRICS['orch.redis.silence'].prometheus} > 5",
        "30s",
        "page",
        "Redis does not answer a node: its callers wait, and it takes no new ones.",
        "Look at Redis: its memory, its disk, its persistence.",
    ),
    Alert(
        "OrchLostVersions",
        f"{increase('orch.redis.lost_version', '15m')} > 0",
        "0m",
        "page",
        "Redis has lost what it had committed.",
        "It failed over or lost its last writes: see docs/guarantees.md; `orch doctor` says how to prevent it.",
    ),
    Alert(
        "OrchReducerFailures",
        f"{increase('orch.reducer.failure', '15m')} > 0",
        "0m",
        "page",
        "orch ran into a defect of its own.",
        "The dead letter holds all that is needed to see it again; please report it.",
    ),
    Alert(
        "OrchUnrecoverable",
        f"{increase('orch.session.unrecoverable', '15m')} > 0",
        "0m",
        "page",
        "The log of a conversation cannot be read, so nobody goes on with it.",
        "The service's log names the session and the reason.",
    ),
    Alert(
        "OrchDeadLetters",
        f"{rate('orch.input.dead_letter', over='5m')} > 0",
        "5m",
        "ticket",
        "Events come that belong to no conversation or cannot be read.",
        "The dead letters are kept with the reason; a producer sends what it should not.",
    ),
    Alert(
        "OrchLoopLags",
        f"{quantile(0.99, 'orch.eventloop.lag', over='5m')} > 0.1",
        "5m",
        "ticket",
        "The event loop is late: everything is.",
        "Too many calls for this machine, or a function of yours that blocks.",
    ),
    Alert(
        "OrchHistoryLags",
        f"{METRICS['orch.history.lag'].prometheus} > 10",
        "5m",
        "ticket",
        "The history is more than ten seconds behind; calls are not touched.",
        "Look at the database. Redis keeps what is not written yet, so look at its memory too.",
    ),
    Alert(
        "OrchHistoryFails",
        f"{rate('orch.history.failure', over='5m')} > 0",
        "10m",
        "ticket",
        "The history cannot be written; calls are not touched.",
        "The service's log says why. Redis keeps what is not written yet, so look at its memory too.",
    ),
    Alert(
        "OrchTelemetryDrops",
        f"{rate('orch.telemetry.span.dropped', over='5m')} + {rate('orch.telemetry.event.dropped', over='5m')} > 0",
        "10m",
        "ticket",
        "Traces have holes; calls are not touched.",
        "Is the collector there, and does it keep up? What is missing can be exported from the logs.",
    ),
)


def rules() -> dict[str, Any]:
    """A rule file as Prometheus loads it."""
    return {"groups": [{"name": "orch", "rules": [_rule(alert) for alert in ALERTS]}]}


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.query,
        "for": alert.holds_for,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.todo},
    }
