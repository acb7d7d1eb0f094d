"""Re-run the reducer over a recording's inputs and compare everything it says with what was recorded."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from events.codec import encode
from events.envelope import Event, Input
from events.recording import BadRecordingError, Recording
from orchestrator.session.reducer import reduce
from orchestrator.session.state import State


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first place where recording and replay differ; None: that one says nothing there."""

    line: int
    recorded: Event | None
    replayed: Event | None


@dataclass(slots=True)
class Replay:
    """What a replay found: the replayed events in the order of the recording, and where each session got to."""

    events: list[Event] = field(default_factory=list)
    states: dict[str, State] = field(default_factory=dict)
    commands: int = 0
    divergence: Divergence | None = None


def replay(recording: Recording) -> Replay:
    """Replay to the end, or to the first divergence. Raises BadRecordingError for a file that cannot be a log.

    The lines are compared as bytes (the encoding is canonical), so only inputs and differences are decoded. A line
    that differs only in form (another schema version, another order of keys) is no divergence.
    """
    result = Replay()
    said: deque[Event] = deque()
    """What the last step said and the recording has not confirmed yet."""
    for index, recorded_line in enumerate(recording.lines):
        if not said:
            event = recording.event(index)
            if not isinstance(event, Input):
                result.divergence = Divergence(index + 2, event, None)
                return result
            said.extend(_step(result, recording, index, event))
        if not recording.header.derived:
            said.clear()
            continue
        replayed = said.popleft()
        if (line := encode(replayed)) != recorded_line and encode(recorded := recording.event(index)) != line:
            result.divergence = Divergence(index + 2, recorded, replayed)
            return result
    if said:
        result.divergence = Divergence(len(recording.lines) + 2, None, said[0])
    return result


def _step(result: Replay, recording: Recording, index: int, event: Input) -> Sequence[Event]:
    step = reduce(result.states.get(event.session_id, State()), event)
    if not step.events:
        raise BadRecordingError(f"{recording.name}, line {index + 2}: repeats an input that the log holds already")
    result.states[event.session_id] = step.state
    result.commands += len(step.commands)
    result.events += step.events
    return step.events


def differing_fields(divergence: Divergence) -> dict[str, tuple[object, object]]:
    """Field → (recorded, replayed), where both sides have an event; nested payloads with dotted names."""
    recorded = divergence.recorded.model_dump() if divergence.recorded else {}
    replayed = divergence.replayed.model_dump() if divergence.replayed else {}
    return _differences(recorded, replayed, "")


def _differences(
    recorded: dict[str, object], replayed: dict[str, object], path: str
) -> dict[str, tuple[object, object]]:
    found: dict[str, tuple[object, object]] = {}
    for name in sorted(recorded.keys() | replayed.keys()):
        left, right = recorded.get(name), replayed.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            found |= _differences(left, right, f"{path}{name}.")
        elif left != right:
            found[path + name] = (left, right)
    return found
