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
Sources = Annotated[list[str], typer.Argument(help="What to replay.", metavar="SOURCE")]
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
    until: Annotated[str, typer.Option(help="Stop there: 41, SESSION:41, 12.5s, STT_FINAL, Speak[2].")] = "",
    step: Annotated[bool, typer.Option("--step", help="Step by step, by your commands.")] = False,
    speed: Annotated[str, typer.Option(help="Print the golden log as it goes: 1x as it was, 4x, or max.")] = "",
    dump_state: Annotated[bool, typer.Option("--dump-state", help="Print the state at the end, as JSON.")] = False,
    without: Annotated[list[str], typer.Option(help="What if this input had not come: 41 or SESSION:41.")] = [],  # noqa: B006
    insert: Annotated[str, typer.Option(help="What if these inputs had come, too: a file of events.")] = "",
    settings: Annotated[list[str], typer.Option("--set", help="What if: interruption.min_words=2.")] = [],  # noqa: B006
    policy: Annotated[str, typer.Option(help="What if this policy file had been in force.")] = "",
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


@app.command("import")
def import_(
    source: Source,
    as_fixture: Annotated[str, typer.Option("--as-fixture", help="What the test is called.", metavar="NAME")] = "",
    story: Annotated[str, typer.Option(help="What it is for, in a sentence.")] = "",
    folder: Annotated[str, typer.Option(help="Where the recordings of your tests are: tests/recordings.")] = "",
) -> None:
    """Turn a recorded session into a test of your project."""
    _run("import_", source, as_fixture=as_fixture, story=story, folder=folder)


@app.command()
def why(
    source: Source,
    version: Annotated[str, typer.Argument(help="The event: 41 or SESSION:41.", metavar="VERSION")],
) -> None:
    """Say what an event came from, and what would have had to be different."""
    _run("why", source, version)


@app.command()
def explain(
    rule: Annotated[str, typer.Argument(help="Such as ORCH1001; none: list all.", metavar="[RULE]")] = "",
) -> None:
    """Say what a rule of `orch replay` means, what causes it and what to do."""
    _run("explain", rule)


@app.command()
def tail(
    session: Annotated[str, typer.Argument(help="One session; none: all.", metavar="[SESSION]")] = "",
    types: Annotated[list[str], typer.Option("--type", help="Only these, such as STT_* or Speak.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per event.")] = False,
) -> None:
    """Follow the golden log, live."""
    _run("tail", session, types=types, as_json=as_json)


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
    source: Source,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write; -: standard output.")] = "-",
    form: Annotated[
        str, typer.Option("--format", help="jsonl (a recording), mermaid (a diagram), otlp, otlp-json or perfetto.")
    ] = "jsonl",
    redact: Annotated[
        str, typer.Option(help="none, default (letters become x) or hash (words become others).")
    ] = "none",
    layout: Annotated[str, typer.Option(help="Of a trace: session (one in all) or turn (one per turn).")] = "session",
    content: Annotated[bool, typer.Option("--content", help="Of a trace: also what was said.")] = False,
) -> None:
    """Write a conversation as a recording, as a diagram or as a trace."""
    _run("export", source, output, form=form, redact=redact, layout=layout, content=content)


_projections = typer.Typer(help="What is computed from committed events: how far it is, making it anew.")
app.add_typer(_projections, name="projections", no_args_is_help=True)


@_projections.command("status")
def projections_status() -> None:
    """Say how far each projection is behind, and what the history holds."""
    _run("projections", "status")


@_projections.command("rebuild")
def projections_rebuild(
    name: Annotated[str, typer.Argument(help="Which: history.", metavar="NAME")],
) -> None:
    """Make a projection anew from the logs, and from the archive where Redis has none. A service may run beside it."""
    _run("projections", "rebuild", name)


OlderThan = Annotated[str, typer.Option("--older-than", help="How long ago they ended: 90d, 12h, 30m.", metavar="AGE")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@app.command()
def archive(older_than: OlderThan = "1d", dry_run: DryRun = False) -> None:
    """Let Redis forget sessions that ended and are archived in SQL, whole and on disk. Exit code 1: some were left."""
    _run("archive", older_than, dry_run=dry_run)


@app.command()
def purge(
    older_than: Annotated[str, typer.Option("--older-than", help="How long ago they ended: 90d, 12h.", metavar="AGE")],
    dry_run: DryRun = False,
) -> None:
    """Forget sessions that ended, everywhere and for good. Exit code 1: some were left."""
    _run("archive", older_than, dry_run=dry_run, forget=True)


@app.command()
def diff(one: Source, other: Annotated[str, typer.Argument(help="The other.", metavar="OTHER")]) -> None:
    """Compare two conversations. Exit code 1: they decide otherwise."""
    _run("diff", one, other)


@app.command()
def verify(sources: Sources) -> None:
    """Check that recordings are sound: lines, versions, state hashes, invariants, checksum. Exit code 2: one is not."""
    _run("verify", sources)


@app.command()
def fork(
    source: Source,
    at: Annotated[str, typer.Option("--at", help="The last input taken: 41, 12.5s, STT_FINAL[2].")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the file.")],
    session: Annotated[str, typer.Option("--session", help="The id of the new session.")] = "",
    output: Annotated[str, typer.Option("--output", "-o", help="File to write; none: only say what would be.")] = "",
) -> None:
    """Take the beginning of a conversation as one of its own."""
    _run("fork", source, at=at, reason=reason, session=session, output=output)


@app.command()
def events(
    name: Annotated[str, typer.Argument(help="Such as STT_FINAL; none: list all.", metavar="[TYPE]")] = "",
    schema: Annotated[bool, typer.Option("--schema", help="JSON Schema of all.")] = False,
    asyncapi: Annotated[bool, typer.Option("--asyncapi", help="AsyncAPI document.")] = False,
) -> None:
    """Say what can happen: every event, who says it and what it changes."""
    _run("events", name, schema=schema, as_asyncapi=asyncapi)


def _run(command: str, *arguments: object, **options: object) -> None:
    try:
        code = importlib.import_module(f"cli.{command}").run(*arguments, **options)
    except BrokenPipeError:  # whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        if isinstance(error, _usage()):
            code = USAGE
        elif isinstance(error, _expected()):
            code = 2
        else:
            raise
        print(f"✗ {error}", file=sys.stderr)
    if code:
        sys.exit(code)


def _usage() -> tuple[type[Exception], ...]:
    """What is wrong with the command line, said in words."""
    from cli.terminal import UsageError
    from orchestrator.replay.place import BadPlaceError
    from orchestrator.replay.why import NoSuchEventError

    return UsageError, BadPlaceError, NoSuchEventError


def _expected() -> tuple[type[Exception], ...]:
    """What is said in words, without a traceback. Imported when something went wrong, so that success is fast."""
    from redis.exceptions import RedisError

    from cli.store import NoHistoryError
    from events.recording import BadRecordingError
    from orchestrator.replay.fold_on import UnsoundLogError
    from orchestrator.runtime.embedded import NoRedisServerError
    from orchestrator.runtime.logs import UnknownSessionError
    from orchestrator.settings import SettingsError
    from projections.history.store import BadDatabaseError, HistoryError

    return (
        BadRecordingError,
        UnsoundLogError,
        SettingsError,
        NoRedisServerError,
        UnknownSessionError,
        NoHistoryError,
        BadDatabaseError,
        HistoryError,
        RedisError,
        OSError,
    )


def main() -> None:
    """Entry point of the installed command."""
    typer.BadParameter.__mro__[1].exit_code = USAGE  # type: ignore[attr-defined] # of all usage errors
    app()
