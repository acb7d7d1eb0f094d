"""Hostile text in everything that orch prints, draws or exports: it drives no terminal and forges no line."""

import io
import json
import logging
import re
from pathlib import Path
from unicodedata import category

import pytest

from cli.safe_output import SafeStream, safe_output
from events.codec import encode
from events.derived import StateChanged
from events.envelope import Event
from events.inputs import IntentResolved, ServiceFailed
from events.journal import ModelResponded, ToolCalled
from events.recording import Header, dump
from orchestrator.replay.mermaid import mermaid
from orchestrator.safe_log import SafeLog
from orchestrator.safe_text import escaped, one_line, printable
from orchestrator.testing.conversation import Conversation
from projections.golden_log import golden
from projections.perfetto import perfetto
from projections.spans import spans_of
from tests.cli.service import environment, orch

HOSTILE = {
    "colours and the title": "\x1b[31m\x1b]0;owned\x07",
    "C1": "\x9b31m\x9d0;owned\x9c\x85",
    "line ends": "a\nb\r\nc\rd\u2028e\u2029f\x0bg\x0ch",
    "bidi": "\u202eabc\u202d\u2066def\u2069\u200e\u200f\u061c",
    "invisible": "\u200b\u200c\u200d\u2060\ufeff\u00ad\u180e",
    "tags": "".join(chr(0xE0000 + ord(letter)) for letter in "ignore this"),
    "delete and backspace": "ab\x08\x08\x7f\x00",
    "markup": "; link Client: x @ javascript:alert(1)\n    link Client: y @ javascript:alert(2)\n%%{init: {}}%%",
    "shell": '"; rm -rf ~ #$(reboot)`',
}
NEVER = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def never_in(text: str, keep: str = "") -> list[str]:
    return [f"U+{ord(one):04X}" for one in text if one not in keep and category(one) in NEVER]


def a_log(hostile: str) -> list[Event]:
    """A conversation in which everybody says it: the user, the services, the model, its tools, and a producer who names
    the session.
    """
    session_id = f"s-{hostile}"[:150]
    call = Conversation.listening(session_id).after(1_000).says(f"hello {hostile}")
    said = json.dumps({hostile: hostile}, ensure_ascii=False)
    call.input(ModelResponded, call_id="m", model=hostile[:200], response=said)
    call.input(ToolCalled, arguments=said, call_id="t", name=hostile[:200])
    events = call.after(200).returns(said).log
    last = events[-1]
    about = {"session_id": session_id, "version": last.version, "at_us": last.at_us, "event_id": "x"}
    return [
        *events,
        StateChanged(from_phase="LISTENING", to_phase="THINKING", reason=hostile, **about),
        IntentResolved(command_id="c", intent=hostile, **about),
        ServiceFailed(command_id="c", error=hostile, **about),
    ]


@pytest.mark.parametrize("what", HOSTILE)
def test_one_line_is_one_line_of_visible_characters(what: str) -> None:
    """And so is a log record's part."""
    hostile = HOSTILE[what]
    for text in (one_line(hostile), printable(hostile)):
        assert never_in(text) == []
        assert len(text.splitlines()) <= 1
    assert never_in(escaped(hostile), keep="\n\t") == []


def test_what_scripts_and_emoji_need_stays() -> None:
    """Marks, wide spaces, emoji and the joiners inside of words and emoji are no attack."""
    for text in (
        "résumé",
        "नमस्ते",
        "สวัสดี",
        "👍🏽",
        "日本　語",
        "עברית",
        "café",
        "می\u200cخواهم",
        "👩\u200d💻",
        "क्\u200dष",
    ):
        assert printable(text) == text
        assert escaped(text) == text
    for text in ("pay\u200cpal", "\u200dx", "x\u200d", "\u202e\u200d\u202c", "é\u200d\u200dé"):
        assert never_in(printable(text)) == never_in(escaped(text)) == []


