"""The rules by which a replay tells what differs. Their numbers are stable: reports, docs and scripts name them."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of difference: what it means, what usually causes it, and what to do about it."""

    id: str
    name: str
    meaning: str
    causes: tuple[str, ...]
    todo: str


_SEE = "See the state with `orch replay FILE --until VERSION --dump-state`, and ask `orch why FILE VERSION`."
_RULES: Final = (
    Rule(
        "ORCH1001",
        "command mismatch",
        "The same command is issued with other contents: the recording has one payload, today's reducer another.",
        ("a text, a voice or a deadline was changed", "the contents depend on something that the log does not hold"),
        _SEE,
    ),
    Rule(
        "ORCH1002",
        "missing command",
        "The recording issued a command that today's reducer does not issue.",
        ("a decision was removed, or a condition before it became stricter", "a name or a target was changed"),
        _SEE,
    ),
    Rule(
        "ORCH1003",
        "extra command",
        "Today's reducer issues a command that the recording does not have.",
        ("a decision was added, or a condition before it became weaker", "the same thing is asked for twice"),
        _SEE,
    ),
    Rule(
        "ORCH1004",
        "state hash mismatch",
        "Everything said is the same, but the state behind it is not: later decisions may differ.",
        ("a field of the state was added, removed or is folded otherwise", "the file was edited"),
        "Compare `orch replay FILE --until VERSION --dump-state` under both versions of the reducer.",
    ),
    Rule(
        "ORCH1005",
        "transition mismatch",
        "The phase changes otherwise: to another phase, for another reason, or only on one side.",
        ("the table or an `enter` was changed", "an interruption is decided otherwise"),
        _SEE,
    ),
    Rule(
        "ORCH1006",
        "unreadable event",
        "A line is not an event that this program knows: damaged, of an unknown type, or of a newer schema.",
        ("the file was edited or cut", "a newer orch wrote it", "an upcaster is missing"),
        "Mend or export the file again; `orch verify FILE` names each line.",
    ),
    Rule(
        "ORCH1007",
        "broken sequence",
        "Versions have a gap or a repetition, an input is there twice, or time goes backwards.",
        ("lines were deleted, repeated or reordered", "two owners wrote one log"),
        "`orch verify FILE` lists every place.",
    ),
    Rule(
        "ORCH1008",
        "timer mismatch",
        "A timer that counted is now stale, or the reverse; in --check: a timer fired before it was due.",
        ("a timer is armed, withdrawn or named otherwise", "the clock of an owner jumped"),
        _SEE,
    ),
    Rule(
        "ORCH1009",
        "reducer raised",
        "Today's reducer fails on an input. It must never: whatever comes is recorded, at worst as rejected.",
        ("an assertion about a state that can be after all", "a typing error in a new decision"),
        "The report names the line of code; the recording is the test for its repair.",
    ),
    Rule(
        "ORCH1010",
        "event mismatch",
        "The same event is said with other contents, or counted under another turn or epoch.",
        ("a measure, a text or an outcome is computed otherwise",),
        _SEE,
    ),
    Rule(
        "ORCH1011",
        "missing event",
        "The recording says something that today's reducer does not say.",
        ("a decision was removed, or a condition before it became stricter",),
        _SEE,
    ),
    Rule(
        "ORCH1012",
        "extra event",
        "Today's reducer says something that the recording does not have.",
        ("a decision was added", "the recording ends in the middle of a step (--incomplete ok)"),
        _SEE,
    ),
    Rule(
        "ORCH1013",
        "order swapped",
        "The same things are said in another order. The golden log reads otherwise, and effects start otherwise.",
        ("two statements of a decision changed places", "a set was iterated"),
        _SEE,
    ),
)
RULES: Final = {rule.id: rule for rule in _RULES}
