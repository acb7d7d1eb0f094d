"""Loads the content of the reference services: intents with example phrases from YAML, knowledge from Markdown."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import whitespace
from typing import Any

from events.file_kinds import other_kind
from orchestrator.marked_file import MarkedFileError, read_marked
from orchestrator.services.failures import ServiceError

DEFAULT_CONTENT = Path(__file__).parent / "content"

# Each repetition below is bounded, so that matching takes time linear in the length of the text.
_HEADING = re.compile(r"^#{1,6}\s+(.*)$")
_LIST_ITEM = re.compile(r"^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$")
_FENCE = re.compile(r"^\s*(?:```|~~~)")
_MARKUP = (
    (re.compile(r"<!--.{0,2000}?-->", re.DOTALL), " "),
    (re.compile(r"!\[[^\[\]]{0,500}\]\([^()]{0,1000}\)"), " "),  # images are not spoken
    (re.compile(r"\[([^\[\]]{0,500})\](?:\([^()]{0,1000}\)|\[[^\[\]]{0,500}\])"), r"\1"),
    (re.compile(r"<(?:https?|mailto):[^<>]{0,1000}>|</?[A-Za-z][^<>]{0,1000}>"), " "),
    (re.compile(r"(\*\*\*|___|\*\*|__|~~|(?<!`)`{1,3}(?!`))(?=\S)(.{1,500}?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<!\w)([*_])(?=\S)(.{1,500}?)(?<=\S)\1(?!\w)"), r"\2"),
    (re.compile(r"\\([\\`*_{}\[\]()#+.!~>-])"), r"\1"),
    (re.compile(r"^[^\S\n]*>+\s?", re.MULTILINE), ""),
)


@dataclass(frozen=True, slots=True)
class IntentExamples:
    """An intent, the phrases that mean it, and its direct answer ("" where the knowledge has the answer).

    `is_whole`: a phrase counts only if the user says hardly anything else but thanks, and all of it.
    `heeds_not`: a phrase counts only if it and the text both say "not", or neither does. Other intents ignore "not".
    """

    name: str
    examples: tuple[str, ...]
    answer: str = ""
    is_whole: bool = False
    heeds_not: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a Markdown file: its spoken first paragraph, example questions, and more text for the search."""

    source: str
    heading: str
    spoken: str
    asked_as: tuple[str, ...]
    rest: str


@dataclass(frozen=True, slots=True)
class Content:
    """The whole content of the reference services."""

    intents: tuple[IntentExamples, ...]
    fillers: frozenset[str]
    sections: tuple[Section, ...]

    def questions(self) -> tuple[IntentExamples, ...]:
        """The questions for each section; the name of each entry is the section's position."""
        return tuple(
            IntentExamples(str(at), (section.heading, *section.asked_as)) for at, section in enumerate(self.sections)
        )

    def phrases(self) -> tuple[str, ...]:
        """All phrases that a user is expected to say: the domain of the recogniser."""
        asked = (phrase for section in self.sections for phrase in (section.heading, *section.asked_as))
        examples = (phrase for intent in self.intents for phrase in intent.examples)
        return tuple(dict.fromkeys((*examples, *asked)))


def load_content(folder: Path | None = None) -> Content:
    """Read `intents.yaml` and `knowledge/**/*.md` of a folder; without a folder, orch's built-in content.

    Reads files: call it in a thread when a loop is running. Raises ServiceError naming the file that is wrong.
    """
    root = folder or DEFAULT_CONTENT
    intents, fillers = _load_intents(root / "intents.yaml")
    return Content(intents=intents, fillers=fillers, sections=tuple(_load_sections(root / "knowledge")))


def speakable(markdown: str) -> str:
    """The text of a piece of Markdown as one line that can be read aloud: no markup, no addresses."""
    for pattern, replacement in _MARKUP:
        markdown = pattern.sub(replacement, markdown)
    return " ".join(markdown.split())


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        if kind := other_kind(data):
            raise ServiceError(f"the reference content cannot be read: {path} is {kind}")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ServiceError(f"the reference content cannot be read: {path}, line {line}: not text in UTF-8") from error
    except OSError as error:
        raise ServiceError(f"the reference content cannot be read: {path}: {error.strerror}") from error


