"""A short run of the fuzzer: only documented errors come out of any reader, and no reader crawls.

The long run is `python -m tests.fuzz`. An input that once escaped stays here as a test of its own.
"""

import pytest

from tests.fuzz.readers import READERS
from tests.fuzz.running import escapes, grows_too_fast, growth, raised

INPUTS = 1_000
SEED = 20_261_128


@pytest.mark.parametrize("name", READERS)
def test_only_documented_errors_come_out_of_a_reader(name: str) -> None:
    """Whatever it is fed."""
    found = [
        str(escape) for escape, _ in zip(escapes(name, INPUTS // READERS[name].takes, SEED), range(3), strict=False)
    ]
    assert found == []


@pytest.mark.parametrize("name", READERS)
def test_time_grows_with_the_input_and_not_with_its_square(name: str) -> None:
    """Of each reader, with the inputs that make it work hardest."""
    slow = [(start, part_s, whole_s) for start, part_s, whole_s in growth(name) if grows_too_fast(part_s, whole_s)]
    assert slow == []


def test_a_quadratic_reader_would_be_found() -> None:
    """Or the test above could not fail."""
    assert grows_too_fast(part_s=0.01, whole_s=0.64)
    assert not grows_too_fast(part_s=0.01, whole_s=0.08 * 1.5)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_what_is_sound(name: str) -> None:
    """Else the fuzzer would look at refusals alone."""
    for data in READERS[name].sound:
        READERS[name].read(data)


HEADER = b'{"format":"orch.recording","format_version":1}\n'
ARMED = b'{"command_id":"c","name":"StartTimer","payload":{"due_at_us":"x"},"type":"COMMAND_ISSUED"}\n'
ASKED = b'{"command_id":"c","name":"ClassifyIntent","payload":{"speculation":"x"},"type":"COMMAND_ISSUED"}\n'
CANCELLED = b'{"command_id":"c","name":"CancelTimer","payload":{"command_id":[]},"type":"COMMAND_ISSUED"}\n'
ESCAPED = [
    (
        "redact",
        HEADER + b'{"policy":{"x":5},"session_id":"s","type":"SESSION_OPENED"}\n',
    ),
    ("verify", HEADER + b'{"command_id":"c","name":"CancelTimer","payload":{},"type":"COMMAND_ISSUED"}\n'),
    (
        "verify",
        HEADER + b'{"command_id":"c","name":"CancelTimer","payload":{"command_id":[]},"type":"COMMAND_ISSUED"}\n',
    ),
    ("verify", HEADER + ARMED + b'{"cause":"x","command_id":"c","target":"t","type":"TIMER_FIRED"}\n'),
    ("exports", HEADER + b'{"command_id":"c","name":"CancelStage","payload":{},"type":"COMMAND_ISSUED"}\n'),
    ("exports", HEADER + ASKED),
    ("policy", b"endpointing:\n  phrases: [5, please]\n"),
    ("policy", b'a: "\\U00110000"\n'),
    ("policy", b'a: "\\uD800"\n'),
    ("policy", b"[" * 5_000),
    ("intents", b"[" * 5_000),
    ("intents", b"a: 2001-99-99\n"),
    ("intents", b"a: !!int ''\n"),
    ("service answers", b"[" * 100_000),
    ("service answers", b'{"answer": "x", "sources": [' + b"[" * 900 + b"]" * 900 + b"]}"),
]


@pytest.mark.parametrize(("name", "data"), ESCAPED)
def test_what_once_escaped_is_an_error_in_words(name: str, data: bytes) -> None:
    """Found by reviewers and by the long run."""
    assert raised(READERS[name], data) is None
