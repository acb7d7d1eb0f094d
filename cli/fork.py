"""`orch fork`: the beginning of a conversation as one of its own, to go on from there by hand or in a test."""

from pathlib import Path

from cli.sources import whole
from cli.terminal import UsageError, naming, say
from events.codec import encode
from events.envelope import Input, Result
from events.recording import Header, Recording, dump, steps
from orchestrator.replay.place import place, session_of
from orchestrator.replay.replay import events_of, replay
from orchestrator.session import REDUCER_VERSION


def run(source: str, *, at: str, reason: str, session: str, output: str) -> int:
    """Without an output it only says what it would do."""
    events = events_of(whole(source))
    is_there = place(at)
    if not events:
        raise UsageError(f"{source} holds no event")
    old = session_of(at) or events[0].session_id
    new = session or f"{old}_fork"
    taken: list[bytes] = []
    mine = [event for event in events if event.session_id == old]
    if not mine:
        raise UsageError(f"{source} holds no event of {old}; its first session is {events[0].session_id}")
    for step in steps(mine):
        event = step[0]
        if not isinstance(event, Input):
            continue
        event_id = _renamed(event.event_id, old, new, ":")
        renamed = event.replace(session_id=new, event_id=event_id, version=0, cause="", state_hash="")
        if isinstance(renamed, Result):
            renamed = renamed.replace(command_id=_renamed(renamed.command_id, old, new, "/"))
        taken.append(encode(renamed))
        if is_there(step):
            break
    else:
        raise UsageError(f"nothing in {old} is at {at}: it ends with version {mine[-1].version}")
    forked = replay(Recording(new, Header(derived=False), tuple(taken)))
    state = forked.states[new]
    if output:
        header = Header(reducer_version=REDUCER_VERSION, story=f"Forked from {old} at {at}: {reason}")
        with naming(output):
            Path(output).write_bytes(dump(header, map(encode, forked.events)))
    say(f"{new}: the first {state.inputs} inputs of {old}, version {state.version}, {state.phase}")
    if not output:
        say("nothing is written; say where with: --output FILE")
    return 0


def _renamed(one_id: str, old: str, new: str, end: str) -> str:
    """Replace the session that an id begins with. `end`: the character after the session."""
    return new + one_id[len(old) :] if one_id.startswith(old + end) else one_id
