"""Shows that a recording survives being written and read, and that a damaged one says which line is wrong."""

import pytest

from events.codec import encode
from events.inputs import SttFinal
from events.recording import BadRecordingError, Header, dump, parse

EVENT = SttFinal(text="hello", session_id="auto_session_12345")
GOOD = dump(Header(story="A story.\nOn two lines."), [encode(EVENT), encode(EVENT)])


def test_what_is_written_can_be_read() -> None:
    """Header, lines and events come back."""
    recording = parse(GOOD, "good.jsonl")
    assert recording.header == Header(story="A story.\nOn two lines.")
    assert [*recording.events()] == [EVENT, EVENT]
    assert dump(recording.header, recording.lines) == GOOD


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_recording_may_hold_no_event(end: bytes) -> None:
    """A header alone is a recording of nothing."""
    assert parse(b'{"format": "orch.recording"}' + end, "empty.jsonl").lines == ()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "x.jsonl: the file is empty; a recording starts with a header line"),
        (b"\n\n", "x.jsonl: the file is empty"),
        (b"not a header\n", "x.jsonl, line 1: not the header of a recording: Invalid JSON"),
        (b"\xff\n", "x.jsonl, line 1: not the header of a recording: "),
        (encode(EVENT) + b"\n", "x.jsonl, line 1: not the header of a recording: "),
        (b'{"format": "other"}\n', "line 1: not the header of a recording: format: Input should be 'orch.recording'"),
        (b'{"format_version": 2}\n', "line 1: not the header of a recording: format_version: Input should be 1"),
        (b'{"derived": "no"}\n', "line 1: not the header of a recording: derived: Input should be a valid boolean"),
        (GOOD[:-10], "x.jsonl, line 3: the file ends in the middle of a line"),
        (GOOD[:-1], "x.jsonl, line 3: the last line has no line end; add one"),
        (GOOD + b"\n", "x.jsonl, line 4: empty line"),
        (b"{}\n\n" + encode(EVENT) + b"\n", "x.jsonl, line 2: empty line"),
    ],
)
def test_a_damaged_file_says_where(data: bytes, words: str) -> None:
    """File, line and reason in one sentence."""
    with pytest.raises(BadRecordingError) as refused:
        parse(data, "x.jsonl")
    assert words in str(refused.value)


def test_a_damaged_event_says_where() -> None:
    """Events are read when they are needed; the line is named all the same."""
    recording = parse(GOOD + b'{"type": "STT_FINALE"}\n', "x.jsonl")
    with pytest.raises(BadRecordingError, match=r"x\.jsonl, line 4: unknown event type 'STT_FINALE'"):
        [*recording.events()]
