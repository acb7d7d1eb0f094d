"""Twenty recorded conversations of an agent with model and tools: unchanged it is green, planted changes are found."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from events.recording import parse
from orchestrator import Policy, rerun
from orchestrator.replay.replay import replay
from orchestrator.replay.rerun_report import Rerun
from orchestrator.runtime.redis.embedded import EmbeddedRedis
from tests.rerun.shop import Model, Shop, record

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def model() -> Iterator[tuple[Model, str]]:
    """The model, and its address."""
    model = Model()
    with model.serve() as url:
        yield model, url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def calls(tmp_path_factory: pytest.TempPathFactory, model: tuple[Model, str]) -> list[Path]:
    async with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as url:
        return await record(tmp_path_factory.mktemp("calls"), url, Shop(model[1]))


def rerun_all(calls: list[Path], shop: Shop, **how: object) -> dict[str, Rerun]:
    """The recordings with findings, by name."""
    found = {file.stem: rerun(file, shop.answer, **how) for file in calls}  # type: ignore[arg-type]
    return {name: one for name, one in found.items() if one.findings}


def messages(found: Rerun, kind: str) -> list[str]:
    return [finding.message for finding in found.findings if finding.kind == kind]


async def test_an_unchanged_agent_asks_nobody(calls: list[Path], model: tuple[Model, str]) -> None:
    """Neither the model nor a tool; the log is the same. So is its replay."""
    assert len(calls) == 20
    before, shop = model[0].asked, Shop(model[1])
    for file in calls:
        call = rerun(file, shop.answer)
        call.check()
        assert (call.simulated, [event.type for event in call.new]) == (0, [event.type for event in call.old])  # type: ignore[attr-defined]
        assert replay(parse(file.read_bytes(), file.name)).divergence is None
    assert (model[0].asked - before, shop.ran) == (0, [])


async def test_what_the_agent_does_is_there_for_a_test(calls: list[Path], model: tuple[Model, str]) -> None:
    """Its tools in order, with their arguments."""
    (file,) = [file for file in calls if file.stem == "order_twice_plain"]
    call = rerun(file, Shop(model[1]).answer)
    tea, cake = {"thing": "tea"}, {"thing": "cake"}
    orders = [("order", thing | {"pieces": 2}) for thing in (tea, cake)]
    assert call.tools == [("stock", tea), orders[0], ("stock", cake), orders[1]]
    assert '  stock({"thing":"tea"}) → 12\n' in call.transcript


async def test_another_prompt_is_found(calls: list[Path], model: tuple[Model, str]) -> None:
    """Its requests are others, so the model is asked; the tools it wants are in the record."""
    before, shop = model[0].asked, Shop(model[1], prompt="You are polite.")
    found = rerun_all(calls, shop)
    assert len(found) == 20
    assert messages(found["tea_plain"], "words") == ["tea: 12. Anything [-else?-] {+else, dear customer?+}"]
    assert model[0].asked > before
    assert shop.ran == []


async def test_another_argument_of_a_tool_is_found(calls: list[Path], model: tuple[Model, str]) -> None:
    """The record has no result for it: the agent gets an error."""
    found = rerun_all(calls, Shop(model[1], shouts=True))
    assert not {"hello_plain", "hello_no_intent"} & found.keys()
    assert messages(found["tea_plain"], "tools") == [
        'only recorded: stock({"thing":"tea"}) → 12',
        'not in the recording: stock({"thing":"TEA"}) → ✗ the recording has no such call',
    ]


async def test_another_policy_is_found(calls: list[Path], model: tuple[Model, str]) -> None:
    """Only in the calls where it changes a decision."""
    found = rerun_all(calls, Shop(model[1]), policy=Policy.model_validate({"tools": {"calls": 1}}))
    assert {"both_plain", "order_plain"} <= found.keys()
    assert not {"tea_plain", "hello_plain"} & found.keys()
    assert messages(found["both_plain"], "decisions") == ["rejected: more than 1 tool calls for one question: 0 → 1"]


async def test_a_tool_that_fails_is_found(calls: list[Path], model: tuple[Model, str]) -> None:
    """Where the tools are run."""
    shop = Shop(model[1], breaks=True)
    found = rerun_all(calls, shop, run_tools=True)
    assert "hello_plain" not in found
    assert messages(found["tea_plain"], "tools") == [
        'stock({"thing":"tea"}): 12 → ✗ stock raised OSError: the stock is locked'
    ]
    assert shop.ran
    assert rerun_all(calls, Shop(model[1]), run_tools=True) == {}


async def test_a_slower_model_is_found(calls: list[Path], model: tuple[Model, str]) -> None:
    """Where it is asked."""
    model[0].pause_s = 0.5
    try:
        found = rerun_all(calls[:3], Shop(model[1]), ask_model=True)
    finally:
        model[0].pause_s = 0.0
    assert len(found) == 3
    assert {finding.kind for one in found.values() for finding in one.findings} == {"late"}
