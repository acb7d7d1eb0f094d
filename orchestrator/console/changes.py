"""Changes between two JSON values as short operations, which a reader applies without knowing what they mean.

`["set", path, value]`, `["del", path]` and `["splice", path, start, deleted, items]`, in order; `path` lists the keys
and indexes from the root.
"""

from collections.abc import Iterator
from typing import Any

SHIFT = 4
"""Longest shift of a list that is recognised: a bounded window drops its first items as new ones arrive."""


def changes(old: Any, new: Any) -> list[list[Any]]:
    """The operations that turn one JSON value into another.

    >>> changes({"phase": "IDLE", "ids": ["a"]}, {"phase": "ENDED", "ids": ["a", "b"]})
    [['set', ['phase'], 'ENDED'], ['splice', ['ids'], 1, 0, ['b']]]
    """
    return [*_between(old, new, [])]


def _between(old: Any, new: Any, path: list[Any]) -> Iterator[list[Any]]:
    if old == new and type(old) is type(new):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        yield from (["del", [*path, key]] for key in old if key not in new)
        for key, value in new.items():
            if key in old:
                yield from _between(old[key], value, [*path, key])
            else:
                yield ["set", [*path, key], value]
    elif isinstance(old, list) and isinstance(new, list) and old:
        yield from _spliced(old, new, path)
    else:
        yield ["set", path, new]


def _spliced(old: list[Any], new: list[Any], path: list[Any]) -> Iterator[list[Any]]:
    for shift in range(1, min(SHIFT, len(old) - 1) + 1):
        kept = len(old) - shift
        if old[0] != new[:1] and old[shift:] == new[:kept]:
            yield ["splice", path, 0, shift, []]
            yield ["splice", path, kept, 0, new[kept:]]
            return
    most = min(len(old), len(new))
    begin = next((at for at in range(most) if old[at] != new[at]), most)
    end = next((at for at in range(most - begin) if old[-1 - at] != new[-1 - at]), most - begin)
    yield ["splice", path, begin, len(old) - begin - end, new[begin : len(new) - end]]
