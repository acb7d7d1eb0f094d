"""`orch diff`: two recordings beside each other; exit code 1 where they decide otherwise."""

from cli.show import events_of
from cli.side_by_side import said, side_by_side
from cli.sources import whole
from orchestrator.replay.decisions import changed, decisions, typical_ms, waits_ms
from projections.golden_log import golden


def run(one: str, other: str) -> int:
    old, new = events_of(whole(one)), events_of(whole(other))
    for line in side_by_side([*golden(old)], [*golden(new)], one, other):
        print(line)
    rows = changed(decisions(old), decisions(new))
    print()
    for name, (before, after) in rows.items():
        print(f"{name:50} {before:>8} → {after:>8}")
    print(f"{'median wait for an answer, ms':50} {typical_ms(waits_ms(old))!s:>8} → {typical_ms(waits_ms(new))!s:>8}")
    is_other = [*map(said, golden(old))] != [*map(said, golden(new))]
    return int(is_other or bool(rows))
