"""Reads and writes recordings: the logs of one or more sessions in a JSONL file.

The first line is a header, each further line one event in canonical encoding. The events of a step are consecutive,
starting with an input. A recording with `"derived": false` has only inputs; replay derives the other events.

The encoding is UTF-8. A byte order mark and Windows line ends, as editors or git may insert them, are ignored.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from events.codec import BadEventError, decode
from events.envelope import Event, Input
from events.file_kinds import BOM, other_kind

MOST_LINE_BYTES = 4 * 1024 * 1024
"""Limit for the length of a line. The bounds of the fields keep every event below it."""


class BadRecordingError(ValueError):
    """A recording cannot be read; the message names the file and the line."""


class Header(BaseModel):
    """The first line: format of the file, and version of the reducer that wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    derived: bool = True
    format: Literal["orch.recording"] = "orch.recording"
    format_version: Literal[1] = 1
    reducer_version: str = ""
    sha256: str = ""
    """Checksum of all later lines with their line ends; empty: none, as in a hand-written file."""
    story: str = ""


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording with undecoded events: `lines[i]` is line i + 2 of the file."""

    name: str
    header: Header
    lines: tuple[bytes, ...]

    def event(self, index: int) -> Event:
        """Decode one line. Raises BadRecordingError with the line's number."""
        try:
            return decode(self.lines[index])
        except BadEventError as error:
            raise BadRecordingError(f"{self.name}, line {index + 2}: {error}") from error

    def events(self) -> Iterator[Event]:
        return (self.event(index) for index in range(len(self.lines)))


def is_recording(name: str) -> bool:
    """Whether a file of this name, found in a folder, is a recording: *.jsonl, and not hidden, as lock files are."""
    return name.endswith(".jsonl") and not name.startswith(".")


def parse(data: bytes, name: str) -> Recording:
    """Read a recording from bytes. Does not decode its events. Raises BadRecordingError."""
    header, lines = stream([data], name)
    return Recording(name, header, tuple(lines))


def stream(
    blocks: Iterable[bytes], name: str, *, may_be_cut: bool = False, keeps_all: bool = False
) -> tuple[Header, Iterator[bytes]]:
    """Read a recording from a stream: the header, and an iterator of the lines after it. `may_be_cut`: leave out a last
    line without a line end, as a crashed writer leaves it. `keeps_all`: for a check that names every place,
    also yield empty lines, and a last event without a line end before refusing it. Raises BadRecordingError, also from
    the iterator.
    """
    data, rest = b"", iter(blocks)
    while b"\n" not in data and len(data) <= MOST_LINE_BYTES and (block := next(rest, b"")):
        data += block
    if kind := other_kind(data):
        raise BadRecordingError(f"{name} is not a recording but {kind}")
    data = data.removeprefix(BOM)
    if not data.strip() and not any(block.strip() for block in rest):
        raise BadRecordingError(f"{name}: the file is empty; a recording starts with a header line")
    head, _, data = data.partition(b"\n")
    lines = _lines(chain((data,), rest), name, may_be_cut=may_be_cut, keeps_all=keeps_all)
    return _header(head, name), chain.from_iterable(lines)


def _header(line: bytes, name: str) -> Header:
    if len(line) > MOST_LINE_BYTES:
        raise BadRecordingError(f"{name}, line 1: not the header of a recording: {len(line)} bytes without a line end")
    try:
        return Header.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadRecordingError(
            f"{name}, line 1: not the header of a recording: {where + ': ' if where else ''}{problem['msg']}"
            + ("" if line.lstrip().startswith(b"{") else "; `orch export SESSION -o FILE` writes a recording")
        ) from error


def _lines(blocks: Iterable[bytes], name: str, *, may_be_cut: bool, keeps_all: bool) -> Iterator[list[bytes]]:
    """For each block, the lines that end in it, without their line ends. Raises BadRecordingError."""
    number, cut = 1, b""
    for block in blocks:
        if b"\r" in block:  # JSON allows \r only between values
            block = block.replace(b"\r", b"")
        *whole, cut = (cut + block).split(b"\n")
        if max(map(len, whole), default=0) > MOST_LINE_BYTES or len(cut) > MOST_LINE_BYTES:
            at = next((at for at, line in enumerate(whole) if len(line) > MOST_LINE_BYTES), len(whole))
            raise BadRecordingError(
                f"{name}, line {number + at + 1}: longer than {MOST_LINE_BYTES // 1024} KiB, which no event is"
            )
        if not (keeps_all or all(whole)):
            yield whole[: whole.index(b"")]
            raise BadRecordingError(f"{name}, line {number + whole.index(b'') + 1}: empty line")
        yield whole
        number += len(whole)
    if not cut or may_be_cut:
        return
    if not _is_event(cut):
        raise BadRecordingError(f"{name}, line {number + 1}: the file ends in the middle of a line")
    if keeps_all:
        yield [cut]
    raise BadRecordingError(f"{name}, line {number + 1}: the last line has no line end; add one")


def _is_event(line: bytes) -> bool:
    try:
        decode(line)
    except BadEventError:
        return False
    return True


def dump(header: Header, lines: Iterable[bytes]) -> bytes:
    """The bytes of a recording."""
    head = header.model_dump_json(exclude=None if header.sha256 else {"sha256"}).encode()
    return b"".join(line + b"\n" for line in (head, *lines))


def sealed(header: Header, lines: Iterable[bytes]) -> bytes:
    """The bytes of a recording whose header carries the checksum of its lines."""
    lines = [*lines]
    checksum = sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
    return dump(header.model_copy(update={"sha256": checksum}), lines)


def steps(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Split a log into steps: an input with the events derived from it. Events before the first input, as in a damaged
    log, are a step, too.
    """
    step: list[Event] = []
    for event in events:
        if step and isinstance(event, Input):
            yield step
            step = []
        step.append(event)
    if step:
        yield step
