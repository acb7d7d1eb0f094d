"""What if (`orch replay --set`): runs a recorded conversation with another policy, other inputs or another agent.

Open loop: the user's inputs keep their words and times. Under another policy, a recognised final comes when the new run
has asked for it, after the recorded delay (finals.py). Results of services are matched by request: the same question or
the same text to speak gets the recorded result after the recorded latency. Requests that the recording lacks are
simulated with the latencies of the recording, and counted. Timers fire when due.

If an agent is given, it answers every question instead of the recording, and the user's inputs follow its answers
(users_side.py).
"""

from collections import defaultdict
from collections.abc import Iterable

from events.envelope import Event
from orchestrator.replay.asking import Agent
from orchestrator.replay.change import Change, WhatIf
from orchestrator.replay.world import World


def what_if(recorded: Iterable[Event], change: Change, agent: Agent | None = None) -> WhatIf:
    """Run a complete recording with a change and, if an agent is given, with its answers. Each session runs on its own.

    Raises UnsoundLogError.
    """
    by_session: dict[str, list[Event]] = defaultdict(list)
    for event in recorded:
        by_session[event.session_id].append(event)
    found = WhatIf()
    for log in by_session.values():
        World(log, change, found, agent).run()
    return found
