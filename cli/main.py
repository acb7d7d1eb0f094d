"""The `orch` command. Each command lives in a module of its own and is imported only when it is called."""

import importlib
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer._click.exceptions import ClickException  # of all usage errors; it has no public name
from typer.core import TyperGroup

from cli.errors import OutputError, exit_code_of
from cli.exits import INTERRUPTED, USAGE
from cli.process import prepare_signals
from cli.safe_output import safe_output
from cli.terminal import prepare_streams


class Commands(TyperGroup):
    """All commands. Each exit has a code of cli.exits."""

    def main(self, args: Sequence[str] | None = None, *arguments: Any, **options: Any) -> Any:
        """Run a command and exit. `_run` handles errors of commands; this method handles usage, help and Ctrl-C."""
        prepare_streams()
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # inherited from a script that started orch with `&`
            signal.signal(signal.SIGINT, signal.default_int_handler)
        options["standalone_mode"] = False
        try:
            code = super().main(args, *arguments, **options)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except OutputError as error:
            code = exit_code_of(error)
        except ClickException as error:
            error.show()
            code = USAGE
        raise SystemExit(code or 0)

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the command line."""
        try:
            return super().make_context(*arguments, **options)
        except OSError as error:  # help was asked for
            raise OutputError from error

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except OSError as error:  # help of a command was asked for
            raise OutputError from error


app = typer.Typer(
    cls=Commands,
    help="orch: live voice conversations that you can replay.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich alone would double the time to --help
)

Url = Annotated[str, typer.Option("--url", help="Address of the running service.")]
Source = Annotated[str, typer.Argument(help="A recording, - or a session id.", metavar="SOURCE")]


def _version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version  # imported late: it takes a tenth of the time of --help

        print(f"orch {version('orch-voice')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version of orch, and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """orch: live voice conversations that you can replay."""


@app.command()
def serve(
    agent: Annotated[
        str,
        typer.Argument(help="Your agent: my_agent:agent is `agent` in my_agent.py.", metavar="[MODULE:NAME]"),
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen on; else ORCH_HOST, else 127.0.0.1.")] = "",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Port to listen on; 0: any free one; else ORCH_PORT, else 8080."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A language model answers: address like OpenAI's; else ORCH_MODEL_URL.", metavar="URL")
    ] = "",
    processes: Annotated[int, typer.Option(min=1, help="So many processes take the calls, each on a core.")] = 1,
    reload: Annotated[bool, typer.Option("--reload", help="Start again when a file of the agent changes.")] = False,
) -> None:
    """Run the service: conversations, talk page, everything.

    MODULE:NAME is an answer function or object (docs/services.md), a function without parameters that makes one, or an
    `Orchestrator`. Without it, the services of the settings answer, or the agent that comes with orch.
    """
    _run("serve", agent, host, port, model, processes=processes, is_reloaded=reload)


@app.command()
def new(name: Annotated[str, typer.Argument(help="Folder to write, such as my-agent.", metavar="NAME")]) -> None:
    """Write a project with an agent, its policy, a test and a Dockerfile, which works at once."""
    _run("new", name)


@app.command()
def chat(url: Url = "http://127.0.0.1:8080") -> None:
    """Talk to the agent in this terminal, in text."""
    _run("chat", url)


@app.command()
def token(
    subject: Annotated[str, typer.Option(help="Whom it is for.")] = "developer",
    may: Annotated[str, typer.Option(help="voice, text, read_sessions, read_words, operate.")] = "voice,text",
    sessions: Annotated[int, typer.Option(help="Conversations at a time; 0: no limit.")] = 0,
    seconds: Annotated[int, typer.Option(help="How long a conversation may last; 0: no limit.")] = 0,
    turns: Annotated[int, typer.Option(help="Turns a minute; 0: no limit.")] = 0,
    life: Annotated[int, typer.Option(help="Seconds in which it opens a conversation.")] = 60,
    key: Annotated[str, typer.Option(help="File with the private key; none: the key of this machine.")] = "",
    new_key: Annotated[str, typer.Option("--new-key", help="Make a key in this file, and print its public part.")] = "",
) -> None:
    """Make a token that opens a conversation, for tests and scripts."""
    _run("token", subject, may, sessions, seconds, turns, life, key, new_key)


@app.command()
def replay(
    sources: Annotated[list[str], typer.Argument(help="What to replay.", metavar="SOURCE")],
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
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Processes; 0: one per core.")] = 0,
) -> None:
    """Run recorded conversations through today's reducer, and compare all that it says and does.

    SOURCE is a recording, a folder, a pattern, - or a session id.
    Exit code 0: equal, 1: diverged, 2: unreadable, 3: usage, 4: --check failed, 130: interrupted.
    """
    _run("replay", **locals())


@app.command()
def rerun(
    sources: Annotated[list[str], typer.Argument(help="What to rerun.", metavar="SOURCE")],
    agent: Annotated[str, typer.Option("--agent", help="Your agent, as of orch serve.", metavar="MODULE:NAME")],
    policy: Annotated[
        str, typer.Option(help="The policy file of today; none: as recorded, also with a policy in the settings.")
    ] = "",
    late_ms: Annotated[int, typer.Option("--late-ms", min=0, help="So much later than recorded is late.")] = 300,
    ask_model: Annotated[bool, typer.Option("--ask-model", help="Ask the model where it is recorded, too.")] = False,
    run_tools: Annotated[bool, typer.Option("--run-tools", help="Run the tools: they act in the world.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what differs.")] = False,
) -> None:
    """Lead recorded conversations again with your agent of today, and tell what it says and does differently.

    SOURCE is a recording, a folder, a pattern, - or a session id.
    Exit code 0: as recorded, 1: something differs, 2: unreadable, 3: usage.
    """
    _run("rerun", **locals())


@app.command()
def show(
    source: Source,
    tools: Annotated[bool, typer.Option("--tools", help="Also tool calls and the model's responses.")] = False,
    detailed: Annotated[bool, typer.Option("--detailed", help="Every event with all it says.")] = False,
    timeline: Annotated[bool, typer.Option("--timeline", help="Lanes side by side, time running down.")] = False,
    said: Annotated[bool, typer.Option("--said", help="What the user and the agent said.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per event.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Cut no text.")] = False,
) -> None:
    """Show a conversation; without an option its golden log."""
    _run("show", source, tools=tools, detailed=detailed, timeline=timeline, said=said, as_json=as_json, full=full)


@app.command("import")
def import_(
    source: Source,
    as_fixture: Annotated[
        str, typer.Option("--as-fixture", help="Required: the name of the test.", metavar="NAME")
    ] = "",
    story: Annotated[str, typer.Option(help="What it is for, in a sentence.")] = "",
    folder: Annotated[str, typer.Option(help="Where the recordings of your tests are: tests/recordings.")] = "",
    rehash: Annotated[bool, typer.Option("--rehash", help="Upgrade to today's format, with new state hashes.")] = False,
) -> None:
    """Turn a recorded session into a test of your project."""
    _run("import_", source, as_fixture=as_fixture, story=story, folder=folder, rehash=rehash)


@app.command()
def why(
    source: Source,
    place: Annotated[
        str, typer.Argument(help="The event: 41, SESSION:41, 12.5s, STT_FINAL, Speak[2].", metavar="PLACE")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what an event came from, and what would have had to be different."""
    _run("why", source, place, as_json=as_json)


