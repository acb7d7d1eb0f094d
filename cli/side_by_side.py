"""Two golden logs in two columns."""

from difflib import SequenceMatcher
from itertools import zip_longest

WIDTH = 62
NEAR = 3
"""Equal lines shown beside lines that differ."""


def side_by_side(old: list[str], new: list[str], old_name: str, new_name: str) -> list[str]:
    """What stands in one alone is marked, and equal lines stand only near it. The names of the sessions are no
    difference.
    """
    lines = [f"  {old_name:{WIDTH}}    {new_name}"]
    matcher = SequenceMatcher(None, [*map(said, old)], [*map(said, new)], autojunk=False)
    parts = matcher.get_opcodes()
    for place, (tag, a, b, c, d) in enumerate(parts):
        pairs = [*zip_longest(old[a:b], new[c:d], fillvalue="")]
        sign = " " if tag == "equal" else "|"
        shown = [f"{sign} {left:{WIDTH}}  {sign} {right}".rstrip() for left, right in pairs]
        before, after = NEAR if place else 0, NEAR if place + 1 < len(parts) else 0
        if tag == "equal" and (hidden := len(shown) - before - after) > 1:
            shown[before : len(shown) - after] = [f"  … {hidden} equal lines"]
        lines += shown
    return lines


WAIT = "median wait for an answer, ms"


def row(what: str, before: str, after: str) -> str:
    """A line of the table below the columns."""
    return f"{what:50} {before:>8} → {after:>8}"


def said(line: str) -> str:
    """A golden line without the session it is of."""
    return line.partition("] ")[2]
