"""axe-core, fetched from npm once and checked: the accessibility rules that a page breaks."""

import asyncio
import base64
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import Chromium

VERSION = "4.14.1"
INTEGRITY = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
"""SHA-512 of the package, as the npm registry names it."""
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "orch-tests"


async def axe_source() -> str:
    """The library's JavaScript. Skips the test where npm cannot get it."""
    package = _CACHE / f"axe-core-{VERSION}.tgz"
    if not package.exists():
        await _fetch(package)
    data = await asyncio.to_thread(package.read_bytes)
    assert base64.b64encode(hashlib.sha512(data).digest()).decode() == INTEGRITY, f"{package} is not axe-core {VERSION}"
    with tarfile.open(fileobj=io.BytesIO(data)) as files:
        member = files.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


async def _fetch(package: Path) -> None:
    if (npm := shutil.which("npm")) is None:
        pytest.skip("no npm to get axe-core with")
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *(npm, "pack", f"axe-core@{VERSION}", "--silent"),
            cwd=folder,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        if process.returncode:
            pytest.skip(f"npm cannot get axe-core: {errors.decode(errors='replace').strip()[-200:]}")
        package.parent.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(shutil.move, f"{folder}/axe-core-{VERSION}.tgz", package)


async def violations(page: Chromium, source: str) -> list[str]:
    """Each broken rule with the elements that break it."""
    if not await page.evaluate("typeof axe === 'object'"):
        await page.evaluate(f"{source}; true")
    found: list[dict[str, Any]] = await page.evaluate("axe.run(document).then(({ violations }) => violations)")
    return [f"{one['id']}: {[node['html'][:160] for node in one['nodes'][:3]]}" for one in found]
