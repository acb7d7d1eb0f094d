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
from orchestrator.replay.replay import events_of
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
    """Lead a recorded conversation again: `agent` answers; the user's words, interruptions and silences are as
    recorded. `agent`: anything that `Orchestrator(answer=…)` takes. `policy`: a policy or its file; None: the recorded
    policy.

        def agent(text: str) -> str:
            return "We are open from nine to six."

        def test_opening_hours() -> None:
            call = rerun("tests/recordings/opening_hours.jsonl", agent)
            call.check()

    Time is virtual: nothing is spoken. An answer comes at its recorded time, unless the agent takes more than `late_ms`
    milliseconds longer. `judge(recorded, today)` decides whether other words are as good.

    Calls by `request.once`, and the tools of a pydantic-ai agent, get their recorded results; a call that the recording
    lacks fails, and is a finding. With `run_tools`, the tools run instead: they act in the world. A model is asked only
    if its request differs from the recorded one, or with `ask_model`.

    Raises OSError if the recording cannot be opened, BadRecordingError or UnsoundLogError if it is damaged or of a
    newer orch, and PolicyFileError if the policy file is bad. Raises TypeError if `agent` cannot answer questions, and
    ServiceError if it cannot be opened.
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
