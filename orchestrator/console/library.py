"""Where the console reads conversations: a folder of recordings, files that a reader dropped, and live sessions."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Protocol

from events.envelope import Event
from events.recording import BadRecordingError, is_recording, parse
from orchestrator.replay.replay import REDUCER_ERRORS, events_of
from projections.summary import State, Summary, Wanted, summaries

MOST_FILES = 16
"""Dropped files kept in memory; the oldest is forgotten."""
MOST_FILE_BYTES = 32 * 1024 * 1024


class NoSuchSessionError(LookupError):
    """The library has no session under that name."""


class Library(Protocol):
    """A set of conversations. Sessions are named by `Summary.key`."""

    async def page(self, wanted: Wanted) -> tuple[list[Summary], str]:
        """One page of summaries and the cursor of the next. Raises OSError."""
        ...

    async def log(self, key: str) -> list[Event]:
        """The whole log of a session. Raises NoSuchSessionError, BadRecordingError."""
        ...

    async def state(self, key: str) -> State:
        """Whether a session is live, ended, archived, or in a file."""
        ...

    def source(self, key: str) -> str:
        """What names the session's recording on the command line: `orch show SOURCE`."""
        ...

    def follow(self, key: str, after: int) -> AsyncGenerator[list[list[Event]], None]:
        """The steps of a live session after a version, as they are committed: those that are new at a time. Ends when
        nothing can follow.
        """
        ...


class Recordings:
    """Conversations in recordings: the base of a folder and of dropped files."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[object, list[Summary], str]] = {}
        """Name of a file → its stamp, its summaries, and why it cannot be read."""

    @property
    def unreadable(self) -> dict[str, str]:
        """Name of a file → why it cannot be read."""
        return {name: problem for name, (_, _, problem) in self._found.items() if problem}

    async def page(self, wanted: Wanted) -> tuple[list[Summary], str]:
        await asyncio.to_thread(self._look)
        return wanted.page(one for _, found, _ in self._found.values() for one in found)

    async def log(self, key: str) -> list[Event]:
        await asyncio.to_thread(self._look)
        for name, (_, found, problem) in self._found.items():
            if problem and key == name:
                raise BadRecordingError(problem)
            for one in found:
                if one.key == key:
                    return [event for event in self._events(name) if event.session_id == one.session_id]
        raise NoSuchSessionError(f"no session {key!r} here; the list of sessions names all")

    async def state(self, key: str) -> State:  # noqa: ARG002
        return "file"

    def source(self, key: str) -> str:
        names = (name for name, (_, found, _) in self._found.items() for one in found if one.key == key)
        return self._path(next(names, key))

    async def follow(self, key: str, after: int) -> AsyncGenerator[list[list[Event]], None]:  # noqa: ARG002
        nothing: list[list[list[Event]]] = []
        for steps in nothing:
            yield steps

    def _names(self) -> Iterable[str]:
        raise NotImplementedError

    def _stamp(self, name: str) -> object:
        """A value that changes when the file does. Raises OSError."""
        raise NotImplementedError

    def _bytes(self, name: str) -> bytes:
        raise NotImplementedError

    def _path(self, name: str) -> str:
        return name

    def _look(self) -> None:
        """Read new and changed files, forget files that have gone."""
        known = self._found
        found: dict[str, tuple[object, list[Summary], str]] = {}
        for name in self._names():
            stamp: object = None
            try:
                stamp = self._stamp(name)
                if name in known and known[name][0] == stamp:
                    found[name] = known[name]
                    continue
                found[name] = (stamp, summaries(self._events(name), name), "")
            except (BadRecordingError, OSError, *REDUCER_ERRORS) as error:
                found[name] = (stamp, [], str(error) or type(error).__name__)
        self._found = found

    def _events(self, name: str) -> list[Event]:
        return events_of(parse(self._bytes(name), name))


class Folder(Recordings):
    """The recordings (*.jsonl) below a folder, or one recording."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def _names(self) -> Iterable[str]:
        if self._folder.is_file():
            return [self._folder.name]
        files = sorted(file for file in self._folder.rglob("*") if is_recording(file.name))
        return [file.relative_to(self._folder).as_posix() for file in files]

    def _stamp(self, name: str) -> object:
        about = Path(self._path(name)).stat()
        return about.st_mtime_ns, about.st_size

    def _path(self, name: str) -> str:
        return str(self._folder if self._folder.is_file() else self._folder / name)

    def _bytes(self, name: str) -> bytes:
        return Path(self._path(name)).read_bytes()


class Dropped(Recordings):
    """Files that a reader dropped on the page: in memory, the last MOST_FILES of them, never written anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self._files: OrderedDict[str, bytes] = OrderedDict()

    def open(self, name: str, data: bytes) -> list[Summary]:
        """Take a file; returns the sessions in it. Raises BadRecordingError."""
        called = f"dropped/{name}"
        self._files.pop(called, None)
        self._files[called] = data
        while len(self._files) > MOST_FILES:
            self._files.popitem(last=False)
        self._look()
        _, found, problem = self._found[called]
        if problem:
            del self._files[called]
            raise BadRecordingError(problem.removeprefix("dropped/"))
        return found

    def _names(self) -> Iterable[str]:
        return list(self._files)

    def _stamp(self, name: str) -> object:
        return id(self._files[name])

    def _bytes(self, name: str) -> bytes:
        return self._files[name]
