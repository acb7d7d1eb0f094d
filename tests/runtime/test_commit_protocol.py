"""The commit protocol, model-checked: with all its rules nothing goes wrong, and without any one of them
something does. `COMMIT_MODEL=deep pytest tests/runtime/test_commit_protocol.py` looks further (a minute or two).
"""

import ast
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise, product
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

import orchestrator.runtime
from orchestrator.runtime.redis.connection import evalsha, load_scripts
from orchestrator.runtime.redis.keys import Keys
from tests.runtime import protocol_model as model
from tests.runtime.protocol_model import Rules
from tests.runtime.protocol_search import search
from tests.runtime.protocol_steps import Scenario

NETWORK = ("append", "cut", "refused")
ALL = (*NETWORK, "crash", "pause", "stop", "tail")
SOUND = {
    "one fault of any kind": Scenario(ALL, budget=1),
    "two faults, but for lost writes": Scenario(ALL[:-1], questions=1),
    "two faults, nobody is paused": Scenario((*NETWORK, "crash")),
    "a lost connection and lost writes": Scenario(("cut", "tail"), questions=1),
    "an operator sets one session back": Scenario(("set back",), ends_well=False),
    "the clock of Redis is set": Scenario(("clock", "clock", "crash", "cut"), questions=1),
    "no numbers": Scenario(("append",), questions=1, unnumbered=True),
    "trimming": Scenario(("tail",), questions=1, trims=True),
}
if os.environ.get("COMMIT_MODEL") == "deep":
    SOUND |= {
        "deep: two faults of any kind": Scenario(ALL, questions=1),
        "deep: paused twice": Scenario(("pause", "pause", "crash", "cut"), questions=1),
        "deep: lost writes twice": Scenario(("tail", "tail", "cut"), questions=1),
        "deep: three faults": Scenario((*NETWORK, "crash", "crash"), budget=3, questions=1),
    }


@pytest.mark.parametrize("scenario", SOUND.values(), ids=SOUND)
def test_with_all_rules_nothing_goes_wrong_in_any_order_of_events(scenario: Scenario) -> None:
    """Nothing accepted is lost or handled twice, order and versions hold, effects belong to committed steps, a stale
    owner changes nothing, and from everywhere there is a way to the end.
    """
    found = search(scenario, Rules())
    assert not found.violation, str(found)


TWICE = "an input is handled twice"
LOST = "an accepted input is lost"
NEVER_PERFORMED = "a committed command is never performed"
SAME_WORK = "one node does the same work twice at once"
WITHOUT = {
    "owner_token": (Scenario(("pause",), budget=1), model.STALE),
    "unique_token": (Scenario(("tail",), budget=1), model.STALE),
    "chained_cursor": (Scenario(("append", "refused")), LOST),
    "known_version": (Scenario(("set back",), ends_well=False), "the versions of a log have a gap"),
    "one_script": (Scenario(("crash",), budget=1), LOST),
    "perform_after_commit": (Scenario(()), model.UNCOMMITTED),
    "keep_steps": (Scenario(("cut",), budget=1), NEVER_PERFORMED),
    "read_back": (Scenario(("tail",), budget=1), model.UNCOMMITTED),
    "refusal_is_unclear": (Scenario(("cut",), budget=1), NEVER_PERFORMED),
    "no_silent_retry": (Scenario(("append",), unnumbered=True), TWICE),
    "run_id": (Scenario(("tail",), budget=1), NEVER_PERFORMED),
    "wait_for_effects": (Scenario(("pause",), budget=1, questions=1), SAME_WORK),
    "release_own": (Scenario(("pause",), budget=1), model.STALE),
    "release_token": (Scenario(("stop",), budget=1), model.STALE),
    "tell_sessions": (Scenario(("crash",), budget=1), NEVER_PERFORMED),
    "stop_and_wait": (Scenario(("append",), budget=1), LOST),
    "high_water_mark": (Scenario(("append",), budget=1), TWICE),
    "incarnation_in_id": (Scenario(("tail",), budget=1), "the answer to another question is accepted"),
    "own_not_again": (Scenario(("crash",), budget=1), SAME_WORK),
    "new_id_again": (Scenario(("pause",), budget=1), "one command has two results"),
    "bounded_lease": (Scenario(("clock", "crash"), questions=1), "an input is never read"),
    "trim_at_cursor": (Scenario(("tail",), budget=1, questions=1, trims=True), LOST),
}
TRIMMERS = {"commit.lua", "pass.lua", "trim.lua"}
"""The only places where anything is trimmed: behind the cursor that they write or, for a purge, read in the script."""


