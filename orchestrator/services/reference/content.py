"""What the reference agent knows: intents with example phrases from YAML, knowledge from a folder of Markdown."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestrator.services.ports import ServiceError

DEFAULT_CONTENT = Path(__file__).parent / "content"

_HEADING = re.compile(r"^#{1,6}\s+(.*?)[\s#]*$")
_LIST_ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+(.*)$")
_FENCE = re.compile(r"^\s*(?:```|~~~)")
_MARKUP = (
    (re.compile(r"<!--.*?-->", re.DOTALL), " "),
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), " "),  # a picture says nothing aloud
    (re.compile(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])"), r"\1"),
    (re.compile(r"<(?:https?|mailto):[^>]*>|</?[A-Za-z][^>]*>"), " "),
    (re.compile(r"(\*\*\*|___|\*\*|__|~~|`+)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<!\w)([*_])(?=\S)(.+?)(?<=\S)\1(?!\w)"), r"\2"),
    (re.compile(r"\\([\\`*_{}\[\]()#+.!~>-])"), r"\1"),
    (re.compile(r"^\s*>+\s?", re.MULTILINE), ""),
)


@dataclass(frozen=True, slots=True)
class IntentExamples:
    """An intent, the phrases that mean it, and what is said at once ("" where the knowledge has the answer)."""

    name: str
    examples: tuple[str, ...]
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One heading of a Markdown file: what is spoken (its first paragraph), and what else finds it."""

    source: str
    heading: str
    spoken: str
    asked_as: tuple[str, ...]
    rest: str


@dataclass(frozen=True, slots=True)
class Content:
    """All that the reference services are taught."""

    intents: tuple[IntentExamples, ...]
    fillers: frozenset[str]
    sections: tuple[Section, ...]

    def questions(self) -> tuple[IntentExamples, ...]:
        """How each section is asked for; the name is the section's position."""
        return tuple(
            IntentExamples(str(at), (section.heading, *section.asked_as)) for at, section in enumerate(self.sections)
        )

    def phrases(self) -> tuple[str, ...]:
        """Everything a user is expected to say: the domain of the recogniser."""
        asked = (phrase for section in self.sections for phrase in (section.heading, *section.asked_as))
        examples = (phrase for intent in self.intents for phrase in intent.examples)
        return tuple(dict.fromkeys((*examples, *asked)))


def load_content(folder: Path | None = None) -> Content:
    """Read `intents.yaml` and `knowledge/**/*.md` of a folder; without one, the content that orch carries.

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
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceError(f"the reference content cannot be read: {path}: {error}") from error


def _load_intents(path: Path) -> tuple[tuple[IntentExamples, ...], frozenset[str]]:
    try:
        document = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise ServiceError(f"{path} is not YAML: {error}") from error
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
    return IntentExamples(name, examples, speakable(answer))


def _strings(path: Path, where: str, value: Any) -> tuple[str, ...]:
    # YAML reads a bare `no` as a boolean: say so here rather than mishear it later.
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ServiceError(f'{path}: {where}: expected a list of texts (put quotes around "yes", "no", numbers)')
    return tuple(value)


def _load_sections(folder: Path) -> Iterator[Section]:
    for path in sorted(folder.rglob("*.md")):
        source = path.relative_to(folder).as_posix()
        yield from parse_sections(_read(path), source)


def parse_sections(markdown: str, source: str) -> Iterator[Section]:
    """Cut a Markdown text into sections; one without a paragraph to speak is left out."""
    heading, lines, in_fence = "", list[str](), False
    for line in (*markdown.splitlines(), "# "):
        in_fence ^= bool(_FENCE.match(line))
        match = None if in_fence else _HEADING.match(line)
        if not match:
            lines.append(line)
            continue
        yield from _section(source, heading, lines)
        heading, lines = speakable(match[1]), []


def _section(source: str, heading: str, lines: list[str]) -> Iterator[Section]:
    prose, items = list[str](), list[str]()
    in_fence = False
    for line in lines:
        if _FENCE.match(line):
            in_fence = not in_fence
        elif match := _LIST_ITEM.match(line):
            items.append(speakable(match[1]))
            prose.append("")
        elif not in_fence:
            prose.append(line)
    paragraphs = [text for block in re.split(r"\n\s*\n", "\n".join(prose)) if (text := speakable(block))]
    if not paragraphs:
        return
    asked_as = tuple(item for item in items if item.endswith(("?", ".")))
    others = (*paragraphs[1:], *(item for item in items if item not in asked_as))
    yield Section(source, heading, paragraphs[0], asked_as, " ".join(others))
