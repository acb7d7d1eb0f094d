"""Options that another option makes useless are refused."""

import re
from pathlib import Path

import pytest

from cli.exits import USAGE
from tests.cli.service import ROOT, environment, orch


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "FILE", "--json", "--jsonl"],
        ["replay", "FILE", "--json", "--jsonl", "--set", "interruption.min_words=2"],
        ["replay", "FILE", "--jobs", "2", "--set", "interruption.min_words=2"],
        ["show", "FILE", "--said", "--timeline", "--json"],
        ["show", "FILE", "--detailed", "--said"],
        ["show", "FILE", "--said", "--tools"],
        ["export", "FILE", "--layout", "turn"],
        ["export", "FILE", "--format", "perfetto", "--layout", "turn"],
        ["export", "FILE", "--content"],
        ["export", "FILE", "--format", "mermaid", "--content"],
    ],
    ids=" ".join,
)
def test_an_option_that_another_one_makes_useless_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    """Instead of the one, both or none of what was asked for."""
    filled = [str(ROOT / "fixtures/barge_in.jsonl") if one == "FILE" else one for one in arguments]
    done = orch(*filled, env=environment(tmp_path))
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert re.fullmatch("✗ --.* has no effect beside --.*; leave one of them out\n", done.stderr)


def test_a_text_is_cut_only_where_fields_are_shown(tmp_path: Path) -> None:
    """So `--full` needs a form that shows them."""
    done = orch("show", str(ROOT / "fixtures/barge_in.jsonl"), "--full", env=environment(tmp_path))
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert done.stderr == "✗ --full has an effect only with --timeline or --detailed\n"
