"""A server behind a 1:1 NAT with a port range, and callers whose address changes in mid-call."""

import asyncio
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from events.derived import CommandIssued, TurnStarted
from events.inputs import HandlerDetached, PlaybackDone, SessionOpened
from orchestrator.media.opus import rest, silence
from tests.browser.chromium import Chromium, chromium_path
from tests.calls.checks import replayed
from tests.calls.roaming import RoamingCaller
from tests.calls.service import Service
from tests.gateway.test_tls import write_certificate
from tests.media.peer import CallPeer
from tests.media.speech import speak
from tests.network.namespaces import CALLER, MIDDLE, MIDDLE_INSIDE, SERVER, Network, Place

pytestmark = [pytest.mark.calls, pytest.mark.asyncio(loop_scope="module")]

PUBLIC, PORT, FIRST_UDP, LAST_UDP = "203.0.113.7", 8443, 40_000, 40_009
NEXT = "198.51.100.3"
NEXT_OF_NAT = "10.77.0.9"
BACK_S = 3.5
REPEATED_MS = 300
LOUD = 0.02
SILENT_S = 2.0
QUIET = (silence(), rest())
ROUTER = f"""
sysctl -qw net.ipv4.ip_forward=1
iptables -t nat -A PREROUTING -d {PUBLIC} -j DNAT --to-destination {SERVER}
iptables -t nat -A POSTROUTING -o server -j MASQUERADE
iptables -P FORWARD DROP
iptables -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
iptables -A FORWARD -i caller -p tcp --dport {PORT} -j ACCEPT
iptables -A FORWARD -i caller -p udp --dport {FIRST_UDP}:{LAST_UDP} -j ACCEPT
"""


