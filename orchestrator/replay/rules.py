"""Rules ORCH1001…: the kinds of difference between a recording and its replay. A rule never gets another number."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of difference between a recording and its replay: its meaning, its usual causes, and what to do."""

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
        "The recording and today's reducer issue the same command with different payloads.",
        ("a text, a voice or a deadline was changed", "the payload depends on something that is not in the log"),
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
        ("a decision was added, or a condition before it became weaker", "a command is issued twice"),
        _SEE,
    ),
    Rule(
        "ORCH1004",
        "state hash mismatch",
        "All events are equal, but the state after them is not: later decisions may differ.",
        ("a state field was added, removed or is folded differently", "the file was edited"),
        "Compare `orch replay FILE --until VERSION --dump-state` under both versions of the reducer.",
    ),
    Rule(
        "ORCH1005",
        "transition mismatch",
        "The phase changes differ: another phase, another reason, or a change on one side only.",
        ("the table or an `enter` was changed", "an interruption is decided differently"),
        _SEE,
    ),
    Rule(
        "ORCH1006",
        "unreadable event",
        "A line is not an event that this program knows: damaged, of an unknown type, or of a newer schema.",
        ("the file was edited or cut", "a newer orch wrote it", "an upcaster is missing"),
        "Repair the file or export it again; `orch verify FILE` names each line.",
    ),
    Rule(
        "ORCH1007",
        "broken sequence",
        "Versions have a gap or repeat, an input occurs twice, or time goes backwards.",
        ("lines were deleted, repeated or reordered", "two owners wrote one log"),
        "`orch verify FILE` lists every place.",
    ),
    Rule(
        "ORCH1008",
        "timer mismatch",
        "A timer that took effect is now stale, or the reverse; with --check: a timer fired before it was due.",
        ("a timer is armed, withdrawn or named differently", "the clock of an owner jumped"),
        _SEE,
    ),
    Rule(
        "ORCH1009",
        "reducer raised",
        "Today's reducer raises on an input. It never should: it records every input, at worst as rejected.",
        ("an assertion about a state that does occur", "a typing error in a new decision"),
        "The report names the line of code; the recording is the test for its repair.",
    ),
    Rule(
        "ORCH1010",
        "event mismatch",
        "The same event has different contents, or another turn or epoch.",
        ("a duration, a text or an outcome is computed differently",),
        _SEE,
    ),
    Rule(
        "ORCH1011",
        "missing event",
        "The recording has an event that today's reducer does not produce.",
        ("a decision was removed, or a condition before it became stricter",),
        _SEE,
    ),
    Rule(
        "ORCH1012",
        "extra event",
        "Today's reducer produces an event that the recording does not have.",
        ("a decision was added", "the recording ends in the middle of a step (--incomplete ok)"),
        _SEE,
    ),
    Rule(
        "ORCH1013",
        "order swapped",
        "The same events come in another order. The golden log changes, and effects start in another order.",
        ("two statements of a decision were swapped", "a set was iterated"),
        _SEE,
    ),
)
RULES: Final = {rule.id: rule for rule in _RULES}
