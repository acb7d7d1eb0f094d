"""Reads recordings from files, folders, patterns, standard input, and sessions of a service."""

import sys
from collections.abc import Callable, Iterator
from glob import glob, has_magic
from pathlib import Path

from cli.terminal import STANDARD_INPUT, UsageError, naming
from cli.terminal import run as run_loop
from events.recording import Header, Recording, is_recording, stream

BLOCK_BYTES = 1 << 16
STDIN = "-"


def expand(sources: list[str]) -> list[str]:
    """All recordings of the sources, in order; a folder means all recordings in it. Raises UsageError."""
    found: list[str] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            inside = sorted(str(file) for file in path.rglob("*") if is_recording(file.name))
        elif has_magic(source) and not path.exists():
            inside = sorted(glob(source, recursive=True))  # noqa: PTH207 - a pattern may begin at the root
        else:
            inside = [source]
        if not inside:
            raise UsageError(f"{source}: no recording (*.jsonl) there; write one with: orch export SESSION -o FILE")
        found += inside
    return found


def is_file(source: str) -> bool:
    """Whether a source is a file, which needs no service."""
    return source != STDIN and (Path(source).exists() or bool(Path(source).suffix))


def opened(
    source: str,
    *,
    may_be_cut: bool = False,
    keeps_all: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Header, Iterator[bytes]]:
    """Header and lines of a source, read lazily; `advance` is called with the size of each block read, in bytes.
    `may_be_cut` and `keeps_all`: see events.recording.stream.

    Raises BadRecordingError, UnknownSessionError, OSError.
    """
    if source == STDIN:
        blocks = _blocks(sys.stdin.buffer.read, STANDARD_INPUT, advance)
        return stream(blocks, STANDARD_INPUT, may_be_cut=may_be_cut, keeps_all=keeps_all)
    if is_file(source):
        return stream(_of_file(Path(source), advance), source, may_be_cut=may_be_cut, keeps_all=keeps_all)
    from cli.store import recording_of  # only a session needs Redis

    return stream([run_loop(recording_of(source))], source)


def whole(source: str) -> Recording:
    """A whole source in memory. Raises the errors of `opened`."""
    header, lines = opened(source)
    return Recording(source, header, tuple(lines))


def _of_file(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from _blocks(file.read, str(path), advance)


def _blocks(read: Callable[[int], bytes], name: str, advance: Callable[[int], None]) -> Iterator[bytes]:
    while True:
        with naming(name):
            block = read(BLOCK_BYTES)
        if not block:
            return
        yield block
        advance(len(block))
