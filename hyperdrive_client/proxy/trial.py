"""One connection to an origin, to see whether the proxy can use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..bindings.connection_string import Origin
from ..errors import HyperdriveError
from .core.origin_startup import Credentials
from .net.own_connection import OwnConnectionError, own_connection
from .settings import Settings

TIMEOUT = 15.0
"""Seconds for all of it; Hyperdrive's limit for a connection."""

_UNREACHABLE = "Server connection attempt failed: "


class UnusableOriginError(HyperdriveError):
    """The origin can't be used; ``code`` is Hyperdrive's for that (HYPERDRIVE: error codes)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} (error {code})")
        self.code = code


def try_origin(origin: Origin, announce: Callable[[], None] = lambda: None) -> None:
    """Connect as the proxy would, and send an empty query. ``UnusableOriginError``.

    ``announce`` is called first, when Ctrl-C already ends it in an orderly way.

    Codes: 2008 the host is not found, 2010 it can't be reached, 2011 it refuses connections,
    2012 it has no TLS, 2013 user or password are wrong, 2014 there is no such database, 2015
    anything else, 2016 the query has failed. (Hyperdrive, "Troubleshoot and debug".)
    """
    asyncio.run(_try(origin, min(TIMEOUT, origin.connect_timeout or TIMEOUT), announce))


async def _try(origin: Origin, timeout: float, announce: Callable[[], None]) -> None:
    announce()
    where = " or ".join(f"{each.host}:{each.port}" for each in origin.addresses)
    settings = Settings(origin, user="", password="")
    try:
        async with asyncio.timeout(timeout):
            async with own_connection(settings, Credentials(origin), timeout) as connection:
                try:
                    await connection.results(b";", timeout)
                except OwnConnectionError as error:
                    raise UnusableOriginError(
                        2016, f"{where}: the test query failed: {error}"
                    ) from None
    except OwnConnectionError as error:
        raise _unusable(where, origin, error) from None
    except TimeoutError:
        raise UnusableOriginError(2010, f"{where} has not answered within {timeout:g} s") from None


def _unusable(where: str, origin: Origin, error: OwnConnectionError) -> UnusableOriginError:
    reason = str(error).removeprefix(_UNREACHABLE)
    if reason.startswith("host_not_found"):
        return UnusableOriginError(2008, f"{where}: no host of this name was found")
    if reason.startswith("connection_refused"):
        return UnusableOriginError(
            2011, f"{where} refuses connections: is the database there, and running?"
        )
    if "does not support TLS" in reason:
        return UnusableOriginError(
            2012,
            f"{where} does not support TLS. If that is right, add ?sslmode=disable to the "
            "connection string",
        )
    if str(error).startswith(_UNREACHABLE) and not reason.startswith("tls_failed"):
        return UnusableOriginError(2010, f"{where} can't be reached: {reason}")
    if error.sqlstate.startswith("28"):
        return UnusableOriginError(
            2013, f"{where} does not accept the user or the password: {reason}"
        )
    if error.sqlstate == "3D000":
        return UnusableOriginError(2014, f'{where} has no database "{origin.database}"')
    return UnusableOriginError(2015, f"{where}: {reason}")