def _load_intents(path: Path) -> tuple[tuple[IntentExamples, ...], frozenset[str]]:
    try:
        document = read_marked(path).value
    except MarkedFileError as error:
        line = f", line {error.problem.line}" if error.problem.line else ""
        raise ServiceError(f"the reference content cannot be read: {path}{line}: {error}") from error
    if not isinstance(document, Mapping) or not isinstance(document.get("intents"), Mapping):
        raise ServiceError(f"{path}: expected `intents:`, a mapping of intent names to examples")
    intents = tuple(_intent(path, str(name), entry) for name, entry in document["intents"].items())
    return intents, frozenset(_strings(path, "fillers", document.get("fillers", [])))


def _intent(path: Path, name: str, entry: Any) -> IntentExamples:
    if not isinstance(entry, Mapping):
        raise ServiceError(f"{path}: intent {name!r}: expected `examples:` and perhaps `answer:`")
    examples = _strings(path, f"{name}.examples", entry.get("examples"))
    answer = entry.get("answer", "")
    if not examples or not isinstance(answer, str):
        raise ServiceError(f"{path}: intent {name!r} needs at least one example, and its answer must be text")
    is_whole, heeds_not = (_boolean(path, name, entry, key) for key in ("whole", "heeds_not"))
    return IntentExamples(name, examples, speakable(answer), is_whole, heeds_not)


def _boolean(path: Path, name: str, entry: Mapping[Any, Any], key: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise ServiceError(f"{path}: intent {name!r}: `{key}` must be true or false, not {value!r}")
    return value


def _strings(path: Path, where: str, value: Any) -> tuple[str, ...]:
    # YAML reads a bare `no` as a boolean: report it here instead of misrecognising it later.
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ServiceError(f'{path}: {where}: expected a list of texts (put quotes around "yes", "no", numbers)')
    return tuple(value)


def _load_sections(folder: Path) -> Iterator[Section]:
    for path in sorted(folder.rglob("*.md")):
        source = path.relative_to(folder).as_posix()
        yield from parse_sections(_read(path), source)


def parse_sections(markdown: str, source: str) -> Iterator[Section]:
    """Cut a Markdown text into sections. Skips sections without a paragraph to speak."""
    heading, lines, in_fence = "", list[str](), False
    for line in (*markdown.splitlines(), "# "):
        in_fence ^= bool(_FENCE.match(line))
        match = None if in_fence else _HEADING.match(line)
        if not match:
            lines.append(line)
            continue
        yield from _section(source, heading, lines)
        heading, lines = speakable(match[1].rstrip("#" + whitespace)), []


def _section(source: str, heading: str, lines: list[str]) -> Iterator[Section]:
    blocks = [(is_item, text) for is_item, block in _blocks(lines) if (text := speakable(block))]
    items = [text for is_item, text in blocks if is_item]
    paragraphs = [text for is_item, text in blocks if not is_item]
    if not paragraphs:
        return
    asked_as = tuple(item for item in items if item.endswith(("?", ".")))
    others = (*paragraphs[1:], *(item for item in items if not item.endswith(("?", "."))))
    yield Section(source, heading, paragraphs[0], asked_as, " ".join(others))


def _blocks(lines: list[str]) -> Iterator[tuple[bool, str]]:
    """The list items (True) and paragraphs (False) of a section, without code. A block ends at a blank line, at code or
    at the next item. By CommonMark, a number other than 1 begins no item within a paragraph: "from 8 to" / "18. On".
    """
    block, is_item, text_column, in_fence = list[str](), False, 0, False
    for line in (*lines, ""):
        is_fence = bool(_FENCE.match(line))
        in_fence ^= is_fence
        item = None if in_fence else _LIST_ITEM.match(line)
        if item and block and item[2] and int(item[2]) != 1 and len(item[1]) >= text_column:
            item = None
        if block and (item or is_fence or not line.strip()):
            yield is_item, "\n".join(block)
            block, is_item, text_column = [], False, 0
        if item:
            block, is_item, text_column = [item[3]], True, item.start(3)
        elif not in_fence and not is_fence and line.strip():
            block.append(line)
