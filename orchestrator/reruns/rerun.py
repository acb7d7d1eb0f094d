"""Reruns a recording with the agent and the policy of today: `rerun()`."""

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from events.envelope import Event
from events.recording import Recording, parse
from orchestrator.policy_file import read_policy
from orchestrator.replay.asking import LATE_MS
from orchestrator.replay.change import Change
from orchestrator.replay.replay import replay
from orchestrator.replay.rerun_report import Judge, Rerun
from orchestrator.replay.what_if import what_if
from orchestrator.reruns.agent import RunningAgent
from orchestrator.session.policy import Policy


def rerun(
    recording: str | Path | Recording | Iterable[Event],
    agent: object,
    *,
    policy: Policy | str | Path | None = None,
    judge: Judge | None = None,
    late_ms: int = LATE_MS,
    ask_model: bool = False,
    run_tools: bool = False,
) -> Rerun:
    """Lead a recorded conversation again: the user's words, interruptions and silences as recorded, the answers by
    `agent`, which is anything that `Orchestrator(answer=…)` takes. `policy` is a policy or its file; without one, the
    recorded policy is in force.

        def agent(text: str) -> str:
            return "We are open from nine to six."

        def test_opening_hours() -> None:
            call = rerun("tests/recordings/opening_hours.jsonl", agent)
            call.check()

    Time is virtual: nothing is spoken. An answer comes when it came in the recording, unless the
    agent takes `late_ms` longer. `judge(recorded, today)` says whether other words are as good.

    Calls by `request.once`, and the tools of a pydantic-ai agent, get their recorded results; a call that the recording
    lacks fails, and is a finding. A model is asked only where its request differs from the recorded one, or with
    `ask_model`. `run_tools` runs the tools, too: they act in the world.

    Raises BadRecordingError, OSError, UnsoundLogError, PolicyFileError, TypeError and ServiceError for a thing that
    cannot answer.
    """
    name, events = _log_of(recording)
    rules = read_policy(Path(policy)) if isinstance(policy, str | Path) else policy

    def run() -> Rerun:
        with RunningAgent(agent, late_ms=late_ms, asks_model=ask_model, runs_tools=run_tools) as running:
            return rerun_log(name, events, running, policy=rules, judge=judge, late_ms=late_ms)

    if not _is_in_a_loop():
        return run()
    with ThreadPoolExecutor(1) as thread:  # called by a coroutine, such as a test's: the agent has a loop of its own
        return thread.submit(run).result()


def rerun_log(
    name: str, log: list[Event], agent: RunningAgent, *, policy: Policy | None, judge: Judge | None, late_ms: int
) -> Rerun:
    """Rerun one log with an agent that is running already."""
    agent.forget()
    found = what_if(log, Change(policy=policy), agent)
    return Rerun(name, log, found.events, found.results, found.simulated, late_ms, judge)


def events_of(recording: Recording) -> list[Event]:
    """The recorded events. A recording of inputs alone is replayed first."""
    return [*recording.events()] if recording.header.derived else replay(recording).events


def _log_of(recording: str | Path | Recording | Iterable[Event]) -> tuple[str, list[Event]]:
    if isinstance(recording, str | Path):
        recording = parse(Path(recording).read_bytes(), str(recording))
    if isinstance(recording, Recording):
        return recording.name, events_of(recording)
    return "the log", [*recording]


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