@app.command()
def explain(
    rule: Annotated[str, typer.Argument(help="Such as ORCH1001; none: list all.", metavar="[RULE]")] = "",
) -> None:
    """Say what a rule of `orch replay` means, what causes it and what to do."""
    _run("explain", rule)


@app.command()
def tail(
    session: Annotated[str, typer.Argument(help="One session; none: all.", metavar="[SESSION]")] = "",
    tools: Annotated[bool, typer.Option("--tools", help="Also tool calls and the model's responses.")] = False,
    types: Annotated[list[str], typer.Option("--type", help="Only these, such as STT_* or Speak.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per event.")] = False,
) -> None:
    """Follow the golden log, live."""
    _run("tail", session, tools=tools, types=types, as_json=as_json)


@app.command()
def sessions() -> None:
    """List the sessions, the oldest first: state, beginning, turns, duration, outcome, slowest turn, interruptions and
    failures.
    """
    _run("sessions")


@app.command()
def console(
    folder: Annotated[
        str, typer.Argument(help="Recordings to look at; none: the sessions of the service.", metavar="[FOLDER]")
    ] = "",
    host: Annotated[
        str, typer.Option(help="Address to listen on; with ORCH_AUTH_KEYS, also for other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0: any free one.")] = 8090,
) -> None:
    """Open the console: look at conversations in a browser, step by step, live or recorded."""
    _run("console", folder, host, port)


@app.command()
def doctor() -> None:
    """Say what this Redis promises to keep, how the service is doing, and what is wrong. Exit code 5: something is."""
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
    layout: Annotated[
        str, typer.Option(help="Of otlp and otlp-json: session (one trace in all; the default) or turn (one per turn).")
    ] = "",
    content: Annotated[bool, typer.Option("--content", help="Of a trace: also the words that were said.")] = False,
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
    """Make a projection anew from logs and archive, also beside a service. Exit code 5: a log cannot be read."""
    _run("projections", "rebuild", name)


OlderThan = Annotated[str, typer.Option("--older-than", help="How long ago they ended: 90d, 12h, 30m.", metavar="AGE")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@app.command()
def archive(older_than: OlderThan = "1d", dry_run: DryRun = False) -> None:
    """Let Redis forget sessions that ended and are archived in SQL, whole and on disk. Exit code 5: some were left."""
    _run("archive", older_than, dry_run=dry_run)


@app.command()
def purge(
    session_ids: Annotated[list[str], typer.Argument(help="Only these sessions.", metavar="[SESSION]...")] = [],  # noqa: B006
    older_than: Annotated[
        str, typer.Option("--older-than", help="All that are over since so long ago: 90d, 12h.", metavar="AGE")
    ] = "",
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget sessions that ended, or that Redis lost before their end, for good. Exit code 5: something was left."""
    _run("purge", session_ids, older_than, is_dry=dry_run, is_confirmed=yes)


@app.command()
def diff(one: Source, other: Annotated[str, typer.Argument(help="The other.", metavar="OTHER")]) -> None:
    """Compare two conversations. Exit code 1: other decisions, words or tool calls; times alone do not count."""
    _run("diff", one, other)


@app.command()
def verify(
    sources: Annotated[list[str], typer.Argument(help="Recordings or folders to check.", metavar="SOURCE")],
) -> None:
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


@safe_output
def _run(command: str, *arguments: object, **options: object) -> None:
    try:
        code = importlib.import_module(f"cli.{command}").run(*arguments, **options)
        sys.stdout.flush()  # a write error must appear here, not while Python exits
    except Exception as error:  # noqa: BLE001 - each has an exit code
        code = exit_code_of(error)
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the installed command."""
    prepare_signals()
    app()
