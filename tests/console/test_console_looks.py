"""How the console looks and weighs: accessibility rules, narrow and wide, light and dark; pictures for the docs."""

import gzip
import hashlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.console.library import Folder
from orchestrator.console.server import STATIC
from tests.browser.chromium import Chromium, chromium_path
from tests.console.axe import axe_source, violations
from tests.console.conftest import FIXTURES, serving

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "console"
MOST_BYTES = 150_000
needs_chromium = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one or set ORCH_CHROMIUM"),
]
SESSION = "/sessions/real_barge_in.jsonl"
PAGES = {
    "list": ("/?day=2026-11-22&set=interruption.min_words%3D2", "tbody tr"),
    "step": (f"{SESSION}?v=79", ".events"),
    "state": (f"{SESSION}?v=79&view=state", "dl.fields"),
    "why": (f"{SESSION}?v=79&view=why", "ol.causes"),
    "turn": (f"{SESSION}?v=79&view=turn", ".waterfall"),
    "phases": (f"{SESSION}?v=79&view=phases", ".diagram"),
    "what-if": (f"{SESSION}?view=what-if&set=interruption.min_speech_ms%3D0", ".beside"),
    "share": (f"{SESSION}?view=share", "pre.lines"),
    "compare": ("/compare?a=real_call.jsonl&b=real_barge_in.jsonl", ".beside"),
    "nobody": ("/sessions/nobody", ".problem"),
}
LOOKS = [(1280, 900, False), (1280, 900, True), (320, 800, False), (320, 800, True)]
SHOWN = {"list": 700, "step": 900, "why": 900, "turn": 1700, "what-if": 1200}
"""Pages whose pictures are in the docs, with the height of the picture."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_browser() -> AsyncIterator[Chromium]:
    async with Chromium(flags=("--hide-scrollbars",)) as browser:
        yield browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def console() -> AsyncIterator[str]:
    async with serving(Folder(FIXTURES)) as url:
        yield url


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.asyncio(loop_scope="module")
@needs_chromium[0]
@needs_chromium[1]
async def test_every_page_keeps_the_rules_of_accessibility(name: str, one_browser: Chromium, console: str) -> None:
    """axe-core finds nothing, light and dark, wide and at 320 pixels; and nothing is cut off at the side."""
    source, (address, sign) = await axe_source(), PAGES[name]
    await one_browser.goto(console + address)
    await one_browser.wait_for(f"document.querySelector('{sign}') !== null")
    for width, height, dark in LOOKS:
        await one_browser.view(width, height, dark=dark)
        await one_browser.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert await violations(one_browser, source) == [], (width, dark)
        assert await one_browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), width


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (320, False)])
@pytest.mark.asyncio(loop_scope="module")
@needs_chromium[0]
@needs_chromium[1]
async def test_pictures_of_the_pages(
    width: int, dark: bool, one_browser: Chromium, console: str, tmp_path: Path
) -> None:
    """ORCH_WRITE_PICTURES=1 writes those of docs/console.md, which names no other."""
    folder = PICTURES if os.environ.get("ORCH_WRITE_PICTURES") else tmp_path
    named = set(re.findall(r"\(console/([\w-]+\.png)\)", (ROOT / "docs" / "console.md").read_text("utf-8")))
    look = f"{'narrow' if width == 320 else 'wide'}-{'dark' if dark else 'light'}"
    for name, height in SHOWN.items():
        if f"{name}-{look}.png" not in named:
            continue
        address, sign = PAGES[name]
        await one_browser.view(width, height, dark=dark)
        await one_browser.goto(console + address)
        await one_browser.wait_for(f"document.querySelector('{sign}') !== null")
        await one_browser.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        file = folder / f"{name}-{look}.png"
        await one_browser.screenshot(file)
        assert file.read_bytes()[16:20] == (PICTURES / file.name).read_bytes()[16:20] == width.to_bytes(4, "big")
    assert any(look in one for one in named)


def test_the_docs_show_every_picture() -> None:
    named = re.findall(r"\(console/([\w-]+\.png)\)", (ROOT / "docs" / "console.md").read_text("utf-8"))
    assert {one.name for one in PICTURES.glob("*.png")} == {*named}
    assert sum(one.stat().st_size for one in PICTURES.glob("*.png")) < 500_000


def test_all_pages_together_are_small() -> None:
    """Compressed, with the libraries."""
    sizes = {
        file.name: len(gzip.compress(file.read_bytes()))
        for file in STATIC.rglob("*")
        if file.suffix in (".js", ".css", ".html", ".svg")
    }
    assert sum(sizes.values()) <= MOST_BYTES, sizes


def test_the_libraries_are_the_packages_of_the_registry() -> None:
    """Unchanged: version, licence and checksum stand in the list beside them."""
    listed = (STATIC / "vendor" / "README.md").read_text("utf-8")
    rows = re.findall(
        r"\| `([\w.-]+)` \| ([\w.-]+) \| ([\d.]+) \| ([\w.-]+) \| `([\w.-]+)` \| `([0-9a-f]{64})` \|", listed
    )
    assert {row[0] for row in rows} == {file.name for file in (STATIC / "vendor").glob("*.js")}
    for name, package, version, _, licence, checksum in rows:
        assert name == f"{package}-{version}.js"
        assert (STATIC / "vendor" / licence).exists()
        assert hashlib.sha256((STATIC / "vendor" / name).read_bytes()).hexdigest() == checksum


def test_no_page_loads_anything_from_elsewhere_or_runs_inline_code() -> None:
    for file in STATIC.rglob("*.*"):
        if file.suffix not in (".js", ".html", ".css") or "vendor" in file.parts:
            continue
        text = file.read_text("utf-8")
        assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|dangerouslySetInnerHTML|\beval\b", text), file
        assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son[a-z]+=\"", text), file
