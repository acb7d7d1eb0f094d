"""TLS of the gateway: a certificate from files, read again when they change, so that renewing it needs no restart."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.settings import SettingsError

logger = logging.getLogger(__name__)

LOOK_S = 5.0

Stamp = tuple[tuple[int, int, int], ...]


class CertificateError(SettingsError):
    """A certificate or its key cannot be used; the message says why."""


@asynccontextmanager
async def tls(certificate: Path, key: Path) -> AsyncIterator[ssl.SSLContext]:
    """A context that always has the present certificate. Raises CertificateError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    stamp = _load(context, certificate, key)
    watching = asyncio.create_task(_watch(context, certificate, key, stamp), name="certificate")
    try:
        yield context
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(context: ssl.SSLContext, certificate: Path, key: Path, stamp: Stamp) -> None:
    """Read the files again when they change. Running connections keep their keys; new ones get the new certificate."""
    complained: Stamp = ()
    while True:
        await asyncio.sleep(LOOK_S)
        seen: Stamp = ()
        try:
            seen = _stamp(certificate, key)
            if seen in (stamp, complained):
                continue
            _load(
                ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), certificate, key
            )  # a failure leaves the context as it is
            stamp = _load(context, certificate, key)
            logger.info("the certificate was read again")
        except (CertificateError, OSError) as error:
            complained = seen
            logger.error("the new certificate cannot be used; the one before goes on: %s", error)  # noqa: TRY400


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> Stamp:
    try:
        stamp = _stamp(certificate, key)
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise CertificateError(
            f"{certificate} and {key} are no certificate with its key in PEM: {error.reason or 'unreadable'}"
        ) from None
    except OSError as error:
        raise CertificateError(f"{error.filename or certificate} cannot be read: {error.strerror}") from None
    return stamp


def _stamp(*files: Path) -> Stamp:
    found = [one.stat() for one in files]
    return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)


def _no_password() -> str:
    """A key with a password: without this, OpenSSL would ask for it on the terminal, and the service would hang."""
    return ""
