"""`orch rerun`: leads recorded conversations again with the user's agent. The report goes to standard output."""

import json
from pathlib import Path

from cli.agents import instantiate, load
from cli.sources import expand, whole
from cli.terminal import UsageError, say, words
from events.recording import BadRecordingError
from orchestrator.app import Orchestrator
from orchestrator.policy_file import PolicyFileError, read_policy
from orchestrator.replay import rerun_report
from orchestrator.replay.fold_on import UnsoundLogError
from orchestrator.replay.replay import events_of
from orchestrator.replay.rerun_report import Rerun, report_lines
from orchestrator.reruns.agent import RunningAgent
from orchestrator.reruns.rerun import rerun_log
from orchestrator.reruns.virtual_loop import VirtualLoop
from orchestrator.session.policy import Policy
from orchestrator.settings import Settings


def run(
    *,
    sources: list[str],
    agent: str,
    policy: str,
    late_ms: int,
    as_json: bool,
    quiet: bool,
    ask_model: bool = False,
    run_tools: bool = False,
) -> int:
    """Returns 0: as recorded, 1: something differs, 2: a recording is unreadable. Raises UsageError."""
    files = expand(sources)
    loop = VirtualLoop()
    thing = loop.run_until_complete(instantiate(load(agent), agent))
    rules = _policy(policy, thing.settings if isinstance(thing, Orchestrator) else Settings.from_environment())
    try:
        running = RunningAgent(
            _answering(thing, agent), late_ms=late_ms, asks_model=ask_model, runs_tools=run_tools, loop=loop
        )
    except TypeError as error:
        raise UsageError(f"{agent}: {error}") from None
    found: list[Rerun] = []
    with running:
        for file in files:
            found.append(_rerun(file, running, rules, late_ms))
            if not as_json:
                _print(found[-1], quiet=quiet)
    _sum_up(found, is_json=as_json)
    return rerun_report.worst(found)


def _rerun(source: str, agent: RunningAgent, policy: Policy | None, late_ms: int) -> Rerun:
    try:
        return rerun_log(source, events_of(whole(source)), agent, policy=policy, judge=None, late_ms=late_ms)
    except (BadRecordingError, UnsoundLogError, LookupError, OSError) as error:
        return Rerun(source, error=words(error))


def _answering(thing: object, name: str) -> object:
    """What answers: the agent itself, or the first answer service of an Orchestrator. Raises UsageError."""
    if not isinstance(thing, Orchestrator):
        return thing
    if not thing.own_answers:
        raise UsageError(f"{name} has no answer function of its own; orch rerun asks no service over the network")
    return thing.own_answers[0]


def _policy(file: str, settings: Settings) -> Policy | None:
    """Read the policy of today; None: as recorded, as for `rerun()`. Raises UsageError."""
    if not file:
        if (unused := settings.policy_file) is not None:
            say(f"each recording keeps its own policy; {unused}, the policy of the settings, is in force with --policy")
        return None
    try:
        return read_policy(Path(file))
    except PolicyFileError as error:
        raise UsageError(str(error)) from error


def _print(one: Rerun, *, quiet: bool) -> None:
    if one.error:
        say("\n".join(report_lines(one)))
    elif one.findings or not quiet:
        print(*report_lines(one), sep="\n", flush=True)


def _sum_up(found: list[Rerun], *, is_json: bool) -> None:
    if is_json:
        print(json.dumps(rerun_report.as_json(found), ensure_ascii=False, indent=2))
    elif len(found) > 1:
        print(*rerun_report.table_lines(found), sep="\n")
