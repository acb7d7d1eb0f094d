"""The pages about the command line, drawn from the command itself, and the page of the rules of replay."""

import typer
from typer.core import TyperCommand, TyperGroup

from cli.main import app
from orchestrator.replay.rules import RULES

WIDTH = 100
_WORDS = """\
Data goes to standard output, words to standard error. Exit codes: 0 well, 1 a negative result (it diverged, it
differs), 2 what was named cannot be read, 3 the command line is wrong, 4 `--check` failed, 130 Ctrl-C. Nothing is
coloured; a progress bar is drawn on a terminal alone. `orch --install-completion` installs completion for your shell.
"""


def pages() -> dict[str, str]:
    """File name → text: one page per command, one that lists them, one with the rules."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    with typer.Context(group, info_name="orch", terminal_width=WIDTH, max_content_width=WIDTH) as context:
        found = {f"commands/{name}.md": _page(name, context, command) for name, command in group.commands.items()}
    lines = [f"| [orch {name}]({name}.md) | {_first(command)} |" for name, command in group.commands.items()]
    table = "\n".join(["| command | what it does |", "|---|---|", *lines])
    found["commands/README.md"] = f"# The command line\n\n{table}\n\n{_WORDS}"
    found["rules.md"] = _rules()
    return found


def _page(name: str, parent: typer.Context, command: TyperCommand) -> str:
    with typer.Context(
        command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH
    ) as context:
        return f"# orch {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"


def _first(command: TyperCommand) -> str:
    return (command.help or "").split("\n\n")[0].replace("\n", " ").strip()


def _rules() -> str:
    parts = ["# The rules of replay\n\nWhat `orch replay` calls a difference; `orch explain RULE` says the same.\n"]
    for rule in RULES.values():
        causes = "\n".join(f"- {cause}" for cause in rule.causes)
        parts.append(f"## {rule.id} {rule.name}\n\n{rule.meaning}\n\nUsual causes:\n\n{causes}\n\n{rule.todo}\n")
    return "\n".join(parts)
