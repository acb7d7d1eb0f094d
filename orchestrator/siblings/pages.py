"""Merges the metrics pages of several processes into one: each series gets the label `process`."""

import re
from collections.abc import Iterable

END = "# EOF"
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{?)")


def merged(pages: Iterable[tuple[int, str]]) -> str:
    r"""Merge the pages of processes with these numbers: each metric once, with the samples of all.

    >>> merged([(1, "# TYPE a gauge\na 1\n"), (2, "# TYPE a gauge\na 3\n")])
    '# TYPE a gauge\na{process="1"} 1\na{process="2"} 3\n'
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    has_end = False
    for number, page in pages:
        metric, is_first = "", False
        for line in page.splitlines():
            if line == END:
                has_end = True
            elif line.startswith("# "):
                _, _, name, *_ = line.split(" ", 3)
                if name != metric:
                    metric, is_first = name, name not in heads
                if is_first:
                    heads.setdefault(name, []).append(line)
            elif line:
                samples.setdefault(metric, []).append(_labelled(line, number))
    lines = [line for name, head in heads.items() for line in (*head, *samples.get(name, ()))]
    return "\n".join([*lines, *([END] if has_end else [])]) + "\n"


def _labelled(sample: str, number: int) -> str:
    found = _SAMPLE.match(sample)
    assert found, "a sample begins with its name"
    name, brace = found.groups()
    rest = sample[found.end() :]
    return f'{name}{{process="{number}"{"," if brace else "}"}{rest}'
