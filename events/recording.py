"""Recordings: the log of one or more sessions in a file that outlives the service.

JSONL: the first line is a header, each further line one event in canonical encoding. The events of a step stand
together, an input first. A recording with `"derived": false` holds inputs alone; replay completes it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from events.codec import BadEventError, decode
from events.envelope import Event

NEWLINE = b"\n"


class BadRecordingError(ValueError):
    """A recording cannot be read; the message names the file and the line."""


class Header(BaseModel):
    """The first line: what the file is, and which reducer wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    derived: bool = True
    format: Literal["orch.recording"] = "orch.recording"
    format_version: Literal[1] = 1
    reducer_version: str = ""
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
    if not data.strip():
        raise BadRecordingError(f"{name}: the file is empty; a recording starts with a header line")
    head, _, rest = data.partition(b"\n")
    try:
        header = Header.model_validate_json(head)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadRecordingError(
            f"{name}, line 1: not the header of a recording: {where + ': ' if where else ''}{problem['msg']}"
        ) from error
    if rest and not rest.endswith(b"\n"):
        raise BadRecordingError(f"{name}, line {rest.count(NEWLINE) + 2}: the file ends in the middle of a line")
    lines = tuple(rest.split(b"\n")[:-1])
    for index, line in enumerate(lines):
        if not line.strip():
            raise BadRecordingError(f"{name}, line {index + 2}: empty line")
    return Recording(name, header, lines)


def dump(header: Header, lines: Iterable[bytes]) -> bytes:
    """The bytes of a recording."""
    return b"".join(line + b"\n" for line in (header.model_dump_json().encode(), *lines))
