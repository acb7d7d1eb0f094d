"""Runs a what-if (`orch replay --set`) or rerun: each session of a recording once more, with a change or another agent.

The change is data (change.py), parsed by cli/what_if.py; world.py applies it and runs one session.

A what-if is an open loop: the user's inputs keep their words and times. Under a changed policy, the end of an utterance
may be noticed at another time; its final then comes after that time (finals.py). Requests get the recorded results of
similar commands, after the recorded latency. If the recording has no similar command, the results are simulated with
the latencies of the recording, and counted. Timers fire when due.

In a rerun, today's agent answers every question, and the user's inputs follow the answers (users_side.py).
"""

from collections import defaultdict
from collections.abc import Iterable

from events.envelope import Event
from orchestrator.replay.asking import Agent
from orchestrator.replay.change import Change, WhatIf
from orchestrator.replay.world import WhatIfWorld


def what_if(recorded: Iterable[Event], change: Change, agent: Agent | None = None) -> WhatIf:
    """Run each session of a recording once more, with a change. `agent` answers all questions; None: the recorded
    answers are used. Returns the events of the new runs, and counts over all sessions.

    Raises UnsoundLogError if the recorded log is damaged or of a newer orch. Raises pydantic's ValidationError if the
    changed policy is invalid.
    """
    by_session: dict[str, list[Event]] = defaultdict(list)
    for event in recorded:
        by_session[event.session_id].append(event)
    found = WhatIf()
    for log in by_session.values():
        WhatIfWorld(log, change, found, agent).run()
    return found
