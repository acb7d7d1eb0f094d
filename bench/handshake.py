"""Measures the processor time of checking a token: what authentication adds to the opening of a conversation.

Each kind of key signs tokens of its own; good ones and forged ones are checked, with resume tokens and cookies beside
them. The bound of a check is 1 ms. Run: `uv run python -m bench.handshake [--tokens 2000]`
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from jwt import PyJWK

from orchestrator.gateway.access.keys import FixedKeys
from orchestrator.gateway.access.own_tokens import OwnTokens
from orchestrator.gateway.access.refusal import AccessRefused
from orchestrator.gateway.access.tokens import Tokens
from orchestrator.grant import Grant
from tests.gateway.test_tokens import AUDIENCE, ISSUER, KEYS, tampered, token

BOUND_MS = 1.0
GRANT = Grant(subject="anna", may=frozenset({"voice", "text"}), seconds=600)


async def cost_ms(check: Callable[[str], Awaitable[object]], tokens: list[str]) -> tuple[float, float]:
    """Processor time of one check in milliseconds: mean, and standard error over blocks of a tenth."""
    blocks = []
    for first in range(0, len(tokens), max(1, len(tokens) // 10)):
        block = tokens[first : first + max(1, len(tokens) // 10)]
        began = time.process_time()
        for one in block:
            with suppress(AccessRefused):
                await check(one)
        blocks.append((time.process_time() - began) / len(block) * 1000)
    return statistics.mean(blocks), statistics.stdev(blocks) / len(blocks) ** 0.5


async def measure(count: int) -> bool:
    """Print a row for each kind; whether all are below the bound."""
    known = {key["kid"]: PyJWK(key) for key in KEYS}
    checks, own = Tokens(FixedKeys(known), issuer=ISSUER, audience=AUDIENCE), OwnTokens(lambda: b"k" * 32)

    async def resume(shown: str) -> object:
        return own.read_resume(shown)

    rows: dict[str, tuple[Callable[[str], Awaitable[object]], list[str]]] = {}
    for kid, key in known.items():
        good = [token(kid) for _ in range(count)]
        rows[key.algorithm_name] = checks.read, good
        rows[f"{key.algorithm_name}, changed"] = checks.read, [tampered(one) for one in good]
    rows["a resume token"] = resume, [own.resume("auto_session_1", number, GRANT) for number in range(count)]
    within = True
    print(f"{'token':<20} {'ms':>8} {'±':>8}")
    for name, (check, tokens) in rows.items():
        mean, error = await cost_ms(check, tokens)
        within &= mean + 2 * error < BOUND_MS
        print(f"{name:<20} {mean:8.3f} {2 * error:8.3f}")
    return within


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--tokens", type=int, default=2_000)
    sys.exit(0 if asyncio.run(measure(arguments.parse_args().tokens)) else 1)