@pytest.mark.parametrize("what", HOSTILE)
def test_the_golden_log_and_the_diagrams_show_no_hostile_character(what: str) -> None:
    """Golden log, Mermaid and Perfetto; a diagram says what it would say, and no more."""
    events = a_log(HOSTILE[what])
    lines = [*golden(events), *mermaid(events)]
    assert [found for line in lines if (found := never_in(line))] == []
    for line in mermaid(events):
        assert re.fullmatch(r"sequenceDiagram|    (participant \w+|Note over Session: .*|\w+->>\w+: .*)", line), line
        assert not re.search(r"[;#%{}<@]", line.partition(": ")[2]), line
    strings: list[str] = []
    json.loads(perfetto(events, spans_of(events)), object_hook=lambda one: strings.extend(map(str, one.values())))
    assert never_in("".join(strings)) == []


COMMANDS = [
    ["show"],
    ["show", "--detailed", "--full"],
    ["show", "--timeline", "--full"],
    ["show", "--said"],
    ["show", "--json"],
    ["replay"],
    ["replay", "-k", "--check"],
    ["replay", "--json"],
    ["verify"],
    ["export", "--format", "mermaid"],
    ["diff", "SELF"],
    ["fork", "--at", "1", "--reason", "x"],
]


@pytest.mark.parametrize("what", HOSTILE)
def test_no_command_prints_a_hostile_character(what: str, tmp_path: Path) -> None:
    """Of a recording that a stranger wrote, sound or not; `--json` says the same as the recording."""
    file = tmp_path / "hostile.jsonl"
    events = a_log(HOSTILE[what])
    file.write_bytes(dump(Header(story=HOSTILE[what]), map(encode, events)))
    env = environment(tmp_path)
    for command, *options in COMMANDS:
        result = orch(command, str(file), *(str(file) if one == "SELF" else one for one in options), env=env)
        assert result.output, command
        assert never_in(result.output, keep="\n") == [], (command, options)
    told = [json.loads(line) for line in orch("show", "--json", str(file), env=env).output.splitlines()]
    assert [one["session_id"] for one in told] == [event.session_id for event in events]


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_or_an_option_of_a_hostile_name_is_told_safely(what: str, tmp_path: Path) -> None:
    """A name that a download brought along, quoted in a message."""
    name = HOSTILE[what].replace("/", "").replace("\0", "")
    for arguments in (
        ["show", f"{tmp_path}/{name}.jsonl"],
        ["verify", f"{tmp_path}/{name}.jsonl"],
        ["explain", f"ORCH{name}"],
        ["show", str(tmp_path / "x.jsonl"), "--timeline"],
    ):
        output = orch(*arguments, env=environment(tmp_path)).output
        assert output
        assert never_in(output, keep="\n") == [], arguments


def test_a_stream_that_is_made_safe_is_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    """After the command, whatever became of it; its traceback, too, is safe."""

    @safe_output
    def prints() -> None:
        print("\x1b[2J said\u202e")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - its own
        prints()
    print("\x1b")
    assert capsys.readouterr().out == "\\u001b[2J said\\u202e\n\x1b\n"
    stream = io.StringIO()
    SafeStream(stream).writelines(["a\n", "\x9b\n"])
    assert stream.getvalue() == "a\n\\u009b\n"


@pytest.mark.parametrize("what", HOSTILE)
def test_a_log_record_is_one_line(what: str, caplog: pytest.LogCaptureFixture) -> None:
    """A service's error, a producer's session id, an exception's text."""
    safe, record = SafeLog(), logging.LogRecord("x", logging.ERROR, "", 0, "%s said %r", (HOSTILE[what], "y"), None)
    safe.mask = False
    assert safe.filter(record)
    assert never_in(record.getMessage()) == []
    assert len(record.getMessage().splitlines()) == 1


def test_the_replay_of_a_hostile_log_is_equal(tmp_path: Path) -> None:
    """What is shown is another matter than what is compared."""
    for hostile in HOSTILE.values():
        call = Conversation.listening(f"s-{hostile}").after(1_000).says(f"hello {hostile}")
        file = tmp_path / "sound.jsonl"
        file.write_bytes(call.recording())
        assert orch("replay", str(file), env=environment(tmp_path)).exit_code == 0
