"""Holds the recordings against the phase diagram: every edge that the core can take is taken by one of them."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from events.codec import INPUTS
from events.envelope import Input, Result
from events.recording import parse
from fixtures.failures.edges_page import FIXTURES, PAGE, Edge, edges_by_recording, edges_taken, page
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.commands import ANSWERS
from orchestrator.session.fsm import edges
from orchestrator.session.policy import Policy
from orchestrator.session.reducer import reduce
from orchestrator.session.state import Findings, State

CONNECTIONS = {"CLIENT_DISCONNECTED", "HANDLER_ATTACHED", "HANDLER_DETACHED"}
HEARING = {"HEARING_FAILED"}
RECOVERY = {"SESSION_RESUMED", "TTS_COMPLETE"}
TOOLS = {"MODEL_RESPONDED", "TOOL_CALLED", "TOOL_RETURNED"}
"""They lead nowhere by themselves."""
SPEECH = {"SPEECH_STARTED", "SPEECH_STOPPED", "STT_PARTIAL"}
POLICIES: list[tuple[dict[str, Any], set[str]]] = [
    (
        {"filler": {"delay_ms": 0, "text": "One moment."}, "interruption": {"min_speech_ms": 0}},
        {"HANDLER_ATTACHED", "HANDLER_DETACHED"},
    ),
    ({"filler": {"text": "One moment."}, "interruption": {"min_speech_ms": 1}}, CONNECTIONS | RECOVERY),
    ({"interruption": {"min_speech_ms": 0, "min_words": 1}}, CONNECTIONS | RECOVERY),
    ({"away": {"prompts": 1, "text": "Are you there?"}}, {"CLIENT_DISCONNECTED"} | RECOVERY | SPEECH),
    ({"greeting": {"text": "Welcome."}}, {"CLIENT_DISCONNECTED"} | RECOVERY | SPEECH),
    ({"goodbye": {"after_ms": 60_000}}, CONNECTIONS | RECOVERY | SPEECH),
    ({"goodbye": {"intent": "greeting"}}, CONNECTIONS | RECOVERY | SPEECH),
    ({"fallback": {"failures": 1}}, CONNECTIONS | RECOVERY | SPEECH),
    ({"speculation": {"tries": 1}}, CONNECTIONS | RECOVERY),
]
"""Together they allow every decision; each without the inputs that lead to nothing new under it, or the states would be
millions.
"""
PAYLOADS: dict[str, dict[str, Any]] = {
    "CLIENT_CONNECTED": {"client_id": "browser"},
    "CLIENT_DISCONNECTED": {"client_id": "browser"},
    "HANDLER_ATTACHED": {"handler_id": "fastrtc"},
    "HANDLER_DETACHED": {"handler_id": "fastrtc"},
    "HEARING_FAILED": {"error": "broke", "is_utterance_lost": True},
    "PROVIDER_SWITCHED": {"provider": "second", "service": "answer"},
    "STT_PARTIAL": {"text": "hel"},
    "STT_FINAL": {"text": "hello"},
    "ANSWER_TEXT": {"index": 0, "text": "Hi. "},
    "INTENT_RESOLVED": {"intent": "greeting"},
    "RAG_ANSWERED": {"answer": "Hi!"},
    "SERVICE_FAILED": {"error": "503"},
    "TTS_CHUNK_READY": {"duration_ms": 200, "index": 0},
    "TTS_COMPLETE": {"chunks": 1, "duration_ms": 200},
    "PLAYBACK_PROGRESS": {"position_ms": 100},
    "PLAYBACK_DONE": {"confirmed_by": "client"},
    "SESSION_RESUMED": {"reducer_version": REDUCER_VERSION},
}


def test_the_page_tells_the_edges_of_the_recordings() -> None:
    """docs/edges.md is what the recordings give."""
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m fixtures.failures.write"


def test_every_edge_the_core_can_take_is_in_a_recording() -> None:
    """All inputs in all states, up to what makes a difference to an edge: no arrow without an example."""
    assert set().union(*edges_by_recording().values()) == reachable_edges()


def test_the_trigger_is_an_event_or_a_timer() -> None:
    """A barge-in in short: words wait for the timer, which leads over two edges."""
    file = FIXTURES / "failures" / "words_lost_in_the_interruption.jsonl"
    assert edges_taken(parse(file.read_bytes(), file.name).events()) == {
        Edge("NEW", "SESSION_OPENED", "IDLE"),
        Edge("IDLE", "CLIENT_CONNECTED", "LISTENING"),
        Edge("LISTENING", "STT_FINAL", "THINKING"),
        Edge("THINKING", "RAG_ANSWERED", "SPEAKING"),
        Edge("SPEAKING", "STT_FINAL", "INTERRUPT"),
        Edge("INTERRUPT", "interrupt_pause", "LISTENING"),
        Edge("LISTENING", "interrupt_pause", "THINKING"),
        Edge("SPEAKING", "PLAYBACK_DONE", "LISTENING"),
    }


def test_sessions_of_one_recording_do_not_mix_their_triggers() -> None:
    """Taken one by one, the sessions of a recording take the edges of the whole."""
    file = FIXTURES / "session_isolation.jsonl"
    events = [*parse(file.read_bytes(), file.name).events()]
    apart = [edges_taken(e for e in events if e.session_id == f"auto_session_{name}") for name in "AB"]
    assert set().union(*apart) == edges_taken(events)


def test_every_edge_of_the_diagram_can_be_taken() -> None:
    """What the table says where decisions lead is no more than what they do."""
    drawn = {Edge(before, trigger.removeprefix("timer "), after) for before, trigger, after in edges()}
    assert drawn == reachable_edges()


@cache
def reachable_edges() -> frozenset[Edge]:
    """All that the core can take, under one policy or another."""
    deaf = _reachable_edges({}, CONNECTIONS | RECOVERY | {"STT_PARTIAL"})
    return frozenset(deaf).union(*(_reachable_edges(policy, without | HEARING) for policy, without in POLICIES))


def _reachable_edges(policy: dict[str, Any], without: set[str]) -> set[Edge]:
    """The edges of every state that any input leads to, one state for all that no edge can tell apart."""
    opened = {"SESSION_OPENED": {"policy": Policy.model_validate(policy).recorded()}}
    found: set[Edge] = set()
    seen = {_essence(State())}
    states = [State()]
    while states:
        state = states.pop()
        for event in _inputs(state, PAYLOADS | opened, without):
            step = reduce(state, event)
            found |= edges_taken(step.events)
            if (essence := _essence(step.state)) not in seen:
                seen.add(essence)
                states.append(step.state)
    return found


def _inputs(state: State, payloads: dict[str, dict[str, Any]], without: set[str]) -> Iterator[Input]:
    """Everything that can happen in a state: each event by itself, each result of each outstanding command."""
    stamped = {"at_us": state.at_us + 1_000, "incarnation": f"after {state.epoch}", "session_id": "s"}
    for name, kind in INPUTS.items():
        if name in without | TOOLS:
            continue
        payload = stamped | payloads.get(name, {})
        if not issubclass(kind, Result):
            yield kind(**payload)
            if "text" in payload:
                yield kind(**payload | {"text": ""})
            continue
        for command in state.pending.values():
            if command.name in ANSWERS[kind]:
                about = {kind.about: command.target} if kind.about else {}
                yield kind(**payload, **about, command_id=command.command_id)


def _essence(state: State) -> tuple[object, ...]:
    """What decides which edges a state has: phase, outstanding work, the join, the user's words, who is connected,
    what has been counted.
    """
    task, playback, guess = state.task, state.playback, state.speculation
    return (
        state.phase,
        frozenset((command.name, re.sub(r"\d+", "", command.target)) for command in state.pending.values()),
        task is not None and (*_found(task.found), task.is_processed),
        (state.held_text != "", state.partial_text != "", state.user_is_speaking),
        (state.client_id != "", state.handler_id != ""),
        playback is not None and (playback.ends, playback.is_paused, playback.is_open),
        guess is not None and _found(guess.found),
        (state.away_prompts > 0, state.limits > 0, state.hearing_failures > 0),
    )


def _found(found: Findings) -> tuple[bool, bool, bool]:
    return found.intent is None, found.answer is None, bool(found.texts)
