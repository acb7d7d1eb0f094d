"""The reference answer service: a full-text search over a folder of Markdown, and a few direct answers."""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable

from orchestrator.reference.content import Content, IntentExamples, Section
from orchestrator.reference.intent import PhraseIntents, is_negated
from orchestrator.services.ports import Answer, Intent, Request

DONT_KNOW = (
    "I am sorry, I cannot help you with that. I know when we are open, where we are and what we serve, and I can take "
    "care of a booking."
)

_WORD = re.compile(r"\w+")
_MAX_WORDS = 32
_CANDIDATES = 4
# Stop words: they occur in most questions. If they were searched for, a stop word alone would match any section.
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
        self.intents = PhraseIntents(content.intents, content.fillers)
        """The intent service of the same content: it remembers the intents of the last texts."""
        self._questions = PhraseIntents(content.questions(), content.fillers)
        self._sections = content.sections
        self._index = _build_index(content.sections)
        self._sections_of = {intent.name: self._sections_for(intent) for intent in content.intents}
        self._heeds_not = frozenset(intent.name for intent in content.intents if intent.heeds_not)
        self._opposite = frozenset(int(at) for name in self._heeds_not for at in self._sections_of[name])
        """Sections that must not be found for a negated text, unless its intent is theirs: they do the opposite."""
        self._words_of = {one.name: frozenset(_WORD.findall(" ".join(one.examples))) for one in content.intents}

    async def answer(self, request: Request) -> Answer:
        return self.find(request.text)

    def close(self) -> None:
        self._index.close()

    def find(self, text: str) -> Answer:
        """The answer to a text. Takes well under a millisecond; the time is bounded for any text."""
        intent = self.intents.match(text)
        if intent.intent in self._direct:
            return Answer(self._direct[intent.intent])
        spoken = self.intents.normalize(text)
        withheld = self._opposite if is_negated(spoken) else frozenset[int]()
        section = self._asked_like(spoken, intent, withheld)
        if not (withheld and intent.intent in self._heeds_not):  # "I can't come" is no search for "come"
            section = section or self._search(spoken, withheld)
        section = section or self._usual(spoken, intent)
        if section is None:
            return Answer(DONT_KNOW)
        return Answer(section.spoken, (f"{section.source}#{section.heading}",))

    def _asked_like(self, spoken: str, intent: Intent, withheld: frozenset[int]) -> Section | None:
        """The section with this question as heading or example. Finds "where are you", which is all stop words."""
        match = self._questions.match(spoken)
        if not match.intent.isdecimal() or (at := int(match.intent)) in withheld:
            return None
        words = _telling_words(spoken)
        is_surer = match.confidence_permille >= intent.confidence_permille
        if not (is_surer or match.intent in self._sections_of.get(intent.intent, ())):
            return None
        # "Do you have" alone makes no question about cake one about parking.
        is_about_it = not words or any(self._has(at, word) for word in words)
        return self._sections[at] if is_about_it else None

    def _usual(self, spoken: str, intent: Intent) -> Section | None:
        """The section that answers most examples of the intent, if the text has a word of them."""
        sections, words = self._sections_of.get(intent.intent), _telling_words(spoken)
        known = self._words_of.get(intent.intent, frozenset())
        if not sections or (words and not known & {word.strip('"') for word in words}):
            return None
        return self._sections[int(sections.most_common(1)[0][0])]

    def _sections_for(self, intent: IntentExamples) -> Counter[str]:
        """Which sections answer an intent's examples, and how many of them. An intent that heeds "not" has one."""
        matches = (self._questions.match(example).intent for example in intent.examples)
        counted = Counter(at for at in matches if at.isdecimal())
        return Counter(dict(counted.most_common(1))) if intent.heeds_not else counted

    def _search(self, spoken: str, withheld: frozenset[int]) -> Section | None:
        """The section that has most words of the text."""
        quoted = _telling_words(spoken)
        if not quoted:
            return None
        rows = self._index.execute(
            "SELECT rowid FROM sections WHERE sections MATCH ? ORDER BY bm25(sections, 4.0, 1.0) LIMIT ?",
            (" OR ".join(quoted), _CANDIDATES),
        )
        for rowid in [int(row[0]) for row in rows]:
            # One shared word in a long question is chance: more than half of its words must match.
            if rowid not in withheld and 2 * sum(self._has(rowid, word) for word in quoted) > len(quoted):
                return self._sections[rowid]
        return None

    def _has(self, rowid: int, quoted_word: str) -> bool:
        found = self._index.execute("SELECT 1 FROM sections WHERE sections MATCH ? AND rowid = ?", (quoted_word, rowid))
        return found.fetchone() is not None


def _telling_words(spoken: str) -> list[str]:
    """The words of a normalized text that are no stop words, each once, quoted for the search."""
    words = dict.fromkeys(word for word in _WORD.findall(spoken) if word not in _SILENT_WORDS)
    return [f'"{word}"' for word in [*words][:_MAX_WORDS]]


def _build_index(sections: Iterable[Section]) -> sqlite3.Connection:
    """Build a full-text index in memory; rowids are positions in `sections`."""
    # The index may be built in one thread and queried in another, but never used by two threads at once.
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
