"""`orch replay` of one recording, watched: up to a place, step by step, at its own speed, with its state dumped."""

import json
import re
import sys
import time
from collections.abc import Callable, Sequence

from cli.sources import opened
from cli.terminal import UsageError, read_line, say
from events.envelope import Event
from orchestrator.replay.divergence import differences
from orchestrator.replay.place import NoSuchEventError, place
from orchestrator.replay.replay import Replayer
from orchestrator.replay.verdict import Verdict, verdict_of
from orchestrator.replay.words import short, state_fields, value
from orchestrator.safe_text import one_line
from orchestrator.session.reducer import Step
from orchestrator.session.state import State
from projections.golden_log import GoldenLog

HELP = "n next · p previous · g VERSION go to · s state · d what the step changed · q quit"


class _ReachedError(Exception):
    """The place is reached; nothing beyond it is replayed."""


def watch(
    source: str, *, until: str, speed: str, keep_steps: bool
) -> tuple[Verdict, Replayer, list[tuple[State, Step]]]:
    """Replay up to a place. With a speed, the golden log is printed as it would have been live.

    Raises UsageError, BadPlaceError, NoSuchEventError, and what opening a source raises.
    """
    began = time.perf_counter()
    is_there = place(until) if until else None
    play = _player(speed) if speed else None
    header, lines = opened(source)
    replayer = Replayer(header, source)
    steps: list[tuple[State, Step]] = []
    ends = ""

    def listen(before: State, step: Step) -> None:
        if play is not None:
            play(step)
        if keep_steps:
            steps.append((before, step))

    def look(step: Sequence[Event]) -> None:
        nonlocal ends
        ends = f"; it ends at version {step[-1].version}"
        if is_there is not None and is_there(step):
            raise _ReachedError

    replayer.listen, replayer.look = listen, look
    try:
        replayer.run(lines)
    except _ReachedError:
        say(f"stopped at {until}")
    else:
        if is_there is not None and not replayer.found.divergences:  # else the place may lie beyond the replayed steps
            raise NoSuchEventError(f"nothing in this log is at {until}{ends}")
    verdict = verdict_of(replayer.found, [])
    verdict.elapsed_s = time.perf_counter() - began
    return verdict, replayer, steps


def _player(speed: str) -> Callable[[Step], None]:
    """Prints the golden log: `max` at once, `1x` as it was, `4x` faster. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)x", speed)
    if speed != "max" and (found is None or not float(found[1])):
        raise UsageError(f"no such speed: {speed!r}; write max, 1x, 4x or 0.5x")
    golden, last_us = GoldenLog(), 0

    def play(step: Step) -> None:
        nonlocal last_us
        at_us = step.events[0].at_us
        if found is not None and last_us:
            time.sleep(max(0, at_us - last_us) / 1e6 / float(found[1]))
        last_us = at_us
        for event in step.events:
            if (line := golden.line(event)) is not None:
                print(line, flush=True)

    return play


def walk(steps: list[tuple[State, Step]]) -> None:
    """Step by step, as the lines of standard input say."""
    say(HELP)
    at = 0
    while steps:
        before, step = steps[at]
        _show(at, len(steps), before, step)
        command = _ask()
        match command.split():
            case ["n"] | ["j"] | []:
                at = min(at + 1, len(steps) - 1)
            case ["p"] | ["k"]:
                at = max(at - 1, 0)
            case ["g", version] if version.isdigit():
                at = next((i for i, (_, s) in enumerate(steps) if s.state.version >= int(version)), len(steps) - 1)
            case ["s"]:
                print(json.dumps(state_fields(step.state), ensure_ascii=False, indent=2))
            case ["d"]:
                for field, (old, new) in differences(state_fields(before), state_fields(step.state)).items():
                    print(f"  {field}: {value(old)} → {value(new)}")
            case ["q"]:
                return
            case _:
                say(HELP)


def _ask() -> str:
    """The next command; the end of input is the end."""
    print("> ", end="", file=sys.stderr, flush=True)
    line = read_line()
    return line.strip() if line else "q"


def _show(at: int, of: int, before: State, step: Step) -> None:
    event = step.events[0]
    where = f"{one_line(event.session_id)}:{event.version}"
    print(f"[{at + 1}/{of}] {where} {before.phase} → {step.state.phase}  {short(event)}")
    for said in step.events[1:]:
        print(f"    {said.version:4} {short(said)}")
    sys.stdout.flush()
