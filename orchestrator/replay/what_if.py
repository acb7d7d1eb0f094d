"""Runs a what-if (`orch replay --set`) or rerun: each session of a recording once more, with a change or another agent.

The change is data (change.py), parsed by cli/what_if.py; world.py applies it and runs one session.

Open loop: the user's inputs keep their words and times. If the change is a new policy, a final comes after the new run
has asked for it, with the recorded delay (finals.py). Results of services are matched by request: the same question, or
the same text to speak, gets the recorded result after the recorded latency. If the recording lacks a request, its
results are simulated with the latencies of the recording, and counted. Timers fire when due.

If an agent is given, it answers every question in place of the recording, and the user's inputs follow its answers
(users_side.py).
"""

from collections import defaultdict
from collections.abc import Iterable

from events.envelope import Event
from orchestrator.replay.asking import Agent
from orchestrator.replay.change import Change, WhatIf
from orchestrator.replay.world import WhatIfWorld


def what_if(recorded: Iterable[Event], change: Change, agent: Agent | None = None) -> WhatIf:
    """Run the sessions of a recording once more, each on its own, with a change. `agent` answers all questions; None:
    the recorded answers are used. Returns the events of the new run, and its counts over all sessions.

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
