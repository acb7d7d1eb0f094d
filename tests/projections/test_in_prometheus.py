"""In a real Prometheus that scrapes a real service, each panel of the dashboards shows something, each alert works."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from deploy.dashboards import BOARDS
from orchestrator import Orchestrator, Settings
from projections.span import trace_id
from tests.gateway.talker import Talker
from tests.projections.prometheus_server import Prometheus, prometheus
from tests.projections.test_spans import FILES, events_in
from tests.runtime.support import PATIENCE_S

QUERIES = {
    f"{panel.title}: {legend}": query.replace("$__rate_interval", "1m")
    for _, panels in BOARDS.values()
    for panel in panels
    for legend, query in panel.queries.items()
}

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus: apt-get install prometheus")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Orchestrator]:
    async with Orchestrator(Settings(port=0, data_dir=tmp_path, recognizer="domain", voice="espeak")) as service:
        yield service


@pytest.fixture
async def scraped(service: Orchestrator, tmp_path: Path) -> AsyncIterator[Prometheus]:
    """By now it has seen the service before anything happened there."""
    async with prometheus(service.url.removeprefix("http://"), tmp_path) as server:
        await comes(lambda: server.values("orch_shard_owned > 0"))
        yield server


async def comes(what: Callable[[], Awaitable[list[float]]]) -> list[float]:
    """The first answer that is not empty: Prometheus looks when it looks."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await what()):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.1)
    return found


async def talk(service: Orchestrator) -> str:
    """A turn in text; the session's id."""
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{service.url}/orchestrate") as connection:
        talker = Talker(connection)
        session = await talker.listening()
        await talker.say("text", text="when are you open")
        await talker.until("phase", phase="LISTENING")
        await talker.say("goodbye")
        await talker.closed()
    return str(session["session_id"])


def happens(service: Orchestrator, time: str) -> None:
    """All that is recorded in fixtures/, calls by voice and failures of each kind, as if it were said here."""
    for number, file in enumerate(FILES):
        for event in events_in(file):
            service._telemetry.note(event.model_copy(update={"session_id": f"{event.session_id}_{number}_{time}"}))


async def test_every_panel_shows_something(service: Orchestrator, scraped: Prometheus) -> None:
    """Of typed turns here and of all recordings; and the parts of a turn add up, though not every turn has each.

    A series with a tool's name begins with the tool's first call, which `rate` does not see: so all happens twice.
    """
    await talk(service)
    happens(service, "first")
    await comes(lambda: scraped.values("orch_tool_duration_seconds_count"))
    happens(service, "again")
    missing = set(QUERIES)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while missing:
                missing = {name for name in missing if not await scraped.values(QUERIES[name])}
    except TimeoutError:
        pytest.fail(f"nothing is shown of {sorted(missing)}")
    parts = QUERIES["Where the time goes (mean): {{stage}}"]
    latency = "orch_turn_response_latency_seconds"
    mean = f"sum (rate({latency}_sum[1m])) / sum (rate({latency}_count[1m]))"
    (whole,) = await comes(lambda: scraped.values(mean))
    (summed,) = await comes(lambda: scraped.values(f"sum ({parts})"))
    assert summed == pytest.approx(whole, rel=0.01)


async def test_a_call_leads_to_its_trace_and_raises_no_alert(service: Orchestrator, scraped: Prometheus) -> None:
    """The example (exemplar) of a turn's latency names the trace; all rules can be evaluated over what is shown."""
    session_id = await talk(service)

    async def example() -> list[float]:
        asked = {"query": "orch_turn_response_latency_seconds_bucket", "start": "0", "end": "9999999999"}
        for series in await scraped.ask("query_exemplars", **asked):
            for one in series["exemplars"]:
                if one["labels"]["trace_id"] == f"{trace_id(session_id):032x}":
                    return [float(one["value"])]
        return []

    assert await comes(example)

    async def evaluated() -> list[float]:
        (group,) = (await scraped.ask("rules"))["groups"]
        rules = group["rules"]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}, [rule.get("lastError") for rule in rules]
        assert {rule["state"] for rule in rules if rule["health"] == "ok"} <= {"inactive"}
        return [1.0] if all(rule["health"] == "ok" for rule in rules) else []

    assert await comes(evaluated)
