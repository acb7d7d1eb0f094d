"""The counters of a node, shown by the metrics: inputs, dead letters, takeovers, lost writes, refusals and more."""

from collections import Counter


class Counters(Counter[str]):
    """Name of a counter → its value.

    - Inputs: inputs, duplicates, late (for a session that has ended, or a SESSION_RESUMED of an earlier owner),
      rejected (recorded in the session's log, without effect), dead_letters (recorded in no session's log).
    - Nodes: take_overs; lost_versions (versions of sessions that Redis committed and then lost); overflows (clients
      were disconnected because Redis did not answer for too long); unrecoverable (sessions that a new owner could not
      rebuild from Redis); reducer_failures (events on which the reducer raised, because of a bug; kept as dead
      letters); stuck_teardowns (parts of libraries and services that did not end in time); lost_lines (lines of the
      golden log and of the service's log that were dropped: their reader is too slow, or a disk is full).
    - Media and services: dropped_media (datagrams and packets); provider_switches (a session gets another provider of a
      service).
    - Admission: connections_refused, requests_refused (too many from one address), access_refused (a token is missing,
      wrong or used), sessions_refused; silent_ended (sessions that said nothing); away_ended (sessions whose client was
      gone, ended to make room for others); clients_dropped (too many frames or messages); inputs_delayed (an input
      waited, since its client sends fast or the node is busy).
    - History: projected (events); projection_failures; projection_forks (feeds that do not continue where SQL stopped,
      mostly because Redis was restored from a backup or has lost steps); projection_rebuilds (sessions that were
      repaired in SQL).
    """
