"""The Unix socket of the embedded Redis: chooses its path, and restores the socket after something removed it.

The socket is in the data directory, where no cleaner of temporary files removes it. The path of a socket is limited to
about 100 bytes, and a URL cannot hold every character. If the path is too long or has a bad character, clients connect
through a symbolic link in a directory of temporary files.
"""

import contextlib
import os
import re
import tempfile
from pathlib import Path

from orchestrator.private_files import read_private, write_private

LONGEST = 100
"""Limit on the bytes of a socket's path; the systems allow 103 (macOS) and 107 (Linux)."""
_NAME = "redis.sock"


class NoPlaceError(OSError):
    """No directory can hold the socket; the message says why."""


class ServerSocket:
    """The socket of one data directory. Processes that want to connect read its path from the file `socket`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._note = folder / "socket"
        self._spare = folder / "spare.sock"
        """A hard link to the socket. If the socket is removed, restore() makes it again from this link."""

    @property
    def path(self) -> str:
        """The path to which clients connect; empty: there is no socket."""
        try:
            return read_private(self._note)
        except FileNotFoundError:
            return ""

    def make(self) -> str:
        """Choose the path for the socket of a new server, in a new private folder, and return the path. Removes the
        socket of an earlier server. Raises NoPlaceError if no folder has a path that is short enough.
        """
        self.remove()
        run = Path(tempfile.mkdtemp(prefix="run-", dir=self._folder))  # mode 0700
        path = str(run / _NAME)
        if not _can_be_used(path):
            path = self._short_name(run)
        write_private(self._note, path)
        return path

    def keep(self) -> None:
        """Make a hard link to the socket of a running server. If the socket is removed, restore() uses this link. Does
        nothing on a file system without hard links.
        """
        with contextlib.suppress(OSError):
            self._spare.unlink(missing_ok=True)
            os.link(self.path, self._spare)

    def restore(self) -> bool:
        """Restore the socket if it was removed; returns whether it was. Raises OSError if it cannot be restored."""
        path = Path(self.path)
        if not self.path or path.exists():
            return False
        if not path.parent.exists():
            if path.parent.is_relative_to(self._folder):
                path.parent.mkdir(mode=0o700)
            else:
                path.parent.unlink(missing_ok=True)
                path.parent.symlink_to(self._run())
        if not path.exists():
            os.link(self._spare, path)
        return True

    def remove(self) -> None:
        """Remove the socket in this data directory and everything that belongs to it: its folder, the links to it, and
        the file with its path.
        """
        link = Path(self.path).parent
        if self.path and link.is_symlink():
            link.unlink()
        for run in self._folder.glob("run-*"):
            (run / _NAME).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds a file of another program
                run.rmdir()
        self._spare.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _run(self) -> Path:
        return next(self._folder.glob("run-*"))

    def _short_name(self, run: Path) -> str:
        for place in (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp"):  # noqa: S108
            name = Path(place) / f"orch-{os.urandom(6).hex()}"
            if place and os.access(place, os.W_OK) and _can_be_used(str(name / _NAME)):
                name.symlink_to(run)
                return str(name / _NAME)
        raise NoPlaceError(
            f"there is no place for a socket: its path may have {LONGEST} bytes without blanks and signs, and neither "
            f"{self._folder} nor a directory of temporary files is so short; choose another ORCH_DATA_DIR"
        )


def _can_be_used(path: str) -> bool:
    return len(os.fsencode(path)) <= LONGEST and re.fullmatch(r"[\w./~+-]+", path, re.ASCII) is not None
