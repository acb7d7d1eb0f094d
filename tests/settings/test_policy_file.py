"""Policy files: what is read from them, and what people are told about one that is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.app import Orchestrator
from orchestrator.policy_file import PolicyFileError, read_policy
from orchestrator.policy_schema import allowed, policy_fields, policy_schema
from orchestrator.session.phrases import BACKCHANNELS
from orchestrator.session.policy import Policy
from orchestrator.settings import Settings, SettingsError

Read = Callable[..., Policy]
SCHEMA, FIELDS = policy_schema(), policy_fields()
MILLISECONDS = "expected a whole number of milliseconds from 0 to 86400000, found"
TEXT = "expected a text of at most 8000 characters, found"
FORMATS: dict[str, Callable[[Any], str]] = {
    "yaml": yaml.safe_dump,
    "json": json.dumps,
}


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write a file, then read it."""

    def write_and_read(text: str | bytes, name: str = "policy.yaml") -> Policy:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
        return read_policy(tmp_path / name)

    return write_and_read


def problems(read: Read, text: str | bytes, name: str = "policy.yaml") -> list[str]:
    """What the error says about a file, without the first line, which names the file."""
    with pytest.raises(PolicyFileError) as caught:
        read(text, name)
    first, *lines = str(caught.value).split("\n")
    assert first.startswith("the policy in ")
    assert first.endswith(f"{name} cannot be used:")
    assert all(line.startswith("  ") for line in lines)
    return [line[2:] for line in lines]


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Everything that a schema allows."""
    if "anyOf" in schema:
        return st.one_of(*map(values, schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "array":
            return st.lists(values(schema["items"]), max_size=5)
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case _:
            return st.text(max_size=40) | st.sampled_from(
                ["yes", "on", "null", "~", "", "010", "1:30", "1e3", "=", "<<"]
            )


def files() -> st.SearchStrategy[dict[str, Any]]:
    """Policies as people write them: any part, and any field of it, may be left out."""
    parts = {
        part: st.none() | st.fixed_dictionaries({}, optional={name: values(field) for name, field in fields.items()})
        for part, fields in FIELDS.items()
    }
    return st.fixed_dictionaries({}, optional=parts)


# What is read


@pytest.mark.parametrize("suffix", FORMATS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(file=files())
def test_every_policy_is_read_back_as_it_was_written(read: Read, suffix: str, file: dict[str, Any]) -> None:
    """Whole, and without its defaults; and the schema allows nothing that is not read."""
    policy = read(FORMATS[suffix](file), f"policy.{suffix}")
    assert policy == Policy.model_validate({part: fields for part, fields in file.items() if fields is not None})
    for written in (policy.recorded(), policy.model_dump(mode="json", exclude_defaults=True)):
        assert read(FORMATS[suffix](written), f"policy.{suffix}") == policy


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "policy.yaml"),
        ("# nothing yet\n", "policy.yml"),
        ("---\n", "policy.yaml"),
        ("{}", "policy.yaml"),
        ("", "policy.json"),
        ("\n", "policy.json"),
        ("{}", "POLICY.JSON"),
        ("away:\n  # text: Hello?\n", "policy.yaml"),
        ('{"$schema": "policy.schema.json", "away": null}', "policy.json"),
        (b"\xef\xbb\xbfaway: {}", "policy.yaml"),
    ],
)
def test_what_a_file_leaves_out_has_its_default(read: Read, text: str | bytes, name: str) -> None:
    """An empty file, an empty part, a part whose fields are all commented out."""
    assert read(text, name) == Policy()


def test_a_language_stands_for_its_phrases(read: Read) -> None:
    """The backchannels of each language that brings its own."""
    for code, phrases in BACKCHANNELS.items():
        assert read(f"interruption: {{backchannels: {code}}}").interruption.backchannels == phrases


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("on", True), ("Off", False), ("no", False)])
def test_yaml_words_for_true_and_false_are_switches(read: Read, word: str, value: bool) -> None:
    """As YAML reads them."""
    assert read(f"interruption: {{pause_playback: {word}}}").interruption.pause_playback is value


def test_anchors_aliases_and_merges_are_yaml_as_usual(read: Read) -> None:
    """A merged name is not a repeated one, and a wrong one is told where it stands."""
    policy = read("deadlines: {stt_ms: &d 7, tts_ms: *d}")
    assert (policy.deadlines.stt_ms, policy.deadlines.tts_ms) == (7, 7)
    merged = "speculation: &s\n  stable_ms: 5\nendpointing:\n  <<: *s\n"
    assert read(merged).endpointing.stable_ms == 5
    assert read(f"{merged}  stable_ms: 9").endpointing.stable_ms == 9
    assert problems(read, f"{merged}filler:\n  <<: *s") == [
        "line 2: filler.stable_ms: there is no such field; did you mean endpointing.stable_ms or speculation.stable_ms?"
    ]


def test_a_text_is_what_is_written(read: Read) -> None:
    """No octal, sexagesimal or calendar surprises."""
    assert read("away: {text: Grüß Gott 🙂}").away.text == "Grüß Gott 🙂"
    assert read("away: {text: 12:30}").away.text == "12:30"
    assert read("away: {text: 2026-02-31}").away.text == "2026-02-31"
    assert read("away: {prompts: 1_000}").away.prompts == 1_000


# What is said about a wrong value


@pytest.mark.parametrize(
    "written", ["500ms", "0.5", "500.0", '"500"', "'500'", "true", "-1", "86400001", "010", "1:30"]
)
def test_a_length_of_time_is_a_whole_number_of_milliseconds(read: Read, written: str) -> None:
    """As it was written, so that people find it again."""
    found = written.replace("'", '"')
    assert problems(read, f"away:\n\n  after_ms: {written}") == [f"line 3: away.after_ms: {MILLISECONDS} {found}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("away: {prompts: -1}", "away.prompts: expected a whole number, 0 or more, found -1"),
        ("away: {prompts: }", "away.prompts: expected a whole number, 0 or more, found nothing"),
        ("away: {prompts: [1, 2]}", "away.prompts: expected a whole number, 0 or more, found a list of 2"),
        ("away: {prompts: {a: 1}}", "away.prompts: expected a whole number, 0 or more, found a mapping"),
        ("away: {text: 5}", f"away.text: {TEXT} 5; put quotes around it"),
        ("away: {text: no}", f"away.text: {TEXT} no; put quotes around it"),
        ("away: {text: }", f'away.text: {TEXT} nothing; an empty text is ""'),
        ("away: {text: [a]}", f"away.text: {TEXT} a list of 1"),
        (f"away: {{text: {'a' * 8_001}}}", f"away.text: {TEXT} a text of 8001 characters"),
        ("intent: {skip: maybe}", "intent.skip: expected true or false, found maybe"),
        ("intent: {skip: 1}", "intent.skip: expected true or false, found 1"),
        ("thinking: {more_words: join}", "thinking.more_words: expected merge or supersede, found join"),
        ("interruption: {backchannels: [a, yes]}", f"interruption.backchannels[1]: {TEXT} yes; put quotes around it"),
        (
            "deadlines: {playback_grace_ms: 3}",
            "deadlines.playback_grace_ms: expected a whole number of milliseconds from 1500 to 60000, found 3",
        ),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(read: Read, text: str, problem: str) -> None:
    """Type, range or choice, and what was found."""
    assert problems(read, text) == [f"line 1: {problem}"]


@pytest.mark.parametrize("found", ["xx", "no", "5", "a list of 201"])
def test_backchannels_are_a_list_or_a_language(read: Read, found: str) -> None:
    """The languages are named."""
    written = json.dumps(["a"] * 201) if found.startswith("a list") else found
    (problem,) = problems(read, f"interruption:\n  backchannels: {written}")
    languages = ", ".join(BACKCHANNELS)
    expected = f"expected a list of at most 200 phrases, or a language ({languages}), found {found}"
    assert problem == f"line 2: interruption.backchannels: {expected}"
    (problem,) = problems(read, f"endpointing:\n  phrases: {written}")
    assert problem == f"line 2: endpointing.phrases: expected a list of at most 200 phrases, found {found}"


def test_a_part_has_fields(read: Read) -> None:
    """Not a value of its own; and a file has parts."""
    assert problems(read, "thinking: merge") == [
        "line 1: thinking: expected the fields of this part (more_words), found merge"
    ]
    (problem,) = problems(read, "\n- away")
    assert problem.startswith("line 2: expected the parts of a policy (answering, away, ")
    assert problem.endswith("), found a list of 1")


def test_there_are_words_for_every_field() -> None:
    """No field falls back to the words of a library."""
    assert [name for fields in FIELDS.values() for name, schema in fields.items() if not allowed(name, schema)] == []


# What is said about a wrong name


@pytest.mark.parametrize(
    ("text", "place", "advice"),
    [
        ("interuption: {}", "interuption", "did you mean interruption?"),
        ("interruption: {min_word: 1}", "interruption.min_word", "did you mean min_words?"),
        ("interruption: {minWords: 1}", "interruption.minWords", "did you mean min_words?"),
        ("interruption: {tries: 1}", "interruption.tries", "did you mean speculation.tries?"),
        ("min_words: 1", "min_words", "did you mean interruption.min_words?"),
        ("min_wurds: 1", "min_wurds", "did you mean interruption.min_words?"),
        ("wait: {prompts: 1}", "wait", None),
        (
            "text: Hello",
            "text",
            "did you mean away.text or filler.text or goodbye.text or greeting.text or tools.text?",
        ),
        ("interruption.min_words: 1", "interruption.min_words", "write min_words below interruption"),
        ("thinking: {zzz: 1}", "thinking.zzz", "there are more_words"),
        ("thinking: {on: 1}", "thinking.on", "there are more_words"),
        ("thinking: {7: 1}", "thinking.7", "there are more_words"),
        ('thinking: {"a\\nb": 1}', 'thinking."a\\nb"', "there are more_words"),
    ],
)
def test_a_name_that_does_not_exist_is_told_with_the_closest(
    read: Read, text: str, place: str, advice: str | None
) -> None:
    """In the same part, or wherever the field really is; else all that there are."""
    (problem,) = problems(read, text)
    assert problem.startswith(f"line 1: {place}: there is no such field; ")
    assert advice is None or problem.endswith(f"; {advice}")


# What is said about a file


def test_every_problem_has_its_line(read: Read) -> None:
    """In the order of the file; repeated names among them."""
    text = "away:\n  text: 5\n  prompts: x\nfiller:\n  text: a\n  text: b\n  txt: c\naway: {after_ms: 1s}\n"
    assert [line.partition(": ")[0] for line in problems(read, text)] == ["line 6", "line 7", "line 8", "line 8"]
    said = problems(read, text)
    assert said[0] == "line 6: filler.text: it is there twice, first in line 5"
    assert "line 8: away: it is there twice, first in line 1" in said


def test_a_name_that_is_there_twice_is_an_error(read: Read) -> None:
    """Also where nothing else is wrong, and in JSON."""
    assert problems(read, "away: {prompts: 1, prompts: 1}") == [
        "line 1: away.prompts: it is there twice, first in line 1"
    ]
    assert problems(read, '{"away": {"prompts": 1, "prompts": 1}, "filler": {}, "filler": {}}', "p.json") == [
        "filler: it is there twice",
        "away.prompts: it is there twice",
    ]


def test_json_is_told_by_field(read: Read) -> None:
    """Values as JSON writes them."""
    text = '{"away": {"after_ms": "500", "prompts": 1.0, "text": null, "wait": true}, "thinking": {"more_words": "x"}}'
    assert problems(read, text, "p.json") == [
        f'away.after_ms: {MILLISECONDS} "500"',
        "away.prompts: expected a whole number, 0 or more, found 1.0",
        f'away.text: {TEXT} nothing; an empty text is ""',
        "away.wait: there is no such field; did you mean greeting.wait_ms?",
        'thinking.more_words: expected merge or supersede, found "x"',
    ]


@pytest.mark.parametrize(
    ("text", "name", "problem"),
    [
        ("{}", "policy.toml", "its name must end with .yaml, .yml, .json"),
        ("{}", "policy", "its name must end with .yaml, .yml, .json"),
        (b"\xff\xfe", "p.yaml", "it is not text in UTF-8"),
        ("away:\n\ttext: a", "p.yaml", "line 2: it is not YAML: found character '\\t' that cannot start any token"),
        ("away: [", "p.yaml", "line 1: it is not YAML: expected the node content, but found '<stream end>'"),
        ("a: 1\n---\nb: 2", "p.yaml", "line 2: it is not YAML: but found another document"),
        ("\naway: *a", "p.yaml", "line 2: it is not YAML: found undefined alias 'a'"),
        ("\naway: \0", "p.yaml", "line 2: it is not YAML: special characters are not allowed"),
        ("\naway: !!python/name:os.system", "p.yaml", "line 2: a tag such as tag:yaml.org,2002:python/name:os.system"),
        ("away: {after_ms: !!int x}", "p.yaml", "line 1: a tag such as tag:yaml.org,2002:int has no meaning here"),
        ("[away]: 1", "p.yaml", "line 1: a name must be a text, not a list or a mapping"),
        ("away: {<<: 1}", "p.yaml", "line 1: it is not YAML: expected a mapping or list of mappings for merging"),
        ("[" * 500 + "]" * 500, "p.yaml", "it is nested too deeply"),
        ("[" * 200_000, "p.json", "it is nested too deeply"),
        ('{\n"away" 1}', "p.json", "line 2: it is not JSON: Expecting ':' delimiter"),
        ("away: 1", "p.json", "line 1: it is not JSON: Expecting value"),
        (f"[{'1' * 5_000}]", "p.json", "it is not JSON: Exceeds the limit"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(read: Read, text: str | bytes, name: str, problem: str) -> None:
    """In one line, and never with a traceback from a library."""
    (said,) = problems(read, text, name)
    assert said.startswith(problem)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """So is one that is a folder."""
    with pytest.raises(PolicyFileError, match=r"nowhere.yaml cannot be used:\n  it cannot be read: No such file"):
        read_policy(tmp_path / "nowhere.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(PolicyFileError, match="it cannot be read: Is a directory"):
        read_policy(tmp_path / "folder.yaml")


def test_a_mapping_within_itself_and_a_broken_character_are_only_wrong(read: Read) -> None:
    """What the message cannot print it writes as an escape."""
    assert problems(read, "away: &a\n  away: *a") == [
        "line 2: away.away: there is no such field; there are after_ms, prompts, text"
    ]
    (said,) = problems(read, '{"away": {"text": "\\ud800"}}', "p.json")
    assert said == rf'away.text: {TEXT} "\ud800"'


async def test_a_service_with_a_wrong_policy_does_not_start(tmp_path: Path) -> None:
    """The error of the settings names the variable, and says all that is wrong."""
    file = tmp_path / "policy.yaml"
    file.write_text("away: {promts: 1}\nfiller: {delay_ms: 1s}\n")
    with pytest.raises(SettingsError) as caught:
        await Orchestrator(Settings(policy_file=file, data_dir=tmp_path)).__aenter__()
    assert str(caught.value).split("\n") == [
        f"ORCH_POLICY_FILE: the policy in {file} cannot be used:",
        "  line 1: away.promts: there is no such field; did you mean prompts?",
        f"  line 2: filler.delay_ms: {MILLISECONDS} 1s",
    ]


# The schema


@settings(deadline=None)
@given(
    part=st.sampled_from(sorted(FIELDS)),
    data=st.data(),
)
def test_editor_and_start_up_agree(part: str, data: st.DataObject) -> None:
    """A value of any kind is wrong by the schema exactly if the policy refuses it."""
    fields = FIELDS[part]
    name = data.draw(st.sampled_from([*fields, "nothing"]))
    anything: st.SearchStrategy[Any] = (
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text() | st.booleans()) | st.just({})
    )
    value = data.draw(anything | values(fields[name]) if name in fields else anything)
    file = {part: {name: value}}
    try:
        Policy.model_validate(file)
        refused = False
    except ValueError:
        refused = True
    assert _fits(SCHEMA, file) is not refused


_KINDS: dict[str, tuple[type, ...]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "object": (dict,),
    "string": (str,),
}


def _fits(schema: dict[str, Any], value: Any) -> bool:
    """JSON Schema, as far as the policy's goes."""
    if "anyOf" in schema:
        return any(_fits(one, value) for one in schema["anyOf"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(isinstance(value, _KINDS[kind]) and (kind == "boolean") >= isinstance(value, bool) for kind in kinds):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    match value:
        case dict():
            known = schema["properties"]
            return all(name in known and _fits(known[name], inner) for name, inner in value.items())
        case list():
            return len(value) <= schema["maxItems"] and all(_fits(schema["items"], item) for item in value)
        case str():
            return bool(len(value) <= schema.get("maxLength", len(value)))
        case int() if not isinstance(value, bool):
            return bool(schema["minimum"] <= value <= schema["maximum"])
    return True
