"""What a running proxy has done so far, read through its console."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from hyperdrive_client.bindings import Origin
from hyperdrive_client.client.console import console

_STATUS = "cache."


@dataclass(frozen=True, slots=True)
class ProxyStats:
    """What a proxy has done since it began, and what it has now. Times are in seconds.

    To see what something costs, take the difference of two. Transactions that are under way are
    not in ``links``, ``link_seconds`` and ``pinned_seconds`` yet.
    """

    origin_round_trips: int
    """How often something went to the origin, and a client waited until it came back. A
    transaction's ``BEGIN`` goes along with its first statement and is none of its own; connecting
    is none; neither is what is answered without the origin."""
    background_round_trips: int
    """The same where no client waited: the end of a transaction that only read, the look at what a
    transaction has left in the session, cleaning."""
    origin_connections: int
    """Connections to the origin now, in any state."""
    origin_connections_at_work: int
    """Those that are being opened or closed, or owe an answer, to a client or to the proxy."""
    origin_connections_opened: int
    """How many became ready so far."""
    clients: int
    """Clients that are logged in now."""
    clients_connected: int
    """How many logged in so far."""
    waiting: int
    """Clients that wait for an origin connection now."""
    waits: int
    """How often a client had to wait for an origin connection, or for other transactions' ends."""
    wait_seconds: float
    """How long all of them together."""
    replays: int
    """How often a session's settings had to be put in force on its origin connection; each is one
    of the round trips."""
    links: int
    """How often an origin connection was lent: for a transaction, or as long as a pin lasted."""
    link_seconds: float
    """How long in all."""
    pinned_seconds: float
    """How long of that because of a pin."""
    pins: Mapping[str, int]
    """How often a session was pinned to an origin connection, by reason."""
    cache: Mapping[str, int]
    """How statements fared with the cache, by status: ``hit``, ``miss`` and the others."""
    cache_entries: int
    """Answers that the cache holds now."""
    cache_bytes: int
    """How many bytes those take."""


def stats_of(door: Origin) -> ProxyStats:
    """Ask the proxy whose clients log in by ``door``. Raises ``psycopg.OperationalError``."""
    with console(door) as connection:
        values: dict[str, str] = dict(connection.execute("SHOW STATS").fetchall())
        pins = {reason: int(times) for reason, _, times in connection.execute("SHOW PINS")}
    numbers = {
        each.name: (int if each.type == "int" else float)(values[each.name])
        for each in fields(ProxyStats)
        if each.type in ("int", "float")
    }
    statuses = {
        name.removeprefix(_STATUS): int(times)
        for name, times in values.items()
        if name.startswith(_STATUS)
    }
    return ProxyStats(**numbers, pins=pins, cache=statuses)  # type: ignore[arg-type]
