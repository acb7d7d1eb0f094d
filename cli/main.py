"""The `orch` command. Each command lives in a module of its own and is imported only when it is called."""

import importlib
import os
import sys
from typing import Annotated

import typer

USAGE = 3
"""The exit code of a command line that is wrong; 2 says that what it names cannot be read."""

app = typer.Typer(
    help="orch: live voice conversations that you can replay.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich alone would double the time to --help
)

Url = Annotated[str, typer.Option("--url", help="Address of the running service.")]
Sources = Annotated[list[str], typer.Argument(help="What to replay.", metavar="SOURCE...")]
Source = Annotated[str, typer.Argument(help="A recording, - or a session id.", metavar="SOURCE")]
SessionId = Annotated[str, typer.Argument(help="A session id; `orch sessions` lists them.", metavar="SESSION")]


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.", envvar="ORCH_HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.", envvar="ORCH_PORT")] = 8080,
) -> None:
    """Run the service: conversations, console page, everything."""
    _run("serve", host, port)


@app.command()
def chat(url: Url = "http://127.0.0.1:8080") -> None:
    """Talk to the agent in this terminal, in text."""
    _run("chat", url)


@app.command()
def replay(
    sources: Sources,
    keep_going: Annotated[bool, typer.Option("--keep-going", "-k", help="Go on after a divergence.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Also check what must hold in every log.")] = False,
    incomplete: Annotated[str, typer.Option(help="`ok`: the file may end where its writer crashed.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="One line of JSON per recording.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what is wrong.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes; 0: one per core.")] = 0,
) -> None:
    """Run recorded conversations through today's reducer, and compare all that it says and does.

    SOURCE is a recording, a folder, a pattern, - or a session id.
    Exit code 0: equal, 1: diverged, 2: unreadable, 3: usage, 4: --check failed, 130: interrupted.
    """
    _run("replay", **locals())


@app.command()
def show(
    source: Source,
    detailed: Annotated[bool, typer.Option("--detailed", help="Every event with all it says.")] = False,
    timeline: Annotated[bool, typer.Option("--timeline", help="Lanes side by side, time running down.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per event.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Cut no text.")] = False,
) -> None:
    """Show a conversation; without an option its golden log."""
    _run("show", source, detailed=detailed, timeline=timeline, as_json=as_json, full=full)


@app.command()
def explain(
    rule: Annotated[str, typer.Argument(help="Such as ORCH1001; none: list all.", metavar="[RULE]")] = "",
) -> None:
    """Say what a rule of `orch replay` means, what causes it and what to do."""
    _run("explain", rule)


@app.command()
def tail(session: Annotated[str, typer.Argument(help="One session; none: all.", metavar="[SESSION]")] = "") -> None:
    """Follow the golden log, live."""
    _run("tail", session)


@app.command()
def sessions() -> None:
    """List the sessions whose logs are here."""
    _run("sessions")


@app.command()
def doctor() -> None:
    """Say what this Redis promises to keep, how the service is doing, and what is wrong. Exit code 1: something is."""
    _run("doctor")


@app.command()
def export(
    session: SessionId,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write; -: standard output.")] = "-",
) -> None:
    """Write a session's log as a recording."""
    _run("export", session, output)


def _run(command: str, *arguments: object, **options: object) -> None:
    try:
        code = importlib.import_module(f"cli.{command}").run(*arguments, **options)
    except BrokenPipeError:  # whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        if not isinstance(error, _expected()):
            raise
        print(f"✗ {error}", file=sys.stderr)
        code = 2
    if code:
        sys.exit(code)


def _expected() -> tuple[type[Exception], ...]:
    """What is said in words, without a traceback. Imported when something went wrong, so that success is fast."""
    from redis.exceptions import RedisError

    from events.recording import BadRecordingError
    from orchestrator.runtime.embedded import NoRedisServerError
    from orchestrator.runtime.logs import UnknownSessionError
    from orchestrator.settings import SettingsError

    return (BadRecordingError, SettingsError, NoRedisServerError, UnknownSessionError, RedisError, OSError)


def main() -> None:
    """Entry point of the installed command."""
    typer.BadParameter.__mro__[1].exit_code = USAGE  # type: ignore[attr-defined] # of all usage errors
    app()
