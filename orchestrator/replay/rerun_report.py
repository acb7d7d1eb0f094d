"""Compares recorded conversations with their reruns under today's agent, and reports the findings as text and JSON."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from typing import Any, Literal

from events.envelope import Event
from orchestrator.replay.asking import LATE_MS
from orchestrator.replay.decisions import changed, decisions
from orchestrator.replay.exchanges import Exchange, Tool, exchanges
from orchestrator.safe_text import one_line

SCHEMA = "orch.rerun/1"
"""Name and version of the JSON format. Fields are added, never renamed or given another meaning."""

Kind = Literal["words", "tools", "failed", "outcome", "late", "missing", "new", "decisions"]
Pair = tuple[Exchange | None, Exchange | None]
"""(exchange of the recording, matching exchange of the rerun). None: that run has no such exchange."""
Judge = Callable[[Exchange, Exchange], bool | str]
"""(recorded exchange, exchange of the rerun) → True: the agent's new words are as good as the recorded words; False, or
the reason as a text: they are not. Called only if the words differ.
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """A reported difference between a recording and its rerun: its kind, a message, and the exchange."""

    kind: Kind
    message: str
    session_id: str = ""
    turn: int = 0
    """Number of the turn in the rerun. If the rerun has no such turn: its number in the recording."""
    user: str = ""
    """The user's words in the exchange. For an announcement: the playback id."""


@dataclass(slots=True)
class Rerun:
    """A recording, and its rerun: the same conversation with the agent and policy of today.

    In a test:

        call = rerun("tests/recordings/opening_hours.jsonl", agent)
        call.check()
        assert call.says == ["Hi! How can I help?", "We are open from nine to six."]
    """

    source: str
    old: list[Event] = field(default_factory=list, repr=False)
    new: list[Event] = field(default_factory=list, repr=False)
    results: int = 0
    """Number of results of services and playback in the rerun."""
    simulated: int = 0
    """Number of `results` that are simulated, because the recording has no result of their command."""
    late_ms: int = LATE_MS
    judge: Judge | None = field(default=None, repr=False)
    error: str = ""
    """Why the recording cannot be read; empty: it can be read."""
    pairs: list[Pair] = field(init=False, repr=False)
    findings: list[Finding] = field(init=False)

    def __post_init__(self) -> None:
        self.pairs = [*paired(exchanges(self.old), exchanges(self.new))]
        self.findings = [finding for old, new in self.pairs for finding in self._compare(old, new)]
        self.findings += _other_decisions(self.old, self.new)

    # The conversation of today, for a test's assertions.

    @property
    def exchanges(self) -> list[Exchange]:
        """The exchanges of the rerun, in order."""
        return [new for _, new in self.pairs if new is not None]

    @property
    def says(self) -> list[str]:
        """The agent's words in the rerun, one text per answer."""
        return [one.agent for one in self.exchanges if one.agent]

    @property
    def tools(self) -> list[tuple[str, dict[str, Any]]]:
        """The tools that the agent calls in the rerun, in order: (name, arguments by their names)."""
        return [(tool.name, json.loads(tool.arguments)) for one in self.exchanges for tool in one.tools]

    @property
    def waits_ms(self) -> list[int]:
        """How long the user waits for each answer in the rerun, in milliseconds."""
        return [one.wait_ms for one in self.exchanges if one.wait_ms is not None]

    @property
    def transcript(self) -> str:
        """The rerun as text, for a golden file: the words of user and agent, the tool calls, and how far an answer was
        heard.
        """
        return "".join(f"{line}\n" for one in self.exchanges for line in _lines_of(one))

    def check(self) -> None:
        """Raise AssertionError, with the report as its message, if there are findings or an error."""
        if self.findings or self.error:
            raise AssertionError("\n".join(report_lines(self)))

    @property
    def exit_code(self) -> int:
        """0: no findings, 1: findings, 2: the recording cannot be read."""
        return 2 if self.error else 1 if self.findings else 0

    def as_json(self) -> dict[str, Any]:
        return {
            "decisions": {name: [*both] for name, both in changed(decisions(self.old), decisions(self.new)).items()},
            "error": self.error,
            "exchanges": [{"now": _exchange_json(new), "recorded": _exchange_json(old)} for old, new in self.pairs],
            "findings": [
                {"kind": f.kind, "message": f.message, "session_id": f.session_id, "turn": f.turn, "user": f.user}
                for f in self.findings
            ],
            "outcome": ("same", "differs", "unreadable")[self.exit_code],
            "results": self.results,
            "simulated": self.simulated,
            "source": self.source,
        }

    def _compare(self, old: Exchange | None, new: Exchange | None) -> Iterator[Finding]:
        if old is None or new is None:
            one = old or new
            assert one is not None, "a pair has at least one side"
            if one.agent or one.user:
                said = f", answered {one.agent!r}" if one.agent else ""
                message = f"only recorded{said}" if new is None else f"not in the recording{said}"
                yield _finding("missing" if new is None else "new", message, one)
            return
        if new.failure and new.failure != old.failure:
            yield _finding("failed", f"the agent fails: {new.failure}", new)
        elif not same_words(old, new):
            verdict = self.judge(old, new) if self.judge is not None else ""
            if verdict is not True:
                why = f" ({verdict})" if verdict else ""
                yield _finding("words", f"{word_by_word(old.agent, new.agent)}{why}", new)
        for message in _other_tools(old.tools, new.tools):
            yield _finding("tools", message, new)
        if old.outcome != new.outcome:
            cut = f" after {new.heard!r}" if new.outcome == "interrupted" else ""
            yield _finding("outcome", f"{old.outcome or 'not spoken'} → {new.outcome or 'not spoken'}{cut}", new)
        if new.wait_ms is not None and old.wait_ms is not None and new.wait_ms > old.wait_ms + self.late_ms:
            yield _finding("late", f"first sound after {old.wait_ms} → {new.wait_ms} ms", new)


