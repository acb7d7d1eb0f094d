"""A syrupy extension that stores the golden log of a recording in a file beside it, for review."""

from functools import cache
from pathlib import Path

from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode


@cache
def golden_file(folder: Path) -> type[SingleFileSnapshotExtension]:
    """`snapshot(name="NAME", extension_class=golden_file(folder))` is `folder/NAME.golden`."""

    class GoldenFile(SingleFileSnapshotExtension):
        _write_mode = WriteMode.TEXT
        file_extension = "golden"

        @classmethod
        def dirname(cls, **_: object) -> str:
            return str(folder)

        @classmethod
        def get_snapshot_name(cls, *, index: object = 0, **_: object) -> str:
            return str(index)

    return GoldenFile
