"""Finds the files of a package and checks that they are those orch was tested with, before anything of it is used."""

import hashlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from orchestrator.services.failures import ServiceError


def package_folder(package: str) -> Path:
    """The folder of an installed package, which is not imported. Raises ServiceError when it is missing."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ServiceError(f"the package {package.replace('_', '-')} is not installed")
    return Path(spec.origin).parent


def digest(folder: Path, names: Iterable[str]) -> str:
    """One SHA-256 of files in a folder, of their names and contents. Raises OSError."""
    whole = hashlib.sha256()
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            whole.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def check(folder: Path, names: Iterable[str], expected: str, release: str) -> None:
    """Raises ServiceError when the files are not those of the release, such as "hibari-tts 0.2.1"."""
    try:
        found = digest(folder, names)
    except OSError as error:
        raise ServiceError(f"{release} is not installed whole: {error.filename}: {error.strerror}") from error
    if found != expected:
        raise ServiceError(
            f"the files in {folder} are not those of {release}, which orch was tested with, and are not used. "
            f'Install it again: pip install --force-reinstall "{release.replace(" ", "==")}"'
        )


def code_and_assets(folder: Path) -> Iterator[str]:
    """The names of all files of a package but compiled ones."""
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(folder).as_posix()
