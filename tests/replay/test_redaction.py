"""Redaction of what an agent tells its tools and its model: JSON stays JSON, and no word of it can be read."""

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic_core import to_json

from events.codec import encode
from events.inputs import (
    IntentResolved,
    PlaybackStarted,
    ProviderSwitched,
    SessionOpened,
    SpeechStarted,
    SttFinal,
    SttPartial,
    TtsChunkReady,
    TtsComplete,
)
from events.journal import ModelResponded, ToolCalled, ToolReturned
from events.recording import Header, dump, parse
from orchestrator.replay.redact import _OF_JSON, Hiding, Redaction, redacted
from orchestrator.replay.replay import replay
from orchestrator.session.phrases import count_words, may_become
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation
from projections.exports import exported

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@pytest.mark.parametrize("how", ["default", "hash"])
@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
@example({"\U00010000\U00020000\x85": None})
def test_redacted_json_is_json(how: Redaction, value: Any) -> None:
    """No longer than before, with the same shape; nothing is left of strings, names of fields and numbers."""
    text = to_json(value).decode()
    hidden = Hiding(how)(ToolReturned(command_id="c", call_id="a/book/1", result=text))
    assert len(hidden.result) <= len(text)
    assert shape(json.loads(hidden.result)) == shape(value)
    if how == "default":
        assert set(re.findall(r"\w", re.sub(r"true|false|null|\\.", "", hidden.result))) <= set("xX0_ｘＸ０〆៰")


def shape(value: Any) -> Any:
    """Without what is redacted. Fields whose redacted names are equal become one, so their number is no part of it."""
    if isinstance(value, dict):
        return {}
    if isinstance(value, list):
        return [shape(one) for one in value]
    return value if value is None or isinstance(value, bool) else ""


def test_why_a_provider_was_given_up_is_redacted() -> None:
    """Its error may repeat the user's words."""
    reason = "a: status 400 (cannot answer 'my knee hurts')"
    event = ProviderSwitched(session_id="s", service="answer", provider="b", reason=reason)
    assert b"knee" not in encode(Hiding("default")(event))


def test_the_language_of_the_answers_is_kept() -> None:
    """It is nobody's words, and decides where a sentence of a new run ends."""
    log = Conversation.listening(policy=Policy.model_validate({"answering": {"language": "de"}})).log
    opened = next(event for event in redacted(log, "default") if isinstance(event, SessionOpened))
    assert opened.policy["answering"]["language"] == "de"


@pytest.mark.parametrize("end", ["", "\\", '"'])
def test_a_string_without_an_end_is_one_token(end: str) -> None:
    """In recordings from elsewhere: looked for from each of its quotes again, one of 32,000 characters took 3.5 s."""
    text = '"' + 15_000 * '\\"' + end
    assert _OF_JSON.findall(text) == [text]


@pytest.mark.parametrize("field", ["arguments", "error", "response", "result"])
@pytest.mark.parametrize(
    "said", ['{"my knee":["hurts",471100]}', "my knee hurts 471100", '"my knee \\u006bnee hurts', '{"my knee hurts": "']
)
def test_what_is_said_to_tools_and_models_is_redacted(field: str, said: str) -> None:
    """Also where it is no JSON, as in a recording from elsewhere."""
    kind = {"arguments": ToolCalled, "response": ModelResponded}.get(field, ToolReturned)
    fields = {"command_id": "c", "call_id": "a/book/1", "name": "book", "arguments": "{}", "response": ""} | {
        field: said
    }
    event = kind.unchecked(kind.blank | {name: one for name, one in fields.items() if name in kind.model_fields})
    for how in ("default", "hash"):
        hidden = encode(Hiding(how)(event))
        assert [word for word in (b"my", b"knee", b"hurts", b"471100", b"006b") if word in hidden] == []


@pytest.mark.parametrize("how", ["default", "hash"])
@pytest.mark.parametrize(
    "text",
    ["मेरे घुटने में दर्द है", "เข่าของฉันเจ็บ", "我膝盖疼", "ひざがいたい", "무릎이 아파요", "e\u0301te\u0301"],
)
def test_no_letter_and_no_mark_of_any_script_is_left(how: Redaction, text: str) -> None:
    """Vowel signs and tone marks are half of a word. The number of words and of characters stays."""
    kept = {*' {}":'}
    for event in (SttFinal(text=text, via="speech"), ToolReturned(command_id="c", call_id="a/b/1", result=text)):
        hidden = Hiding(how)(event)
        new = hidden.text if isinstance(hidden, SttFinal) else hidden.result
        assert set(new) & set(text) <= kept, (text, new)
        assert (len(new), count_words(new)) == (len(text), count_words(text))


