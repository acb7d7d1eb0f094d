"""The licences of all packages that README's first command installs, read from the packages themselves."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
COPYLEFT = re.compile(r"\b(?:A?GPL|LGPL|MPL|EUPL|CDDL|EPL|CC-BY-SA|OSL)|general public|mozilla public", re.IGNORECASE)
PERMISSIVE = re.compile(r"\b(?:MIT|BSD|Apache|ISC|PSF|Python|Unlicense|Zlib|0BSD|Unicode|ICU)\b", re.IGNORECASE)
NAMED = {
    "av": "its wheel carries FFmpeg with x264 and x265; replaceable by a build of one's own (README)",
    "certifi": "MPL-2.0, a list of certificates; copyleft for its own files alone",
    "tqdm": "MPL-2.0 and MIT, asked for by moonshine-voice and never imported",
}
"""Packages with copyleft in them, and why that is acceptable. README names the first."""


def installed(name: str, extras: frozenset[str] = frozenset()) -> Iterator[str]:
    """The packages that this one needs here, with its own name."""
    seen: set[tuple[str, frozenset[str]]] = set()
    wanted = [(name, extras)]
    while wanted:
        one = wanted.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            needs = distribution(one[0]).requires or []
        except PackageNotFoundError:
            pytest.fail(f"{one[0]} is not installed: its licence cannot be read")
        yield one[0]
        wanted.extend(
            (need.name.lower().replace("_", "-"), frozenset(need.extras))
            for need in map(Requirement, needs)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (one[1] or {""}))
        )


def licence(name: str) -> str:
    """The package's own words: the expression, the classifiers, the field, and the name of its licence file's text."""
    about = distribution(name).metadata
    classifiers = [one for one in about.get_all("Classifier") or [] if one.startswith("License ::")]
    words = [about.get("License-Expression") or "", *classifiers, (about.get("License") or "")[:200]]
    if not any(words):
        files = [file for file in distribution(name).files or [] if re.search(r"LICEN[CS]E|COPYING", file.name)]
        words = [file.read_text()[:400] for file in files if file.suffix in ("", ".txt", ".md")]
    return " | ".join(filter(None, words))


EVERYTHING = sorted(set(installed("orch-voice", frozenset({"demo"}))))


def test_the_demo_is_among_them() -> None:
    """A test of an empty list proves nothing; and what is GPL as a whole is an extra of its own."""
    assert {"hibari-tts", "moonshine-voice", "onnxruntime", "av", "aiortc", "tqdm"} <= set(EVERYTHING)
    assert not {"espeakng-loader", "pocketsphinx"} & set(EVERYTHING)


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_package_is_permissive_or_named(name: str) -> None:
    """A new dependency with copyleft needs a line above, and a way to do without it."""
    words = licence(name)
    if name in NAMED:
        return
    assert PERMISSIVE.search(words), f"{name}: no known licence in {words!r}"
    assert not COPYLEFT.search(words), f"{name}: {words!r}"


def test_the_readme_names_the_codecs() -> None:
    """And says how to do without them."""
    text = (ROOT / "README.md").read_text()
    assert all(word in text for word in ("libx264", "--no-binary-package av"))
