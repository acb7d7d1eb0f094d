"""The reference answer service: a full-text search over a folder of Markdown, and a few direct answers."""

import re
import sqlite3
from collections.abc import Iterable

from orchestrator.services.ports import Answer, Request
from orchestrator.services.reference.content import Content, Section
from orchestrator.services.reference.intent import PhraseIntents

DONT_KNOW = "I am sorry, I do not know that. You can ask me when we are open, where we are, or about a booking."

_WORD = re.compile(r"\w+")
_MAX_WORDS = 32
_CANDIDATES = 4
# Words that stand in most questions and tell nothing about them; without them "what is the" finds anything.
_SILENT = """
    a about actually all am an and any are at be been but by can could did do does for from get give go had has have he
    her here him his how i if in is it its just know like make may me might mmm my need no not of oh okay on or our
    please say she should so tell than that the their them there these they thing this to too um uh us very want was we
    well were what when where which who why will with would yes you your
"""
_SILENT_WORDS = frozenset(_SILENT.split())


class FolderAnswers:
    """AnswerPort over a content folder: direct answers of intents first, then the best section of the knowledge."""

    def __init__(self, content: Content) -> None:
        self._direct = {intent.name: intent.answer for intent in content.intents if intent.answer}
        self._intents = PhraseIntents(content.intents, content.fillers)
        self._questions = PhraseIntents(content.questions())
        self._sections = content.sections
        self._index = _build_index(content.sections)

    async def answer(self, request: Request) -> Answer:
        return self.find(request.text)

    def close(self) -> None:
        self._index.close()

    def find(self, text: str) -> Answer:
        """The answer to a text; well under a millisecond, and bounded for any text."""
        intent = self._intents.match(text)
        if intent.intent in self._direct:
            return Answer(self._direct[intent.intent])
        section = self._asked_like(text) or self._search(text)
        if section is None:
            return Answer(DONT_KNOW)
        return Answer(section.spoken, (f"{section.source}#{section.heading}",))

    def _asked_like(self, text: str) -> Section | None:
        """The section that has this question: "where are you" is all silent words, but it is a heading."""
        match = self._questions.match(text)
        return self._sections[int(match.intent)] if match.intent.isdecimal() else None

    def _search(self, text: str) -> Section | None:
        words = list(dict.fromkeys(w for w in _WORD.findall(text.lower()) if w not in _SILENT_WORDS))[:_MAX_WORDS]
        if not words:
            return None
        quoted = [f'"{word}"' for word in words]
        rows = self._index.execute(
            "SELECT rowid FROM sections WHERE sections MATCH ? ORDER BY bm25(sections, 4.0, 1.0) LIMIT ?",
            (" OR ".join(quoted), _CANDIDATES),
        )
        for rowid in [int(row[0]) for row in rows]:
            # One shared word in a long question is chance: more than half of what was asked must be there.
            if 2 * sum(self._has(rowid, word) for word in quoted) > len(quoted):
                return self._sections[rowid]
        return None

    def _has(self, rowid: int, quoted_word: str) -> bool:
        found = self._index.execute("SELECT 1 FROM sections WHERE sections MATCH ? AND rowid = ?", (quoted_word, rowid))
        return found.fetchone() is not None


def _build_index(sections: Iterable[Section]) -> sqlite3.Connection:
    """An index in memory; rowids are positions in `sections`."""
    # It may be built in one thread and asked in another, never in two at once.
    index = sqlite3.connect(":memory:", check_same_thread=False)
    index.execute("CREATE VIRTUAL TABLE sections USING fts5(asked, body, tokenize='porter unicode61')")
    index.executemany(
        "INSERT INTO sections (rowid, asked, body) VALUES (?, ?, ?)",
        (
            (number, " ".join((section.heading, *section.asked_as)), f"{section.spoken} {section.rest}")
            for number, section in enumerate(sections)
        ),
    )
    return index
