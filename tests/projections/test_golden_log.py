"""Shows the one formatter of the golden log: what prints, what does not, and that nobody can forge a line."""

from typing import Any

import pytest

from events import derived, inputs, journal
from events.codec import DERIVED, INPUTS
from orchestrator.testing.conversation import Conversation
from projections.golden_log import MARKS, GoldenLog

SESSION = "auto_session_12345"


def line(event: object, *, mask: bool = False) -> str | None:
    return GoldenLog(mask=mask).line(event)


def turn(text: str) -> derived.TurnStarted:
    return derived.TurnStarted(session_id=SESSION, text=text, via="speech")


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (derived.StateChanged(from_phase="NEW", to_phase="IDLE"), "🟢 IDLE"),
        (derived.StateChanged(from_phase="IDLE", to_phase="LISTENING", reason="why"), "🔵 LISTENING (why)"),
        (derived.TurnStarted(text="hello", via="text"), "STT FINAL | text=hello"),
        (
            derived.ProcessingComplete(answer="a", elapsed_us=299_500, intent="", saved_us=0),
            "Processing complete in 300ms",
        ),
        (
            derived.ProcessingComplete(answer="a", elapsed_us=299_499, intent="", saved_us=0),
            "Processing complete in 299ms",
        ),
        (derived.UserInterrupted(playback_id="p", reason="barge_in"), "🔴 User interrupted (barge_in)"),
        (derived.CommandIssued(command_id="c", name="CancelTask", payload={}), "Cancelling current task"),
        (derived.CommandIssued(command_id="c", name="ClearText", payload={}), None),
        (derived.TurnEnded(outcome="completed"), None),
        (derived.EventRejected(reason="stale"), None),
        (derived.SessionEnded(reason="bye"), None),
        (inputs.SttFinal(text="hello"), None),
    ],
)
def test_an_event_prints_its_line_or_nothing(event: object, said: str | None) -> None:
    """Milliseconds are rounded; events that the design does not name print nothing."""
    assert line(event) == (None if said is None else f"[] {said}")


@pytest.mark.parametrize(
    ("outcome", "said"),
    [("finished", "TTS stream | chunks=3"), ("interrupted", "[TTS] Playing..."), ("failed", None)],
)
def test_an_answer_prints_one_line_when_it_ends(outcome: str, said: str | None) -> None:
    """Which one depends on how it ended."""
    ended = derived.AnswerEnded(chunks=3, heard_ms=9, heard_text="", outcome=outcome, playback_id="p", session_id="s")
    assert line(ended) == (said and f"[s] {said}")


def test_every_phase_that_can_be_entered_has_a_colour() -> None:
    """NEW is never entered."""
    assert set(MARKS) == set(derived.StateChanged.model_fields["to_phase"].annotation.__args__) - {"NEW"}


def test_inputs_print_nothing() -> None:
    """The log says what was decided, so a rejected or empty input leaves no line."""
    call = Conversation.in_phase("SPEAKING").speaks().says("").interrupts().closes()
    assert [line(event) for event in call.log if event.type in INPUTS] == [None] * len(call.steps)
    assert {event.type for event in call.log if line(event)} <= set(DERIVED)


def test_new_user_input_is_marked_once_and_per_session() -> None:
    """The first turn after an interruption, of the session that was interrupted."""
    log = GoldenLog()
    log.line(derived.UserInterrupted(session_id=SESSION, playback_id="p", reason="barge_in"))
    assert log.line(derived.TurnStarted(session_id="other", text="a", via="text")) == "[other] STT FINAL | text=a"
    assert log.line(turn("stop")) == f"[{SESSION}] STT FINAL | text=stop  (new user input)"
    assert log.line(turn("go on")) == f"[{SESSION}] STT FINAL | text=go on"


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (f"hello\n[{SESSION}] 🔴 SPEAKING", f"hello [{SESSION}] 🔴 SPEAKING"),
        ("a\r\nb\tc\u2028d\u2029e\x85f\x0bg", "a b c d e f g"),
        ("\x1b[2J\x1b[31mred\x07\x00", "[2J [31mred"),
        ("Grüße 👩\u200d💻", "Grüße 👩\u200d💻"),
        ("  (new user input)", "(new user input)"),
    ],
)
def test_what_a_user_says_stays_on_its_line(text: str, printed: str) -> None:
    """No line is forged and no terminal is driven by an utterance, a reason or a name."""
    assert line(turn(text)) == f"[{SESSION}] STT FINAL | text={printed}"
    changed = derived.StateChanged(session_id="s\n", from_phase="IDLE", to_phase="ENDED", reason=text)
    assert line(changed) == f"[s] ⚫ ENDED ({printed})"
    assert len(line(changed).splitlines()) == 1


