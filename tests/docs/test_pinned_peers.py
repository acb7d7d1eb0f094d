"""The environments of other frameworks in bench/peers: exact versions, and the registry is for uv to know."""

import re
from pathlib import Path

import pytest

PEERS = Path(__file__).parents[2] / "bench" / "peers"
LISTS = sorted(PEERS.glob("*.txt"))
PINNED = re.compile(r"[a-z0-9][a-z0-9.-]*==\d[\w.!+]*")
FRAMEWORKS = {"livekit": "livekit-agents", "pipecat": "pipecat-ai"}


def test_each_framework_has_its_list() -> None:
    """And the script that runs in it."""
    assert [file.stem for file in LISTS] == sorted(FRAMEWORKS)
    assert all((PEERS / f"{name}_turn.py").exists() for name in FRAMEWORKS)


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.stem)
def test_every_package_has_its_exact_version_and_no_registry_is_named(file: Path) -> None:
    """No option, address, file, range or marker: `NAME==VERSION` alone."""
    text = file.read_text("utf-8")
    packages = [line for line in text.splitlines() if not line.startswith("#")]
    assert [line for line in packages if not PINNED.fullmatch(line)] == []
    assert [line for line in packages if line.startswith(f"{FRAMEWORKS[file.stem]}==")]
    assert "://" not in text


def test_the_decision_that_cites_figures_names_these_versions() -> None:
    """Figures of another version prove nothing about this one."""
    page = (PEERS.parents[1] / "docs" / "decisions" / "026-answers-that-stream.md").read_text("utf-8")
    for file in LISTS:
        (version,) = re.findall(rf"^{FRAMEWORKS[file.stem]}==(\S+)$", file.read_text("utf-8"), re.MULTILINE)
        assert version in page, f"docs/decisions/026 cites figures, but not of {FRAMEWORKS[file.stem]} {version}"
