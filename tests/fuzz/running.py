"""Feeds readers broken inputs and looks at what comes out of them, and at how their time grows."""

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.fuzz.readers import READERS, Reader, inputs

PARTS = 8
"""Inputs are compared with an eighth of themselves: in linear time the ratio is 8, in quadratic time 64."""
TOO_FAST = 24
"""About the middle between the two: a busy machine moves a figure by a half, never by three."""
TOO_SHORT_S = 0.05
"""A shorter time says nothing about how it grows."""


@dataclass(frozen=True, slots=True)
class Escape:
    """An input on which a reader raised what it must not."""

    reader: str
    data: bytes
    error: Exception

    def __str__(self) -> str:
        return f"{self.reader}: {type(self.error).__name__}: {str(self.error)[:200]}\n  input: {self.data[:2000]!r}"


def escapes(name: str, count: int, seed: int) -> Iterator[Escape]:
    reader = READERS[name]
    for data in inputs(reader, count, seed):
        if (error := raised(reader, data)) is not None:
            yield Escape(name, data, error)


def raised(reader: Reader, data: bytes) -> Exception | None:
    """What it must not raise; None: nothing of that kind."""
    try:
        reader.read(data)
    except reader.errors:
        return None
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return error
    return None


def seconds_of(reader: Reader, data: bytes) -> float:
    """The shortest of five: others use this machine, too. Collecting garbage waits: its time is not the reader's."""
    found = []
    gc.disable()
    try:
        for _ in range(5):
            began = time.process_time()
            raised(reader, data)
            found.append(time.process_time() - began)
            if found[-1] < TOO_SHORT_S / (4 * PARTS):
                break
    finally:
        gc.enable()
    return min(found)


def growth(name: str) -> Iterator[tuple[bytes, float, float]]:
    """For each kind of large input: how it begins, and the seconds of an eighth of it and of the whole."""
    reader = READERS[name]
    for part, whole in zip(reader.grown(reader.largest // PARTS), reader.grown(reader.largest), strict=True):
        yield whole[:24], seconds_of(reader, part), seconds_of(reader, whole)


def grows_too_fast(part_s: float, whole_s: float) -> bool:
    return whole_s > TOO_SHORT_S and whole_s > TOO_FAST * part_s
