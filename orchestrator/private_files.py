"""Folders and files that hold what users said: they belong to this user alone, or they are not used."""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

_OTHERS_WRITE = stat.S_IWOTH
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class NotPrivateError(PermissionError):
    """A folder, file or socket is somebody else's, or somebody else could have put it there; the message says which."""


def private_folder(path: Path) -> None:
    """Make a folder for this user alone, or see that it is one; what others could only read is closed to them.

    Raises NotPrivateError for a link, another user's folder, or one in which anybody may write; OSError.
    """
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    found = _checked(path, path.lstat(), stat.S_ISDIR, "a folder")
    if found.st_mode & _OTHERS:
        path.chmod(0o700)


def open_private(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    """A file descriptor of a file of this user alone, made if `flags` say so. Links are not followed.

    Raises NotPrivateError, OSError.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if path.is_symlink():
            raise NotPrivateError(_words(path, "is a link")) from error
        raise
    try:
        found = _checked(path, os.fstat(descriptor), stat.S_ISREG, "a file")
        if found.st_mode & _OTHERS:
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_private(path: Path, most_bytes: int = 4096) -> str:
    """The text of such a file. Raises NotPrivateError, OSError."""
    descriptor = open_private(path, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(most_bytes).decode(errors="replace")


def write_private(path: Path, text: str) -> None:
    """Replace the text of such a file, or make it. Raises NotPrivateError, OSError."""
    with os.fdopen(open_private(path, os.O_WRONLY | os.O_CREAT), "w") as file:
        file.truncate(0)
        file.write(text)


def check_private_socket(path: Path) -> None:
    """See that a socket and its folder are this user's. Raises NotPrivateError, OSError."""
    _checked(path.parent, path.parent.lstat(), stat.S_ISDIR, "a folder")
    _checked(path, path.lstat(), stat.S_ISSOCK, "a socket")


def _checked(path: Path, found: os.stat_result, is_kind: Callable[[int], bool], kind: str) -> os.stat_result:
    if stat.S_ISLNK(found.st_mode):
        raise NotPrivateError(_words(path, "is a link"))
    if not is_kind(found.st_mode):
        raise NotPrivateError(_words(path, f"is not {kind}"))
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        raise NotPrivateError(_words(path, "has a second name elsewhere (a hard link)"))
    if found.st_uid != os.geteuid():
        raise NotPrivateError(_words(path, f"belongs to user {found.st_uid}, and this is user {os.geteuid()}"))
    if found.st_mode & _OTHERS_WRITE:
        raise NotPrivateError(_words(path, f"can be written by anybody (mode {stat.S_IMODE(found.st_mode):o})"))
    return found


def _words(path: Path, what: str) -> str:
    return f"{path} {what}, so it is not used: look at what it is, and remove it or set ORCH_DATA_DIR to another folder"
