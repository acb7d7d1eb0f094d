"""Counters of events that leave no other trace: duplicates, late and rejected inputs, dead letters."""

from collections import Counter


class Counters(Counter[str]):
    """Name → count.

    - Inputs: inputs, duplicates, late (for sessions that have ended), rejected, dead_letters.
    - Nodes: take_overs; lost_versions (Redis committed them and then lost them); overflows (callers were disconnected
      because Redis did not answer for too long); unrecoverable (a log that cannot be read any more); reducer_failures
      (a fault in orch, set aside as a dead letter); stuck_teardowns (parts of libraries and services that did not end
      in time); lost_lines (of the service's own log: nobody read them, or a disk is full).
    - Calls: dropped_media (datagrams and packets); provider_switches (a session gets another provider of a service).
    - Admission: connections_refused, requests_refused (too many from one address), sessions_refused; silent_ended and
      away_ended (sessions that said nothing, or whose client was gone, ended to make room for others); clients_dropped
      (too many frames or messages); inputs_delayed (a client sent too fast and was made to wait).
    - History: projected (events); projection_failures; projection_forks (feeds of a Redis that was restored from a
      backup or has lost steps); projection_rebuilds (sessions that were repaired in SQL).
    """
