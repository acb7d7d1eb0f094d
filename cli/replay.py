"""`orch replay`: run recordings through today's reducer and compare. The report goes to standard output."""

import json
import sys
from dataclasses import dataclass
from typing import Any

from cli.replay_files import How, replay_sources
from cli.sources import expand
from cli.terminal import UsageError, no_effect, say
from orchestrator.replay import report
from orchestrator.replay.verdict import Verdict, worst


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    sources: list[str]
    keep_going: bool = False
    check: bool = False
    incomplete: str = ""
    until: str = ""
    step: bool = False
    speed: str = ""
    dump_state: bool = False
    as_json: bool = False
    as_jsonl: bool = False
    quiet: bool = False
    jobs: int = 0
    without: tuple[str, ...] = ()
    insert: str = ""
    settings: tuple[str, ...] = ()
    policy: str = ""

    def given(self, flags: dict[str, str]) -> list[str]:
        """The flags among `flags` that the command line has."""
        return [flag for name, flag in flags.items() if getattr(self, name)]


_CHANGES = {"without": "--without", "insert": "--insert", "settings": "--set", "policy": "--policy"}
"""Options that change the replay (what if)."""
_WATCHES = {"until": "--until", "step": "--step", "speed": "--speed", "dump_state": "--dump-state"}
"""Options that look at one recording."""
_REPORTS = {
    "check": "--check",
    "incomplete": "--incomplete",
    "jobs": "--jobs",
    "keep_going": "--keep-going",
    "quiet": "--quiet",
}
_FORMS = {"as_json": "--json", "as_jsonl": "--jsonl"}


def run(**chosen: Any) -> int:
    """Returns the exit code of the worst verdict: 0 equal, 1 diverged, 2 unreadable, 4 an invariant is broken."""
    options = Options(**chosen)
    sources = expand(options.sources)
    if options.incomplete not in ("", "ok"):
        raise UsageError(f"--incomplete {options.incomplete}: the only word is ok")
    changes, watches = options.given(_CHANGES), options.given(_WATCHES)
    forms = options.given(_FORMS)
    in_vain = options.given(_REPORTS) + (watches if changes else forms if watches else [])
    if (changes or watches) and in_vain:
        raise no_effect(in_vain[0], (changes or watches)[0])
    if len(forms) > 1:
        raise no_effect(*forms)
    if changes:
        return _what_if(sources, options)
    if watches:
        return _watch(sources, options)
    return _replay(sources, options)


def _replay(sources: list[str], options: Options) -> int:
    how = How(keep_going=options.keep_going, check=options.check, is_incomplete=options.incomplete == "ok")
    verdicts: list[Verdict] = []
    for verdict in replay_sources(sources, how, options.jobs, shows_progress=not options.quiet):
        verdicts.append(verdict)
        if options.as_jsonl:
            print(json.dumps(report.as_json(verdict), ensure_ascii=False), flush=True)
        elif not options.as_json:
            _print(verdict, quiet=options.quiet)
    if options.as_json:
        document = {"exit_code": worst(verdicts), "recordings": [report.as_json(verdict) for verdict in verdicts]}
        print(json.dumps({"schema": report.SCHEMA} | document, ensure_ascii=False, indent=2))
    if len(sources) > 1 and not (options.quiet or options.as_json or options.as_jsonl):
        print(report.total(verdicts))
    if any(verdict.outcome == "interrupted" for verdict in verdicts):
        say(f"interrupted: {report.total(verdicts)}")
    return worst(verdicts)


def _what_if(sources: list[str], options: Options) -> int:
    """Replay with a change. A different outcome is expected, so it is no failure; an unreadable recording is one."""
    from cli.what_if import run

    return run(
        sources,
        without=options.without,
        insert=options.insert,
        settings=options.settings,
        policy=options.policy,
        as_json=options.as_json,
        as_jsonl=options.as_jsonl,
    )


def _watch(sources: list[str], options: Options) -> int:
    """Replay one recording, step by step, at a speed or up to a point."""
    from cli.watch import walk, watch

    if len(sources) != 1:
        raise UsageError("--until, --step, --speed and --dump-state look at one recording")
    verdict, replayer, steps = watch(sources[0], until=options.until, speed=options.speed, keep_steps=options.step)
    if options.step:
        walk(steps)
    if options.dump_state:
        print(json.dumps(report.states_json(replayer.found), ensure_ascii=False, indent=2))
    for line in (report.line(verdict), *report.details(verdict)):
        say(line)
    return verdict.exit_code


def _print(verdict: Verdict, *, quiet: bool) -> None:
    if verdict.outcome == "unreadable":
        say(report.line(verdict))
    elif not quiet or verdict.exit_code:
        print(report.line(verdict))
        for line in report.details(verdict):
            print(line)
        sys.stdout.flush()