@pytest.mark.parametrize("rule", WITHOUT)
def test_without_a_rule_what_it_prevents_happens(rule: str) -> None:
    """Taken away alone, each rule lets one thing through, in a scenario that is part of a sound one above."""
    scenario, violation = WITHOUT[rule]
    assert search(scenario, replace(Rules(), **{rule: False})).violation == violation


def test_every_rule_is_taken_away_once() -> None:
    """A new rule comes with the violation that it prevents."""
    assert set(WITHOUT) == {rule.name for rule in fields(Rules)}


def docstrings() -> dict[str, str]:
    """What the model says about each rule."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(Rules)).body if isinstance(node, ast.ClassDef))
    return {
        rule.target.id: said.value.value
        for rule, said in pairwise(body)
        if isinstance(rule, ast.AnnAssign)
        and isinstance(rule.target, ast.Name)
        and isinstance(said, ast.Expr)
        and isinstance(said.value, ast.Constant)
        and isinstance(said.value.value, str)
    }


def resolve(name: str) -> Any:
    """`redis/lua/x.lua`, or module.Class.method in orchestrator/runtime; session.… is in orchestrator/session."""
    if name.endswith(".lua"):
        return (Path(orchestrator.runtime.__path__[0]) / name).read_text()
    home, found, path = name.split(".")[0], orchestrator, name.split(".")
    if home != "session":
        path = ["runtime", *path]
    for part in path:
        if isinstance(found, ModuleType) and not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("rule", [rule.name for rule in fields(Rules)])
def test_every_rule_names_the_code_that_implements_it(rule: str) -> None:
    """What a rule's docstring names exists."""
    _, _, code = docstrings()[rule].partition("Code:")
    names = re.findall(r"[\w/]+(?:\.\w+)+", code)
    assert names
    assert all(resolve(name) for name in names)


def test_nothing_is_trimmed_but_by_the_scripts_that_know_the_cursor() -> None:
    """Trimming anywhere else could delete what a Redis that lost its tail has not handled."""
    home = Path(orchestrator.runtime.__path__[0])
    sources = {path.name: path.read_text() for kind in ("*.py", "*.lua") for path in home.rglob(kind)}
    found = {name for name, source in sources.items() if re.search(r"xtrim|xdel\b|minid", source, re.IGNORECASE)}
    assert found == TRIMMERS


def moves() -> Iterator[model.Move]:
    """Calls of commit.lua and pass.lua that are right or wrong in each respect, on a log that ends at version 2."""
    answered = model.Input("resumed", 1)
    for token, cursor in product((1, 7), (1, 7)):
        yield model.Move(1, token, cursor, 2)
        for version, after in ((2, 3), (1, 3), (3, 4), (1, 2), (2, 4)):
            yield model.Move(1, token, cursor, 2, version, model.Record(after, answered))


@pytest.mark.parametrize("move", list(moves()))
async def test_the_scripts_do_what_the_model_says(redis_url: str, move: model.Move) -> None:
    """Same reply, same cursor, same log, for every combination of what can be right or wrong."""
    keys, session_id = Keys(shards=1, prefix=f"model-{uuid4().hex[:8]}"), "auto_session_1"
    before = (model.Record(2, model.Input("resumed", 1)),)
    reply, after = model.carry_out(Rules(), model.Redis(cursor=1, owner=1, log=before), move)
    async with Redis.from_url(redis_url) as redis:
        await load_scripts(redis)
        await redis.hset(keys.shard(0), mapping={"owner": "1", "cursor": "1-0"})
        await redis.hset(keys.state(session_id), mapping={"version": "2"})
        await redis.xadd(keys.log(session_id), {"e": "{}"}, id="0-2")
        head = [str(move.token), f"{move.cursor}-0", f"{move.next_cursor}-0"]
        if move.record is None:
            call = evalsha("pass", [keys.shard(0), keys.unroutable(0), keys.inbox(0)], [*head, "", "", ""])
        else:
            shard = [keys.sessions(0), keys.feed(0), keys.inbox(0), keys.positions(0)]
            named = [keys.shard(0), keys.log(session_id), keys.state(session_id), *shard]
            said = [*head, move.version, move.record.version, "{}", session_id, "hash", "", ""]
            call = evalsha("commit", named, said)
        assert await redis.execute_command(*call) == reply.encode()  # type: ignore[no-untyped-call]
        assert await redis.hget(keys.shard(0), "cursor") == f"{after.cursor}-0".encode()
        assert [entry for entry, _ in await redis.xrange(keys.log(session_id))] == [
            f"0-{record.version}".encode() for record in after.log
        ]
