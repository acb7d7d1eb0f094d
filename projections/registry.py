"""All metrics, as data. Instruments, docs, dashboards and alert rules (deploy/alerts.py) are made from this data."""

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
"""Replaces label values that the registry does not list, so that clients cannot create new series."""
MOST_NAMES = 50
"""Largest number of tool names, and of model names, that a node shows as label values. Later names count as OTHER,
because each name makes a new series.
"""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `labels`: name of a label → its allowed values; an empty tuple allows any value. Labels of event
    types and of phases allow any value, because few exist. The label of tool names or model names (`named`) shows the
    first MOST_NAMES names; later names count as OTHER.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    counted: str = ""
    """The runtime counter (orchestrator/runtime/counters.py) that gives the metric's value; empty: there is none."""

    named: str = ""
    """The label whose values are names that agents choose: "tool" or "model"; empty: the metric has no such label."""

    @property
    def prometheus(self) -> str:
        """The metric's name at /metrics and in queries; for a histogram, without _bucket, _sum or _count at the end."""
        name = self.name.replace(".", "_") + _SUFFIX.get(self.unit, "")
        return f"{name}_total" if self.kind == "counter" else name

    def label(self, name: str, value: str) -> str:
        """Return `value` if the label allows it, otherwise OTHER."""
        known = self.labels[name]
        return value if not known or value in known else OTHER


