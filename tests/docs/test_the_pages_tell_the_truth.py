"""README and docs: links lead somewhere, examples run, tables match the code."""

import importlib
import re
import signal
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import orchestrator
from docs.write import pages
from orchestrator.policy_file import PolicyFileError, read_policy
from orchestrator.session.policy import Policy
from orchestrator.settings import Settings, SettingsError
from tests.cli.service import ended, environment, orch_process

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_exist(page: Path) -> None:
    """A link within the repository leads somewhere."""
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_index_of_the_documentation_lists_every_page() -> None:
    """docs/README.md, for users and for contributors."""
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs/README.md").read_text())
    assert sorted(listed) == sorted({page.name for page in ROOT.glob("docs/*.md")} - {"README.md"})


@pytest.mark.parametrize("name", ["guarantees.md", "security.md"])
def test_every_sentence_of_the_guarantees_names_a_test_that_exists(name: str) -> None:
    """`file::function`; a proof that was renamed or removed leaves no promise behind."""
    page = (ROOT / "docs" / name).read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 20
    for file, function in named:
        assert re.search(rf"^(async )?def {function}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{function}"


def test_every_name_of_the_original_flow_has_a_home() -> None:
    """docs/names.md names things that exist."""
    rows = re.findall(r"^\| (.+?) \| `([\w.]+):([\w.]+)` \|", (ROOT / "docs/names.md").read_text(), re.MULTILINE)
    assert len(rows) > 25
    for _, module, path in rows:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)


def test_the_settings_page_names_every_setting() -> None:
    """No setting is missing from docs/settings.md, and none is made up."""
    page = (ROOT / "docs/settings.md").read_text()
    named = set(re.findall(r"^\| ORCH_(\w+) ", page, re.MULTILINE))
    assert named == {field.name.upper() for field in fields(Settings)}


def test_the_policy_page_names_every_field() -> None:
    """The tables have each field once, and the text names none that is not in them."""
    page = (ROOT / "docs/policy.md").read_text()
    paths = [f"{part}.{name}" for part, values in Policy() for name, _ in values]
    assert re.findall(r"^\| ([a-z_]+\.[a-z_]+) \|", page, re.MULTILINE) == paths
    names = {*paths, *(path.partition(".")[2] for path in paths)}
    said = set(re.findall(r"`([a-z]+\.[a-z_]+|[a-z_]+_ms)(?:: \w+)?`", page))
    assert said - names == set()


def test_the_example_of_the_policy_page_is_a_policy(tmp_path: Path) -> None:
    """It is read without a complaint, and shows a field of almost every part."""
    example, _ = _yaml_of_the_policy_page()
    file = tmp_path / "policy.yaml"
    file.write_text(example)
    policy = read_policy(file)
    shown = {part for part, values in policy if f"\n{part}:" in example}
    assert set(Policy.model_fields) - shown == {"intent"}
    assert policy.interruption.min_words == 1


def test_the_error_of_the_policy_page_is_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message beside the wrong file, to the letter."""
    _, wrong = _yaml_of_the_policy_page()
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_text(wrong)
    with pytest.raises(PolicyFileError) as caught:
        read_policy(Path("policy.yaml"))
    (shown,) = re.findall(r"```text\n(.*?)\n```", (ROOT / "docs/policy.md").read_text(), re.DOTALL)
    assert str(caught.value) == shown


def _yaml_of_the_policy_page() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/policy.md").read_text(), re.DOTALL)


def test_a_setting_that_does_not_exist_is_an_error() -> None:
    """A typing error in a variable's name hides nothing."""
    with pytest.raises(SettingsError, match="ORCH_PROT"):
        Settings.from_environment({"ORCH_PROT": "8080"})


def test_every_export_can_be_imported() -> None:
    """What `orchestrator` exports is there."""
    for name in orchestrator.__all__:
        assert getattr(orchestrator, name) is not None


def test_pip_and_uv_are_held_to_the_same_versions() -> None:
    """constraints.txt and pyproject.toml pin the same."""
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"] == pins


def test_the_examples_of_the_testing_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/testing.md shows a conversation that really goes so, and 500 sessions under two policies."""
    page = (ROOT / "docs/testing.md").read_text()
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(example, {})
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert directions(shown).items() <= directions(capsys.readouterr().out).items()


def directions(table: str) -> dict[str, bool]:
    """Decision → whether it became more frequent; the figures themselves move with every change of the simulation."""
    rows = re.findall(r"^(.*?) +(\d+) → +(\d+)$", table, re.MULTILINE)
    return {decision: int(before) < int(after) for decision, before, after in rows}


@pytest.mark.parametrize("name", pages())
def test_pages_drawn_from_the_code_are_up_to_date(name: str) -> None:
    """`python -m docs.write` would change nothing."""
    assert (ROOT / "docs" / name).read_text() == pages()[name]


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    """As a program: it stays up, answers with the function of the user's, and Ctrl-C ends it without a traceback."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    env = environment(tmp_path / "data")
    pipe = subprocess.PIPE
    program = subprocess.Popen([sys.executable, "mine.py"], cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True)
    assert program.stdout is not None
    url = program.stdout.readline().split()[-1]
    said = orch_process("chat", "--url", url, env=env, stdin="how are you\n")
    assert said.stdout == "You said: how are you\n", said.stderr
    program.send_signal(signal.SIGINT)
    _, errors = ended(program)
    assert (program.returncode, "Traceback" in errors) == (0, False), errors
