"""Every metric there is, as data: what fills it, how it is called for Prometheus, what the docs and dashboards draw."""

from dataclasses import dataclass, field
from typing import Literal

from projections.timing import STAGES

Kind = Literal["counter", "gauge", "histogram"]
_SUFFIX = {"s": "_seconds"}

TURN_S = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.25, 1.5, 2, 2.5, 3, 5, 10)
STAGE_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5)
SERVICE_S = (*STAGE_S, 7.5, 10, 15, 20, 30, 60)
STOP_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1)
CALL_S = (10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
LOOP_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)

OTHER = "other"
"""Stands for every value that a label's list does not have, so that nobody outside can make labels grow."""


@dataclass(frozen=True, slots=True)
class Metric:
    """`labels`: name → the values it can have; none listed: types or phases, which the code bounds."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    counted: str = ""
    """The counter of the runtime that it shows (orchestrator/runtime/counters.py)."""

    @property
    def prometheus(self) -> str:
        """As it is called at /metrics and in queries; of a histogram without _bucket, _sum and _count."""
        name = self.name.replace(".", "_") + _SUFFIX.get(self.unit, "")
        return f"{name}_total" if self.kind == "counter" else name

    def label(self, name: str, value: str) -> str:
        """The value, if the label can have it."""
        known = self.labels[name]
        return value if not known or value in known else OTHER


ENDINGS = (
    "goodbye",
    "user_away",
    "time_limit",
    "too_many_failures",
    "client_gone",
    "close_requested",
    "internal_error",
    OTHER,
)
OUTCOMES = ("completed", "interrupted", "superseded", "merged", "failed", "session_closed")

_ALL = (
    Metric(
        *("orch.turn.response_latency", "histogram", "s"),
        "From the end of the user's words to the first audio of the answer (of typed words: to its first text).",
        {"via": ("speech", "text")},
        TURN_S,
    ),
    Metric(
        *("orch.turn.stage.duration", "histogram", "s"),
        "Where a turn's response latency went; the stages of a turn add up to it.",
        {"stage": STAGES},
        STAGE_S,
    ),
    Metric("orch.turn.count", "counter", "{turn}", "Turns that ended.", {"outcome": OUTCOMES}),
    Metric(
        *("orch.turn.fallback", "counter", "{turn}"),
        "Turns in which callers heard the fallback answer, since the answer service failed or was too slow.",
        {"reason": ("service_failed", "answer_deadline")},
    ),
    Metric(
        *("orch.service.duration", "histogram", "s"),
        "Requests to services: intent, answer, and text-to-speech with fillers to the end of the synthesis. timed_out:"
        " the policy's deadline passed.",
        {
            "outcome": ("answered", "failed", "timed_out", "cancelled", "retried"),
            "service": ("intent", "answer", "filler", "text_to_speech"),
        },
        SERVICE_S,
    ),
    Metric(
        *("orch.speech.first_chunk", "histogram", "s"),
        "From the request for speech to its first chunk of audio.",
        {},
        STAGE_S,
    ),
    Metric(
        *("orch.interruption.count", "counter", "{interruption}"),
        "Sounds of the user over the agent, by what they turned out to be.",
        {"kind": ("interruption", "false_interruption", "undecided")},
    ),
    Metric(
        *("orch.interruption.stop_latency", "histogram", "s"),
        "From the sound, as its producer's clock has it, to the command to be silent.",
        {},
        STOP_S,
    ),
    Metric("orch.session.ended", "counter", "{session}", "Conversations that ended.", {"reason": ENDINGS}),
    Metric("orch.session.duration", "histogram", "s", "Length of a conversation.", {}, CALL_S),
    Metric("orch.session.active", "gauge", "{session}", "Conversations that live on this node."),
    Metric("orch.shard.owned", "gauge", "{shard}", "Shards that this node owns; 0: it takes no calls."),
    Metric("orch.inbox.queued", "gauge", "{event}", "Events of this node that wait for Redis."),
    Metric("orch.event.count", "counter", "{event}", "Committed events, inputs and derived ones.", {"type": ()}),
    Metric(
        *("orch.transition.count", "counter", "{transition}"),
        "Changes of phase.",
        {"from": (), "to": ()},
    ),
    Metric("orch.input.handled", "counter", "{event}", "Inputs that were decided and committed.", counted="inputs"),
    Metric("orch.input.duplicate", "counter", "{event}", "Inputs that had come before.", counted="duplicates"),
    Metric(
        "orch.input.rejected", "counter", "{event}", "Inputs that were recorded without effect.", counted="rejected"
    ),
    Metric(
        *("orch.input.dead_letter", "counter", "{event}"),
        "Entries that belong to no session or cannot be read; kept with the reason.",
        counted="dead_letters",
    ),
    Metric("orch.take_over.count", "counter", "{session}", "Conversations taken over.", counted="take_overs"),
    Metric(
        *("orch.reducer.failure", "counter", "{event}"),
        "Inputs on which the reducer raised: a defect of orch, please report it.",
        counted="reducer_failures",
    ),
    Metric(
        *("orch.session.unrecoverable", "counter", "{session}"),
        "Conversations whose log cannot be read any more.",
        counted="unrecoverable",
    ),
    Metric(
        *("orch.redis.silence", "gauge", "s"),
        "For how long Redis has not answered this node; below a second all is well. From one second on, while somebody"
        " speaks, the node takes no new calls.",
    ),
    Metric(
        *("orch.redis.lost_version", "counter", "{event}"),
        "Committed events that Redis had and has no more.",
        counted="lost_versions",
    ),
    Metric(
        *("orch.overflow.count", "counter", "{overflow}"),
        "How often callers were sent away because Redis did not answer for too long.",
        counted="overflows",
    ),
    Metric(
        *("orch.history.lag", "gauge", "s"),
        "For how long something committed has been missing in the history; it grows while that stands still.",
    ),
    Metric("orch.history.written", "counter", "{event}", "Events written to the history.", counted="projected"),
    Metric(
        *("orch.history.failure", "counter", "{failure}"),
        "Attempts to keep the history that failed: the database is away, or refuses. Calls go on.",
        counted="projection_failures",
    ),
    Metric(
        *("orch.history.fork", "counter", "{shard}"),
        "Shards whose logs say otherwise than the history did: Redis had lost a part of them.",
        counted="projection_forks",
    ),
    Metric(
        *("orch.history.rebuild", "counter", "{session}"),
        "Conversations whose history was made anew from their log.",
        counted="projection_rebuilds",
    ),
    Metric("orch.eventloop.lag", "histogram", "s", "How late the event loop wakes what is due.", {}, LOOP_S),
    Metric("orch.telemetry.span.exported", "counter", "{span}", "Spans that the collector took."),
    Metric(
        *("orch.telemetry.span.dropped", "counter", "{span}"),
        "Spans that were given up, since the collector did not take them or too many waited.",
    ),
    Metric("orch.telemetry.event.dropped", "counter", "{event}", "Events that metrics and traces had no time for."),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
