"""Recordings: the log of one or more sessions in a file that outlives the service.

JSONL: the first line is a header, each further line one event in canonical encoding. The events of a step stand
together, an input first. A recording with `"derived": false` holds inputs alone; replay completes it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from events.codec import BadEventError, decode
from events.envelope import Event, Input


class BadRecordingError(ValueError):
    """A recording cannot be read; the message names the file and the line."""


class Header(BaseModel):
    """The first line: what the file is, and which reducer wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    derived: bool = True
    format: Literal["orch.recording"] = "orch.recording"
    format_version: Literal[1] = 1
    reducer_version: str = ""
    sha256: str = ""
    """Of all lines after this one, each with its end; empty, as in a file that a person wrote: nobody has counted."""
    story: str = ""


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording as it stands in the file: `lines[i]` is line i + 2, undecoded."""

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


def parse(data: bytes, name: str) -> Recording:
    """Read a recording's bytes; events are decoded later. Raises BadRecordingError."""
    header, lines = stream([data], name)
    return Recording(name, header, tuple(lines))


def stream(blocks: Iterable[bytes], name: str, *, may_be_cut: bool = False) -> tuple[Header, Iterator[bytes]]:
    """Read a recording as it comes: the header, and the lines after it, one by one. `may_be_cut`: a last line that has
    no end is left out, as it is when the writer crashed. Raises BadRecordingError, also from the iterator.
    """
    data, rest = b"", iter(blocks)
    while b"\n" not in data and (block := next(rest, b"")):
        data += block
    if not data.strip() and not any(block.strip() for block in rest):
        raise BadRecordingError(f"{name}: the file is empty; a recording starts with a header line")
    head, _, data = data.partition(b"\n")
    return _header(head, name), chain.from_iterable(_lines(chain((data,), rest), name, may_be_cut=may_be_cut))


def _header(line: bytes, name: str) -> Header:
    try:
        return Header.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadRecordingError(
            f"{name}, line 1: not the header of a recording: {where + ': ' if where else ''}{problem['msg']}"
        ) from error


def _lines(blocks: Iterable[bytes], name: str, *, may_be_cut: bool) -> Iterator[list[bytes]]:
    """The lines of one block after the other."""
    number, cut = 1, b""
    for block in blocks:
        *whole, cut = (cut + block).split(b"\n")
        if not all(whole):
            yield whole[: whole.index(b"")]
            raise BadRecordingError(f"{name}, line {number + whole.index(b'') + 1}: empty line")
        yield whole
        number += len(whole)
    if cut and not may_be_cut:
        raise BadRecordingError(f"{name}, line {number + 1}: the file ends in the middle of a line")


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
    """Each an input and what was decided on it. What stands before the first input, in a damaged log, is one, too."""
    step: list[Event] = []
    for event in events:
        if step and isinstance(event, Input):
            yield step
            step = []
        step.append(event)
    if step:
        yield step
