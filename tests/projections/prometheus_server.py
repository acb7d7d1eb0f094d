"""A real Prometheus with the configuration and the rules of deploy/, which scrapes one service of a test's own."""

import asyncio
import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from deploy.write import HERE
from tests.runtime.support import PATIENCE_S

OURS = HERE / "prometheus"
EVERY = "200ms"


class Prometheus:
    """One that runs."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._http = http

    async def ask(self, what: str, **parameters: str) -> Any:
        """What its API answers, e.g. of `query`. An error is one of the test."""
        async with self._http.get(f"{self._url}/api/v1/{what}", params=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def values(self, query: str) -> list[float]:
        """Of each series that a query finds; what is no number is left out, as a graph leaves it out."""
        found = [float(one["value"][1]) for one in (await self.ask("query", query=query))["result"]]
        return [value for value in found if not math.isnan(value)]


@asynccontextmanager
async def prometheus(target: str, folder: Path) -> AsyncIterator[Prometheus]:
    """Scrapes a target (host:port) five times a second."""
    config = yaml.safe_load((OURS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY}
    config["rule_files"] = [str(OURS / name) for name in config["rule_files"]]
    config["scrape_configs"] = [one for one in config["scrape_configs"] if one["job_name"] == "orch"]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        "--web.listen-address=127.0.0.1:0",
        "--enable-feature=exemplar-storage",
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    reading = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            url = await _address(process.stderr)
        reading = asyncio.create_task(process.stderr.read())  # it must not wait for somebody who reads its log
        async with aiohttp.ClientSession() as http:
            yield Prometheus(url, http)
    finally:
        process.terminate()
        await process.wait()
        if reading is not None:
            await reading


async def _address(log: asyncio.StreamReader) -> str:
    """Where it listens, once it answers."""
    said = ""
    async for line in log:
        said += line.decode()
        if "Server is ready" in said and (found := re.search(r"Listening on.*address=(\S+)", said)):
            return f"http://{found[1]}"
    raise AssertionError(f"prometheus has ended:\n{said}")
