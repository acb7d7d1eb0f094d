"""`orch diff`: two recordings beside each other; exit code 1 where they decide or say otherwise."""

import re
from collections.abc import Iterator, Sequence

from cli.exits import DIFFERS, OK
from cli.side_by_side import WAIT, row, said, side_by_side
from cli.sources import whole
from events.derived import CommandIssued
from events.envelope import Event
from orchestrator.replay import comparison
from orchestrator.replay.comparison import Comparison
from orchestrator.replay.exchanges import Exchange, exchanges
from orchestrator.replay.replay import events_of
from orchestrator.replay.rerun_report import paired, same_words, word_by_word
from orchestrator.safe_text import one_line

TIME = re.compile(r"(?<=^Processing complete in )\d+(?=ms$)|(?<=^TTS stream \| chunks=)\d+$")
"""The time in a golden line, or the length of its speech: two calls that differ in these alone decide the same."""


def run(one: str, other: str) -> int:
    both = Comparison(one, events_of(whole(one)), events_of(whole(other)))
    old, new = both.golden
    for line in side_by_side(old, new, one, other):
        print(line)
    rows = comparison.changes([both])
    print()
    for name, (before, after) in rows.items():
        print(row(name, str(before), str(after)))
    print(row(WAIT, *comparison.waits([both])))
    other_words = [*_other_words(both.old, both.new)]
    for line in other_words:
        print(line)
    is_other = [*map(_decided, old)] != [*map(_decided, new)]
    return DIFFERS if is_other or rows or other_words else OK


def _decided(line: str) -> str:
    return TIME.sub("…", said(line))


def _other_words(old: Sequence[Event], new: Sequence[Event]) -> Iterator[str]:
    """Two lines for each exchange in which the agent says other words or calls other tools, and for other fillers."""
    if (before := _fillers(old)) != (after := _fillers(new)):
        yield "fillers"
        yield f"    {one_line(word_by_word(before, after))}"
    for one, other in paired(exchanges(old), exchanges(new)):
        if one is None or other is None:
            continue  # the user's words differ, which the golden log shows
        if not same_words(one, other) or [*_calls(one)] != [*_calls(other)]:
            yield f"[{one_line(other.session_id)}] turn {other.turn}: {one_line(other.user or other.playback_id)}"
            yield f"    {one_line(word_by_word(*(' '.join((*_calls(each), each.agent)) for each in (one, other))))}"


def _fillers(log: Sequence[Event]) -> str:
    said = (event for event in log if isinstance(event, CommandIssued) and event.name == "PlayFiller")
    return " ".join(str(event.payload["text"]) for event in said)


def _calls(one: Exchange) -> Iterator[str]:
    return (f"{tool.call} → {tool.returned}" for tool in one.tools)
