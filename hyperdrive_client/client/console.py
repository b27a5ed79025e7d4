"""A running proxy's console: a virtual database that the proxy answers from itself."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg

from hyperdrive_client.bindings import Origin
from hyperdrive_client.errors import ConfigurationError

_CONSOLE = "hyperdrive.console"
# A proxy answers at once, unless its process is stopped.
_CONNECT_TIMEOUT = 5


def console(door: Origin) -> psycopg.Connection:
    """Connect to the console of the proxy whose clients log in by ``door``.

    Raises ``psycopg.OperationalError``.
    """
    # Whatever the environment asks of a database.
    parameters = {
        "hostaddr": "",
        "gssencmode": "disable",
        "channel_binding": "disable",
        "target_session_attrs": "any",
        "connect_timeout": str(_CONNECT_TIMEOUT),
        **door.libpq_parameters(),
        "dbname": _CONSOLE,
    }
    return psycopg.connect("", autocommit=True, **parameters)  # type: ignore[arg-type]


def purge(door: Origin, tables: Iterable[str] = ()) -> int:
    """Have a proxy forget the answers that depend on ``tables``, or all; how many those were.

    ``tables``: ``schema.name``, exactly as in the catalogue. Raises ``ConfigurationError`` for a
    table that is not there, or if none is known, and ``psycopg.OperationalError``.
    """
    names = ", ".join(tables)
    with console(door) as connection:
        try:
            done = connection.execute(f"PURGE TABLE {names}".encode() if names else b"PURGE")
        except psycopg.ProgrammingError as error:
            raise ConfigurationError(f"nothing is purged: {error}") from None
        return int((done.statusmessage or "").split()[-1])


def reconnect(door: Origin) -> None:
    """Have a proxy end each origin connection as soon as nobody uses it.

    Raises ``psycopg.OperationalError``.
    """
    with console(door) as connection:
        connection.execute("RECONNECT")
