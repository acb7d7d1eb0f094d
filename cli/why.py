"""`orch why`: what an event came from, and what would have had to be different."""

from cli.show import events_of, log_of
from cli.sources import whole
from cli.terminal import UsageError
from events.envelope import Event
from orchestrator.replay.why import Cause, Why, why
from orchestrator.replay.words import seconds, short

NEEDED = "   ✓ without it, it is decided otherwise"


def run(source: str, version: str) -> int:
    log, number = log_of(events_of(whole(source)), version)
    if not number.isdigit() or not log:
        raise UsageError(f"{version!r}: write a version, such as 41 or SESSION:41; `orch show --detailed` names them")
    for line in lines(why(log, int(number)), log[0].at_us):
        print(line)
    return 0


def lines(found: Why, opened_us: int) -> list[str]:
    """The chain from the event back to its beginning, the proof, and the conditions."""
    first, *rest = found.chain
    shown = [_event(first.event, opened_us)]
    for depth, cause in enumerate(rest, 1):
        shown.append(f"{'  ' * depth}because {_event(cause.event, opened_us)}{_proof(cause)}")
    shown += [f"and because of {_event(event, opened_us)}{NEEDED}" for event in found.also]
    if found.beside is not None:
        shown.append(f"not because of {_event(found.beside, opened_us)}   (without it, the same is decided)")
    shown.append(f"decided in {found.phase}; it would have been otherwise, had there been")
    shown += [f"  {c.what}: {c.with_} instead of {c.was}  → {c.then}" for c in found.conditions]
    if not found.conditions:
        shown.append("  another input: nothing else was looked at")
    return shown


def _event(event: Event, opened_us: int) -> str:
    return f"[{event.version}] {short(event)}  {seconds(event.at_us - opened_us)}"


def _proof(cause: Cause) -> str:
    if cause.is_needed is None:
        return ""
    return NEEDED if cause.is_needed else "   (without it, the same is decided)"