class WatchfulCaller(RoamingCaller):
    """As docs/websocket.md advises: when no audio arrives any more, it comes back and calls again."""

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(0.1)
            peer = self.peer
            if peer.packets and time.monotonic() - peer.packets[-1].at_s > SILENT_S:
                self.breaks()
                while self.peer is peer:  # noqa: ASYNC110 - there is no event
                    await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind_nat(
    network: Network, reachable: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """A service that callers reach at PUBLIC alone; the tests themselves are where the caller is."""
    folder = tmp_path_factory.mktemp("nat")
    write_certificate(folder, 1, PUBLIC)
    settings = {
        "ORCH_HOST": SERVER,
        "ORCH_ADDRESS": f"https://{PUBLIC}:{PORT}",
        "ORCH_PUBLIC_ADDRESS": PUBLIC,
        "ORCH_UDP_PORTS": f"{FIRST_UDP}-{LAST_UDP}",
        "ORCH_TLS_CERT": str(folder / "cert.pem"),
        "ORCH_TLS_KEY": str(folder / "key.pem"),
    }
    for rule in ROUTER.strip().splitlines():
        network.run("middle", rule)
    network.run("caller", f"ip route add {PUBLIC} via {MIDDLE}")
    async with AsyncExitStack() as stack:
        with network.inside("server"):
            service = await stack.enter_async_context(Service(folder / "data", port=PORT, **reachable, **settings))
        service.url = f"https://{PUBLIC}:{PORT}"
        with network.inside("caller"):
            yield service


def changes_its_address(network: Network) -> float:
    """As a telephone that leaves a Wi-Fi: the old address is gone. Returns when (time.monotonic)."""
    changed_s = change(network, "caller", "eth0", {CALLER, NEXT})
    network.run("caller", f"ip route add {PUBLIC} via {MIDDLE}")
    return changed_s


def changes_its_nat(network: Network) -> float:
    """The NAT before the caller forgets its mappings and has another address."""
    return change(network, "middle", "server", {MIDDLE_INSIDE, NEXT_OF_NAT})


def change(network: Network, place: Place, link: str, two: set[str]) -> float:
    """Take the address of a link away, then give it the other one of the two; when it lost the first."""
    (now,) = re.findall(r"inet (\S+)/24", network.run(place, f"ip address show dev {link}"))
    network.run(place, f"ip address del {now}/24 dev {link}")
    changed_s = time.monotonic()
    (other,) = two - {now}
    network.run(place, f"ip address add {other}/24 dev {link}")
    return changed_s


def speech(peer: CallPeer) -> list[float]:
    """When each packet of the agent's speech came: 20 ms of it each."""
    return [packet.at_s for packet in peer.packets if packet.payload not in QUIET]


def on_its_own_address() -> CallPeer:
    """A peer on the addresses that this namespace has now."""
    return CallPeer(())


async def test_an_answer_goes_on_where_it_was_heard_when_its_callers_address_changes(
    network: Network, behind_nat: Service
) -> None:
    """Within three and a half seconds, in the same session; no word is left out, and hardly one said twice."""
    trusted = ssl.create_default_context(cafile=behind_nat.environment["ORCH_TLS_CERT"])
    with pytest.raises(OSError, match="unreachable"):
        socket.create_connection((SERVER, PORT), timeout=2)
    async with WatchfulCaller([behind_nat], trusted=trusted, peers=on_its_own_address) as caller:
        assert all(FIRST_UDP <= port <= LAST_UDP for port in ports_of(caller.peer))
        watching = asyncio.create_task(caller.watch())
        await caller.peer.say(speak("what can you do"))
        await caller.peer.until(lambda: len(speech(caller.peer)) > 75, within_s=20)
        changed_s = changes_its_address(network)
        await caller.hears("phase", phase="LISTENING", reason="playback_done", within_s=30)
        watching.cancel()
        before, after = map(speech, caller.peers)
        _, log = await replayed(behind_nat, caller.session_id)
    assert after[0] - changed_s < BACK_S
    assert len([event for event in log if isinstance(event, SessionOpened)]) == 1
    assert len([event for event in log if isinstance(event, TurnStarted)]) == 1
    (lost,) = [event for event in log if isinstance(event, HandlerDetached)]
    assert lost.unheard_ms > SILENT_S * 1000 - 100
    _, rest = [event for event in log if isinstance(event, CommandIssued) and event.name == "Speak"]
    heard_ms, from_ms = len(before) * 20, int(str(rest.payload["from_ms"]))
    assert heard_ms - REPEATED_MS < from_ms <= heard_ms
    (done,) = [event for event in log if isinstance(event, PlaybackDone)]
    assert done.confirmed_by == "client"
    assert from_ms + len(after) * 20 >= done.position_ms


@pytest.mark.browser
@pytest.mark.skipif(chromium_path() is None, reason="no Chromium on this machine (set ORCH_CHROMIUM, or install it)")
async def test_the_page_is_heard_again_after_each_change(network: Network, behind_nat: Service) -> None:
    """In Chromium, while the agent speaks: the computer gets another address, then the NAT in front of it does."""
    async with Chromium(flags=("--ignore-certificate-errors",)) as page:
        await page.goto(behind_nat.url)
        token = behind_nat.token("operate", "voice", "text")
        await page.evaluate(f"fetch('login', {{method: 'POST', body: new URLSearchParams({{token: '{token}'}})}})")
        await page.goto(behind_nat.url)
        await page.click("#start-call")
        await page.wait_for("orch.call === 'on' && orch.phase === 'LISTENING'")
        session_id = await page.evaluate("orch.session_id")
        for changes in (changes_its_address, changes_its_nat):
            await says(page, "what can you do")
            await page.wait_for(f"orch.phase === 'SPEAKING' && orch.remoteLevel() > {LOUD}")
            changed_s = changes(network)
            await page.evaluate("new Promise((later) => setTimeout(later, 400))")  # its jitter buffer is empty by then
            await page.evaluate("orch.resetMaxRemoteLevel()")
            await page.wait_for(f"orch.call === 'on' && orch.maxRemoteLevel() > {LOUD}")
            assert time.monotonic() - changed_s < BACK_S
            await page.click("#interrupt")
            await page.wait_for("orch.phase === 'LISTENING'")
        assert await page.evaluate("orch.session_id") == session_id


async def says(page: Chromium, words: str) -> None:
    """Type something."""
    await page.click("#typed")
    await page.type_text(words)
    await page.press("Enter", "\r")


def ports_of(peer: CallPeer) -> list[int]:
    """The server's UDP ports in its answer, all at its public address."""
    found = re.findall(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+) typ host", peer.connection.remoteDescription.sdp)
    assert {host for host, _ in found} == {PUBLIC}
    return [int(port) for _, port in found]