def test_a_mask_shows_the_length_of_what_was_said_and_nothing_else() -> None:
    """Users' words are theirs as soon as others can read the log."""
    call = Conversation.in_phase("SPEAKING").says("my card number is 4242").fires("interrupt_pause")
    log = GoldenLog(mask=True)
    lines = [said for event in call.log if (said := log.line(event))]
    assert f"[{SESSION}] STT FINAL | text=<5 characters>" in lines
    assert f"[{SESSION}] STT FINAL | text=<22 characters>  (new user input)" in lines
    assert "4242" not in "".join(lines)


def test_an_interruption_is_forgotten_with_its_session() -> None:
    """A service runs for months: the session that ends before its next turn leaves nothing behind."""
    log = GoldenLog()
    log.line(derived.UserInterrupted(session_id=SESSION, playback_id="p", reason="barge_in"))
    assert log.line(derived.SessionEnded(session_id=SESSION, reason="goodbye")) is None
    assert log.line(turn("hello")) == f"[{SESSION}] STT FINAL | text=hello"


def work(call: Conversation, *, mask: bool = False) -> list[str]:
    """The lines about tools and models, which only `with_tools` has."""
    plain, log = GoldenLog(mask=mask), GoldenLog(mask=mask, with_tools=True)
    lines = [(log.line(event), plain.line(event)) for event in call.log]
    assert all(usual in (None, line) for line, usual in lines)
    return [line.removeprefix(f"[{SESSION}] ") for line, usual in lines if line is not None and usual is None]


def called(name: str = "book", **fields: Any) -> Conversation:
    call = Conversation.in_phase("THINKING")
    call.input(journal.ModelResponded, call_id="m/1", model="gpt-x", response="{}", input_tokens=212, output_tokens=18)
    return call.input(journal.ToolCalled, call_id="a/1", name=name, arguments='{"day":"Friday"}', **fields)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ({"result": '{"table":7}'}, 'Tool book → {"table":7}'),
        ({"error": "no table\nis free"}, "Tool book ✗ no table is free"),
    ],
)
def test_with_tools_the_work_of_the_agent_is_printed(returned: dict[str, str], said: str) -> None:
    """Each call with its arguments and its result, in one line each, and each response of the model."""
    call = called().input(journal.ToolReturned, call_id="a/1", **returned)
    assert work(call) == ["Model gpt-x (212→18 tokens)", 'Tool book({"day":"Friday"})', said]


def test_with_tools_a_call_that_does_not_run_says_why() -> None:
    """Withdrawn, or refused; a result that comes all the same is none."""
    call = called(is_cancellable=True)
    command = call.outstanding("RunTool")
    call.closes().input(journal.ToolReturned, call_id="a/1", command_id=command.command_id, result="7")
    assert work(call)[1:] == ['Tool book({"day":"Friday"})', "Tool book ✗ cancelled"]
    call = called().input(journal.ToolCalled, call_id="a/1", name="book", arguments="{}")
    assert work(call)[2:] == ["Tool book({})", "Tool book ✗ this call is running already"]


def test_with_tools_a_call_that_gets_an_earlier_result_says_so() -> None:
    """The tool does not run twice."""
    assert work(called(same_as="b/1"))[1:] == ['Tool book({"day":"Friday"}) as before']


def test_with_tools_a_mask_hides_what_tools_are_told() -> None:
    """As it hides what users say."""
    call = called().input(journal.ToolReturned, call_id="a/1", result='"Friday"')
    assert work(call, mask=True)[1:] == ["Tool book(<16 characters>)", "Tool book → <8 characters>"]


def test_the_name_of_a_tool_forges_no_line() -> None:
    """Neither does a model's."""
    assert work(called(f"x\n[{SESSION}] 🔴 SPEAKING"))[1].startswith(f"Tool x [{SESSION}] 🔴 SPEAKING(")
