"""Plain English: counts phrases that point at a thing instead of naming it, in docstrings, comments and Markdown.

HIGHEST is a ratchet: no folder may exceed its count, and a folder that improves lowers its number here.
"""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("events", "orchestrator", "projections", "cli", "deploy", "bench", "docs", "fixtures")
PHRASES = (
    *("what is", "what was", "what are", "what were", "whoever", "whatever", "one that", "that which"),
    *("is told", "are told", "was told", "were told", "so long", "so many"),
    *("the other one", "ours", "made right", "made anew", "come to be", "comes to be", "manieth", "in words"),
    *("costs nobody", "nobody reads"),
)
POINTING = re.compile(rf"\b(?:{'|'.join(PHRASES)})\b".replace(" ", r"\s+"), re.IGNORECASE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
NEWLINE = "\n"
HIGHEST = {
    "cli": 2,
    "docs/commands": 2,
    "fixtures": 17,
    "orchestrator": 1,
    "orchestrator/media": 2,
}


def prose(name: str, text: str) -> Iterator[tuple[int, str]]:
    """First line and text of each docstring, comment block or Markdown page. Code is left out."""
    if name.endswith(".md"):
        yield 1, FENCED.sub(lambda block: "\n" * block[0].count("\n"), text)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    blocks: list[tuple[int, list[str]]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if not blocks or token.start[0] != blocks[-1][0] + len(blocks[-1][1]):
                blocks.append((token.start[0], []))
            blocks[-1][1].append(token.string.lstrip("# "))  # a phrase may span two lines of comment
    yield from ((line, "\n".join(words)) for line, words in blocks)


def pointing(name: str, text: str) -> list[str]:
    """Each phrase found, as `file:line: phrase`."""
    return [
        f"{name}:{first + words[: found.start()].count(NEWLINE)}: {' '.join(found[0].split())}"
        for first, words in prose(name, text)
        for found in POINTING.finditer(words)
    ]


def by_folder() -> dict[str, list[str]]:
    """Row of HIGHEST → phrases found. A row is orchestrator/PACKAGE, docs/FOLDER, a top-level folder, or `.`."""
    found = defaultdict[str, list[str]](list)
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    for file in sorted([*pages, *(file for part in PRODUCT for file in ROOT.glob(f"{part}/**/*.py"))]):
        name = file.relative_to(ROOT)
        depth = 2 if name.parts[0] in ("orchestrator", "docs") else 1
        found["/".join(name.parts[:-1][:depth]) or "."] += pointing(name.as_posix(), file.read_text("utf-8"))
    return found


FOUND = by_folder()


@pytest.mark.parametrize("folder", sorted({*FOUND, *HIGHEST}))
def test_no_folder_has_more_pointing_phrases_than_before(folder: str) -> None:
    """A new phrase fails here, with its line; so does a count in HIGHEST that is too high."""
    count, highest = len(FOUND[folder]), HIGHEST.get(folder, 0)
    places = "\n".join(FOUND[folder])
    assert count <= highest, f"{count} phrases, {highest} allowed: name the thing instead of pointing at it\n{places}"
    assert count == highest, f'{folder} has improved: write "{folder}": {count} into HIGHEST'


@pytest.mark.parametrize("phrase", PHRASES)
def test_each_phrase_is_found_in_docstrings_comments_and_pages(phrase: str) -> None:
    """Also across a line break, with the line of its first word; code and fenced code do not count."""
    broken = phrase.replace(" ", "\n    ")
    commented = phrase.replace(" ", "\n# ")
    assert pointing("x.py", f'def f():\n    """A {broken} b."""\n') == [f"x.py:2: {phrase}"]
    assert pointing("x.py", f"a = 1\n# A\n# {commented}\n") == [f"x.py:3: {phrase}"]
    assert pointing("x.md", f"# A\n\nB {phrase.upper()} c.\n") == [f"x.md:3: {phrase.upper()}"]
    assert pointing("x.py", f'a = "{phrase}"\n') == []
    assert pointing("x.md", f"A\n```sh\n{phrase}\n```\n") == []