@pytest.mark.parametrize("how", ["default", "hash"])
def test_the_words_of_a_user_that_an_intent_repeats_are_redacted(how: Redaction) -> None:
    """A name stays, and so does the intent of a goodbye, however it is written: the session ends in the replay."""
    policy = Policy.model_validate({"goodbye": {"intent": "says good bye"}})
    call = Conversation.listening(policy=policy).after(1_000).says("hello").answers("Hi.", intent="my knee hurts")
    call.speaks().after(2_000).played().says("hello").answers("Hi.", intent="opening_hours").speaks().after(2_000)
    call.played().says("bye").answers("Bye.", intent="says good bye").speaks().after(2_000).played()
    hidden = [*redacted(call.log, how)]
    assert_replays(hidden)
    first, *others = (event.intent for event in hidden if isinstance(event, IntentResolved))
    assert not {"my", "knee", "hurts"} & set(first.split())
    assert others == ["opening_hours", "says good bye"]
    assert b"knee" not in b"".join(map(encode, hidden))


def test_the_story_is_left_out() -> None:
    """Whoever imported the recording may have told in it what the user said."""
    recording = parse(Conversation.listening().recording("Says that my knee hurts."), "call")
    for how in ("default", "hash"):
        assert b"knee" not in exported(recording, redact=how)
    assert b"knee" in exported(recording)


def assert_replays(log: list[Any]) -> None:
    assert replay(parse(dump(Header(), map(encode, log)), "hidden")).divergence is None


@pytest.mark.parametrize("how", ["default", "hash"])
@pytest.mark.parametrize(
    "answer",
    [
        "我们每天早上九点到晚上六点开门，节假日除外。",
        "私たちは毎日午前九時から午後六時まで営業しています。コンピューターも売っています。",
        "เราเปิดทุกวันตั้งแต่เก้าโมงเช้าถึงหกโมงเย็น",
        "យើងបើករាល់ថ្ងៃ ពីម៉ោងប្រាំបួន",
        "매일 아침 아홉 시부터 저녁 여섯 시까지 엽니다.",
        "我用AI写了2个程序。",
    ],
)
def test_an_interrupted_answer_in_any_script_replays(how: Redaction, answer: str) -> None:
    """Wherever it is interrupted, also before its length is known: words keep their ends, characters their width."""
    for heard_ms in range(100, 3_000, 300):
        for chunks in (3, 10):
            call = Conversation.listening().after(1_000).says("hello").after(300).answers(answer)
            for index in range(chunks):
                call.input(TtsChunkReady, index=index, duration_ms=300)
                if index == 0:
                    call.input(PlaybackStarted)
            if chunks == 10:
                call.input(TtsComplete, chunks=chunks, duration_ms=3_000)
            call.after(heard_ms).interrupts()
            assert_replays([*redacted(call.log, how)])


@pytest.mark.parametrize("how", ["default", "hash"])
@pytest.mark.parametrize(
    ("backchannels", "said"),
    [
        ("fr", "d'accord"),
        ("fr", "D’accord, oui."),
        ("en", "alri"),
        ("en", "go o"),
        ("en", "mm-hmm"),
        ("en", "please—yes"),
        (["嗯", "好的"], "嗯嗯好的"),
        (["嗯", "好的"], "好"),
    ],
)
def test_a_backchannel_and_its_beginning_are_heard_as_before(how: Redaction, backchannels: Any, said: str) -> None:
    """As a partial, which does not interrupt, and as a final."""
    rules = {"interruption": {"backchannels": backchannels, "min_speech_ms": 200, "min_words": 1}}
    policy = Policy.model_validate(rules | {"endpointing": {"phrases": ["d'accord", "yes"]}})
    call = Conversation.listening(policy=policy).after(1_000).says("hello").answers("A long answer.").speaks()
    call.after(100).input(SpeechStarted).after(300).input(SttPartial, text=said).after(100).says(said)
    assert_replays([*redacted(call.log, how)])


@pytest.mark.parametrize("how", ["default", "hash"])
def test_no_replacement_is_the_beginning_of_a_backchannel(how: Redaction) -> None:
    """Such as `a`, the hash of some letter: a partial would then not interrupt."""
    policy = Policy.model_validate({"interruption": {"backchannels": [*"abcdef", "xx"], "min_words": 1}})
    hide = Hiding(how)
    hide(Conversation.listening("s", policy=policy).log[0])
    for word in [*"ghijklmnopqrstuvwyz", "no", "me"]:
        assert not may_become(
            hide(SttPartial(session_id="s", text=word, via="speech")).text, policy.interruption.backchannels
        )
