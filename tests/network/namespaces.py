"""A caller, a server and a machine between them, each in a network namespace of its own; tests make the routes.

    caller 198.51.100.2 ── 198.51.100.1 middle 10.77.0.1 ── 10.77.0.2 server

The middle forwards nothing until a test says so. Addresses are of this module alone: no test sees another network.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, Self

Place = Literal["caller", "middle", "server"]

CALLER, MIDDLE, MIDDLE_INSIDE, SERVER = "198.51.100.2", "198.51.100.1", "10.77.0.1", "10.77.0.2"
FOLDER = Path("/run/netns")  # of `ip netns`


@cache
def why_not() -> str:
    """Why this machine makes no namespaces, for the reason of a skip; empty: it makes them."""
    if sys.platform != "linux":
        return "network namespaces are of Linux alone"
    name = f"orch{os.getpid()}try"
    try:
        _ip("netns", "add", name)
        _ip("netns", "exec", name, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        _ip("netns", "exec", name, "iptables", "-t", "nat", "-L", "-n")
    except FileNotFoundError as error:
        return f"{error.filename} is missing (Debian: iproute2, iptables)"
    except subprocess.CalledProcessError as error:
        return f"this machine forbids network namespaces: {error.stderr.strip()}"
    finally:
        if (FOLDER / name).exists():
            _ip("netns", "del", name)
    return ""


class Network:
    """Makes the three namespaces and their two links; removes them at the end."""

    def __enter__(self) -> Self:
        self._names = {place: f"orch{os.getpid()}{place}" for place in ("caller", "middle", "server")}
        for name in self._names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        for place, far, near in (("caller", CALLER, MIDDLE), ("server", SERVER, MIDDLE_INSIDE)):
            here, middle = self._names[place], self._names["middle"]
            _ip("link", "add", "eth0", "netns", here, "type", "veth", "peer", "name", place, "netns", middle)
            _ip("-n", here, "address", "add", f"{far}/24", "dev", "eth0")
            _ip("-n", middle, "address", "add", f"{near}/24", "dev", place)
            _ip("-n", here, "link", "set", "eth0", "up")
            _ip("-n", middle, "link", "set", place, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names.values():
            _ip("netns", "del", name)

    def run(self, place: Place, command: str) -> str:
        """Run a command in a namespace; its standard output. Raises CalledProcessError."""
        return _ip("netns", "exec", self._names[place], *command.split())

    @contextmanager
    def inside(self, place: Place) -> Iterator[None]:
        """Sockets and processes that this thread makes meanwhile are in that namespace, and stay there."""
        with Path("/proc/thread-self/ns/net").open() as before, (FOLDER / self._names[place]).open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20).stdout


def _enter(descriptor: int) -> None:
    """As os.setns, which Python has from 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):
        raise OSError(ctypes.get_errno(), "setns")
