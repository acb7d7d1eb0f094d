"""Counters of events that leave no other trace: duplicates, late and rejected inputs, dead letters."""

from collections import Counter


class Counters(Counter[str]):
    """Name → count. The names: inputs, duplicates, late (for sessions that have ended), rejected, dead_letters,
    take_overs.

    For operators: reducer_failures (a fault in orch, set aside as a dead letter), unrecoverable (a log that cannot be
    read any more), lost_versions (Redis committed them and then lost them), overflows (callers were disconnected
    because Redis did not answer for too long), dropped_media (datagrams and packets of calls), stuck_teardowns (parts
    of libraries and services that did not end in time), lost_lines (of the logs: nobody read them, or a disk is full),
    provider_switches (a session gets another provider of a service).
    Admission: connections_refused, requests_refused (by address), sessions_refused, silent_ended, away_ended,
    clients_dropped (too many frames or messages), inputs_delayed. History: projected (events), projection_failures,
    projection_forks (a feed that left the checkpoint), projection_rebuilds (sessions that were repaired).
    """
