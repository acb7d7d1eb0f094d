"""Makes broken inputs out of sound ones: bytes, tokens and JSON values that somebody else would send."""

import json
from random import Random
from typing import Any

TOKENS = (
    b"[" * 300,
    b'{"a":' * 300,
    b"9" * 400,
    b"-1",
    b"1e999",
    b"NaN",
    b"-Infinity",
    b'"\\ud800"',
    b'"\\u0000"',
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\x1b[2J",
    "\u202e\u2066\u200b".encode(),
    b"null",
    b"true",
    b"\n",
    b"\r\n",
    b"`" * 40,
    b"*" * 41,
    b"<!--",
    b"![[](",
    b'"\\U00110000"',
    b"&a [*a, *a]",
    b"<<: *a",
    b"!!python/object",
    b"2001-99-99",
    b"%s%n",
    b"../..",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    2**53,
    2**63,
    10**40,
    "",
    "x" * 9_000,
    "\x00\x1b\u202e",
    [],
    {},
    [[[[[[]]]]]],
    {"a": {"b": None}},
    [5, "please"],
    float("inf"),
)


def mutated(sound: bytes, random: Random) -> bytes:
    """One to four changes of an input; every third time in its JSON, if it is some."""
    data = sound
    for _ in range(random.randint(1, 4)):
        data = (random.choice(_WAYS) if random.random() < 0.66 else _value)(data, random)
    return data


def _value(data: bytes, random: Random) -> bytes:
    """Another value somewhere in a line of JSON."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    try:
        document = json.loads(lines[at])
    except (ValueError, RecursionError):
        return _flip(data, random)
    lines[at] = json.dumps(_replaced(document, random)).encode()
    return b"\n".join(lines)


def _replaced(document: Any, random: Random) -> Any:
    if isinstance(document, dict) and document and random.random() < 0.9:
        name = random.choice(list(document))
        if random.random() < 0.1:
            return {other: value for other, value in document.items() if other != name}
        if random.random() < 0.1:
            return document | {random.choice(("x", "type", "text", "\u202e", "session_id")): random.choice(VALUES)}
        return document | {name: _replaced(document[name], random)}
    if isinstance(document, list) and document and random.random() < 0.9:
        at = random.randrange(len(document))
        return [*document[:at], _replaced(document[at], random), *document[at + 1 :]]
    return random.choice(VALUES)


def _flip(data: bytes, random: Random) -> bytes:
    if not data:
        return b"x"
    at = random.randrange(len(data))
    return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randint(0, len(data))]


def _remove(data: bytes, random: Random) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + data[at + random.randint(1, 40) :]


def _repeat(data: bytes, random: Random) -> bytes:
    at, length = random.randint(0, len(data)), random.randint(1, 60)
    return data[:at] + data[at : at + length] * random.randint(2, 20) + data[at:]


def _insert(data: bytes, random: Random) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + random.choice(TOKENS) + data[at:]


def _swap_lines(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    random.shuffle(lines)
    return b"\n".join(lines)


def _double_a_line(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    return b"\n".join([*lines[:at], lines[at], *lines[at:]])


_WAYS = (_flip, _cut, _remove, _repeat, _insert, _insert, _swap_lines, _double_a_line)
