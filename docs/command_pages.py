"""Writes docs/commands/ from the help of `orch`, and docs/rules.md from the rules of replay."""

import typer
from typer.core import TyperCommand, TyperGroup

from cli.exits import MEANINGS
from cli.main import app
from orchestrator.replay.rules import RULES

WIDTH = 100
_WORDS = """\
Data goes to standard output, words to standard error. Nothing is coloured; a progress bar is drawn on a terminal alone.
A character that the encoding of the output lacks is written as `\\u2713`, as in JSON. A standard stream that is closed
counts as `/dev/null`. `orch --install-completion` installs completion for your shell.
"""


def pages() -> dict[str, str]:
    """File name → text: a page per command, a list of the commands, and the rules."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    with typer.Context(group, info_name="orch", terminal_width=WIDTH, max_content_width=WIDTH) as context:
        found = {f"commands/{name}.md": _page(name, context, command) for name, command in group.commands.items()}
    lines = [f"| [orch {name}]({name}.md) | {_first(command)} |" for name, command in group.commands.items()]
    table = "\n".join(["| command | what it does |", "|---|---|", *lines])
    found["commands/README.md"] = f"# The command line\n\n{table}\n\n{_WORDS}\n{_exit_codes()}"
    found["rules.md"] = _rules()
    return found


def _exit_codes() -> str:
    lines = [f"| {code} | {meaning} |" for code, meaning in MEANINGS.items()]
    return "\n".join(["## Exit codes", "", "| code | what it means |", "|---|---|", *lines, ""])


def _page(name: str, parent: typer.Context, command: TyperCommand) -> str:
    with typer.Context(
        command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH
    ) as context:
        return f"# orch {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"


def _first(command: TyperCommand) -> str:
    return (command.help or "").split("\n\n")[0].replace("\n", " ").strip()


def _rules() -> str:
    parts = ["# The rules of replay\n\nKinds of difference in `orch replay`; `orch explain RULE` prints the same.\n"]
    for rule in RULES.values():
        causes = "\n".join(f"- {cause}" for cause in rule.causes)
        parts.append(f"## {rule.id} {rule.name}\n\n{rule.meaning}\n\nUsual causes:\n\n{causes}\n\n{rule.todo}\n")
    return "\n".join(parts)