def worst(found: Sequence[Rerun]) -> int:
    """Return the highest exit code of several reruns."""
    return max((one.exit_code for one in found), default=0)


def as_json(found: Sequence[Rerun]) -> dict[str, Any]:
    """Return the JSON report of `orch rerun`."""
    return {"exit_code": worst(found), "recordings": [one.as_json() for one in found], "schema": SCHEMA}


def word_by_word(old: str, new: str) -> str:
    """Merge two texts: words that only `old` has as [-words-], words that only `new` has as {+words+}."""
    before, after = old.split(), new.split()
    found = []
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            found.append(" ".join(before[a:b]))
            continue
        found += [f"[-{' '.join(before[a:b])}-]"] if b > a else []
        found += [f"{{+{' '.join(after[c:d])}+}}"] if d > c else []
    return " ".join(found)


def report_lines(found: Rerun) -> Iterator[str]:
    """Yield the report on one recording: a line for the recording, then a line for each finding."""
    if found.error:
        yield f"✗ {found.source}: {found.error}"
        return
    sign = "✗" if found.findings else "✓"
    findings = f"  {_many(len(found.findings), 'finding')}" if found.findings else ""
    yield f"{sign} {found.source}  {_many(len(found.exchanges), 'exchange')}{findings}"
    last = None
    for finding in found.findings:
        about = finding.session_id, finding.turn, finding.user
        if about != last and finding.kind != "decisions":
            yield f"  [{finding.session_id}] turn {finding.turn}" + (
                f": {one_line(finding.user)}" if finding.user else ""
            )
        last = about
        yield f"    {finding.kind:9} {one_line(finding.message)}"


