"""How often one address may ask: a page, a probe, a new conversation. Who asks more often waits, then is refused.

An IPv6 address counts as its /64, which is what one customer of a provider has.
"""

import asyncio
import ipaddress

from orchestrator.token_bucket import TokenBucket

LONGEST_WAIT_S = 1.5
"""A client that waits longer for an answer has given up, or comes again at the same time."""
MOST_KNOWN = 10_000
"""Addresses that are remembered; some 3 MB."""
HTTP_PER_S, HTTP_BURST = 20.0, 60.0
"""The talk page is eleven requests."""


class Addresses:
    """One kind of request."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._buckets: dict[str, TokenBucket] = {}

    async def may_ask(self, address: str | None) -> bool:
        """Return when this address may ask once more; False: it asks too often."""
        wait_s = self._bucket(_customer(address or "")).reserve(LONGEST_WAIT_S)
        if wait_s:
            await asyncio.sleep(wait_s)
        return wait_s is not None

    def _bucket(self, customer: str) -> TokenBucket:
        if customer not in self._buckets:
            if len(self._buckets) >= MOST_KNOWN:
                self._forget()
            self._buckets[customer] = TokenBucket(self._per_s, self._burst)
        return self._buckets[customer]

    def _forget(self) -> None:
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if not bucket.is_full}
        while len(self._buckets) >= MOST_KNOWN:
            del self._buckets[next(iter(self._buckets))]


def _customer(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a Unix socket has none
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
