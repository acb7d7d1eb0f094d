"""`orch diff`: two recordings beside each other; exit code 1 where they decide otherwise."""

from cli.exits import DIFFERS, OK
from cli.side_by_side import WAIT, row, said, side_by_side
from cli.sources import whole
from orchestrator.replay import comparison
from orchestrator.replay.comparison import Comparison
from orchestrator.replay.replay import events_of


def run(one: str, other: str) -> int:
    both = Comparison(one, events_of(whole(one)), events_of(whole(other)))
    old, new = both.golden
    for line in side_by_side(old, new, one, other):
        print(line)
    rows = comparison.changes([both])
    print()
    for name, (before, after) in rows.items():
        print(row(name, str(before), str(after)))
    print(row(WAIT, *comparison.waits([both])))
    is_other = [*map(said, old)] != [*map(said, new)]
    return DIFFERS if is_other or rows else OK