def table_lines(found: Sequence[Rerun]) -> Iterator[str]:
    """Yield a table over several recordings. A recording with findings has a line with the number of findings of each
    kind. An unreadable recording has a line with the error. The last line has the totals.
    """
    width = max((len(one.source) for one in found), default=0)
    for one in found:
        if one.exit_code:
            kinds: dict[str, int] = {}
            for finding in one.findings:
                kinds[finding.kind] = kinds.get(finding.kind, 0) + 1
            yield f"{one.source:{width}}  " + (one.error or "  ".join(f"{kind} {n}" for kind, n in kinds.items()))
    differ = sum(one.exit_code == 1 for one in found)
    unreadable = sum(one.exit_code == 2 for one in found)
    yield f"{differ} of {len(found)} conversations differ" + (f", {unreadable} unreadable" if unreadable else "")


def _many(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _finding(kind: Kind, message: str, one: Exchange) -> Finding:
    return Finding(kind, message, one.session_id, one.turn, one.user or one.playback_id)


def paired(old: list[Exchange], new: list[Exchange]) -> Iterator[Pair]:
    """Pair the exchanges of two runs that have the same key (the user's words), in order. An exchange without a partner
    is paired with None.
    """
    matcher = SequenceMatcher(None, [one.key for one in old], [one.key for one in new], autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            yield from zip(old[a:b], new[c:d], strict=True)
        else:
            yield from ((one, None) for one in old[a:b])
            yield from ((None, one) for one in new[c:d])


def same_words(old: Exchange, new: Exchange) -> bool:
    """Whether the agent says the same words in two exchanges. If one of the answers was interrupted, it suffices that
    the longer answer begins with the shorter answer.
    """
    before, after = " ".join(old.agent.split()), " ".join(new.agent.split())
    if before == after:
        return True
    is_cut = "interrupted" in (old.outcome, new.outcome)
    return is_cut and bool(before and after) and (before.startswith(after) or after.startswith(before))


def _other_tools(old: list[Tool], new: list[Tool]) -> Iterator[str]:
    """Yield a message for each tool call that only one of the two runs makes, and for each call with another result."""
    matcher = SequenceMatcher(None, [one.call for one in old], [one.call for one in new], autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            yield from (f"only recorded: {tool.call} → {tool.returned}" for tool in old[a:b])
            yield from (f"not in the recording: {tool.call} → {tool.returned}" for tool in new[c:d])
            continue
        for before, after in zip(old[a:b], new[c:d], strict=True):
            if before.returned != after.returned:
                yield f"{after.call}: {before.returned} → {after.returned}"


def _other_decisions(old: list[Event], new: list[Event]) -> Iterator[Finding]:
    """Yield a finding for each kind of decision that the rerun makes more or less often than the recording. Leaves out
    decisions that the comparison of exchanges shows already.
    """
    for name, (before, after) in changed(decisions(old), decisions(new)).items():
        if not name.startswith(("answer ", "turn ", "interrupted by ")):
            yield Finding("decisions", f"{name}: {before} → {after}")


def _lines_of(one: Exchange) -> Iterator[str]:
    if one.user:
        yield f"user: {one.user}"
    yield from (f"  {tool.call} → {tool.returned}" for tool in one.tools)
    if one.failure:
        yield f"  (the agent fails: {one.failure})"
    if one.agent:
        yield f"agent: {one.agent}"
    if one.outcome not in ("", "finished"):
        yield f"  ({one.outcome} after: {one.heard})"


def _exchange_json(one: Exchange | None) -> dict[str, Any] | None:
    if one is None:
        return None
    names = ("agent", "failure", "heard", "outcome", "playback_id", "session_id", "turn", "turn_outcome", "user")
    tools = [asdict(tool) for tool in one.tools]
    return {name: getattr(one, name) for name in (*names, "wait_ms")} | {"tools": tools}


__all__ = [
    "Exchange",
    "Finding",
    "Judge",
    "Rerun",
    "as_json",
    "paired",
    "report_lines",
    "same_words",
    "table_lines",
    "word_by_word",
    "worst",
]
