"""Two golden logs in two columns."""

from difflib import SequenceMatcher
from itertools import zip_longest

WIDTH = 62


def side_by_side(old: list[str], new: list[str], old_name: str, new_name: str) -> list[str]:
    """What stands in one alone is marked. The names of the sessions are no difference."""
    lines = [f"  {old_name:{WIDTH}}    {new_name}"]
    matcher = SequenceMatcher(None, [*map(said, old)], [*map(said, new)], autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        for left, right in zip_longest(old[a:b], new[c:d], fillvalue=""):
            sign = " " if tag == "equal" else "|"
            lines.append(f"{sign} {left:{WIDTH}}  {sign} {right}".rstrip())
    return lines


def said(line: str) -> str:
    """A golden line without the session it is of."""
    return line.partition("] ")[2]
