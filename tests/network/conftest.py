"""The three namespaces, for the tests of a module, and the settings of a service that others can reach."""

from collections.abc import Iterator

import pytest

from orchestrator.gateway.access.development import FILE, ISSUER, development_key
from tests.cli.service import QUIET
from tests.network.namespaces import Network, why_not


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if reason := why_not():
        pytest.skip(reason)
    with Network() as made:
        yield made


@pytest.fixture(scope="module")
def reachable(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of a service with keys, beyond loopback."""
    folder = tmp_path_factory.mktemp("keys")
    development_key(folder)
    return QUIET | {
        "ORCH_AUTH_KEYS": str(folder / FILE),
        "ORCH_AUTH_ISSUER": ISSUER,
        "ORCH_ICE_HOST_ADDRESSES": "",
    }