ENDINGS = (
    "goodbye",
    "user_away",
    "time_limit",
    "too_many_failures",
    "turn_limit",
    "quota",
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
        *("orch.service.switched", "counter", "{switch}"),
        "Conversations that changed the provider of a service, since one failed or was late, or is back.",
        counted="provider_switches",
    ),
    Metric(
        *("orch.service.broken", "gauge", "{provider}"),
        "Providers of services with several that get no requests, or one trial, since they fail.",
    ),
    Metric(
        *("orch.tool.duration", "histogram", "s"),
        "Tool calls of agents. cancelled: withdrawn with its turn, or the conversation ended first; retried: its node"
        " was lost.",
        {"outcome": ("returned", "failed", "cancelled", "retried"), "tool": ()},
        SERVICE_S,
        named="tool",
    ),
    Metric(
        *("orch.model.duration", "histogram", "s"),
        "Requests of agents to their models that were recorded.",
        {"model": ()},
        SERVICE_S,
        named="model",
    ),
    Metric(
        *("orch.model.token.count", "counter", "{token}"),
        "Tokens of these requests (input) and of their responses (output).",
        {"direction": ("input", "output"), "model": ()},
        named="model",
    ),
    Metric(
        *("orch.speech.first_chunk", "histogram", "s"),
        "From the request for speech to its first chunk of audio.",
        {},
        STAGE_S,
    ),
    Metric(
        *("orch.interruption.count", "counter", "{interruption}"),
        "User sounds while the agent speaks, by what they turned out to be.",
        {"kind": ("interruption", "false_interruption", "undecided")},
    ),
    Metric(
        *("orch.interruption.stop_latency", "histogram", "s"),
        "From the user's sound, by its producer's clock, to the command that silences the agent.",
        {},
        STOP_S,
    ),
    Metric("orch.session.ended", "counter", "{session}", "Conversations that ended.", {"reason": ENDINGS}),
    Metric("orch.session.duration", "histogram", "s", "Length of a conversation.", {}, CALL_S),
    Metric("orch.session.active", "gauge", "{session}", "Live conversations on this node."),
    Metric("orch.shard.owned", "gauge", "{shard}", "Shards that this node owns; 0: it takes no calls."),
    Metric("orch.inbox.queued", "gauge", "{event}", "Events of this node that wait to be written to Redis."),
    Metric("orch.event.count", "counter", "{event}", "Committed events, inputs and derived.", {"type": ()}),
    Metric(
        *("orch.transition.count", "counter", "{transition}"),
        "Changes of phase.",
        {"from": (), "to": ()},
    ),
    Metric("orch.input.handled", "counter", "{event}", "Inputs decided and committed.", counted="inputs"),
    Metric("orch.input.duplicate", "counter", "{event}", "Duplicate inputs, ignored.", counted="duplicates"),
    Metric(
        *("orch.input.late", "counter", "{event}"),
        "Inputs of nodes for conversations that had ended or have another owner by now; dropped.",
        counted="late",
    ),
    Metric(
        "orch.input.rejected", "counter", "{event}", "Inputs recorded as rejected, without effect.", counted="rejected"
    ),
    Metric(
        *("orch.input.dead_letter", "counter", "{event}"),
        "Inbox entries that belong to no session or cannot be read; kept with the reason.",
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
        "Time since Redis last answered this node; below one second is normal. From one second on, while somebody"
        " speaks, the node takes no new calls.",
    ),
    Metric(
        *("orch.redis.lost_version", "counter", "{event}"),
        "Committed events that Redis has lost.",
        counted="lost_versions",
    ),
    Metric(
        *("orch.overflow.count", "counter", "{overflow}"),
        "Queue overflows: callers were disconnected because Redis did not answer for too long.",
        counted="overflows",
    ),
    Metric(
        *("orch.connection.refused", "counter", "{connection}"),
        "Connections that were closed since too many were open: the oldest without a conversation.",
        counted="connections_refused",
    ),
    Metric(
        *("orch.request.refused", "counter", "{request}"),
        "Pages and new conversations refused with 429, since their address asks for too many.",
        counted="requests_refused",
    ),
    Metric(
        *("orch.session.refused", "counter", "{session}"),
        "Callers refused with 1013: all lines are busy, the node takes no calls, Redis is nearly full, or they come"
        " back too often.",
        counted="sessions_refused",
    ),
    Metric(
        *("orch.access.refused", "counter", "{request}"),
        "Requests refused for their token: it is missing, wrong or used, or does not allow the request.",
        counted="access_refused",
    ),
    Metric(
        *("orch.session.silent", "counter", "{session}"),
        "Callers who said nothing and were ended, or made way for others.",
        counted="silent_ended",
    ),
    Metric(
        *("orch.session.away", "counter", "{session}"),
        "Conversations ended before their time, since too many waited for callers who had gone.",
        counted="away_ended",
    ),
    Metric(
        *("orch.client.flood", "counter", "{connection}"),
        "Connections closed with 1008 for too many frames or messages.",
        counted="clients_dropped",
    ),
    Metric(
        *("orch.input.delayed", "counter", "{event}"),
        "Messages of callers that waited, since the node had more to do than it takes on.",
        counted="inputs_delayed",
    ),
    Metric(
        *("orch.media.dropped", "counter", "{packet}"),
        "Datagrams and packets of calls that were not handled: of strangers, malformed, or faster than they play; "
        "counted when the call ends.",
        counted="dropped_media",
    ),
    Metric(
        *("orch.teardown.stuck", "counter", "{part}"),
        "Parts of libraries and services that did not end in time and were left behind.",
        counted="stuck_teardowns",
    ),
    Metric(
        *("orch.output.lost", "counter", "{line}"),
        "Lines of the golden log and of the log that were dropped: nobody read them, or a disk was full.",
        counted="lost_lines",
    ),
    Metric(
        *("orch.history.lag", "gauge", "s"),
        "Age of the oldest committed event missing in the history; grows while the projection stands still.",
    ),
    Metric("orch.history.written", "counter", "{event}", "Events written to the history.", counted="projected"),
    Metric(
        *("orch.history.failure", "counter", "{failure}"),
        "Failed attempts to write the history: the database is away, or refuses. Calls go on.",
        counted="projection_failures",
    ),
    Metric(
        *("orch.history.fork", "counter", "{shard}"),
        "Shards whose logs contradict the history because Redis lost a part of them.",
        counted="projection_forks",
    ),
    Metric(
        *("orch.history.rebuild", "counter", "{session}"),
        "Conversations whose history was rebuilt from their log.",
        counted="projection_rebuilds",
    ),
    Metric(
        "orch.eventloop.lag",
        "histogram",
        "s",
        "Delay between a timer's due time and its run on the event loop.",
        {},
        LOOP_S,
    ),
    Metric("orch.telemetry.span.exported", "counter", "{span}", "Spans exported to the collector."),
    Metric(
        *("orch.telemetry.span.dropped", "counter", "{span}"),
        "Spans dropped because the collector did not take them or the queue was full.",
    ),
    Metric(
        "orch.telemetry.event.dropped",
        "counter",
        "{event}",
        "Events dropped because the queue of metrics and traces was full.",
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
