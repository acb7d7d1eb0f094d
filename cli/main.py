"""The `orch` command. Each command lives in a module of its own and is imported only when it is called."""

import importlib
import sys
from typing import Annotated

import typer

app = typer.Typer(
    help="orch: live voice conversations that you can replay.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich alone would double the time to --help
)

Url = Annotated[str, typer.Option("--url", help="Address of the running service.")]
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
    sources: Annotated[list[str], typer.Argument(help="Recordings or session ids.", metavar="FILE|SESSION...")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the verdict alone.")] = False,
) -> None:
    """Run recorded conversations through today's reducer and compare. Exit code 0: equal, 1: different."""
    _run("replay", sources, quiet)


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


def _run(command: str, *arguments: object) -> None:
    try:
        code = importlib.import_module(f"cli.{command}").run(*arguments)
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

    from orchestrator.runtime.embedded import NoRedisServerError
    from orchestrator.runtime.logs import UnknownSessionError
    from orchestrator.settings import SettingsError

    return (SettingsError, NoRedisServerError, UnknownSessionError, RedisError, OSError)


def main() -> None:
    """Entry point of the installed command."""
    app()
