"""What is shown of a proxy, by ``SHOW hyperdrive.…`` and at the console: values of one moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .read_back import reasons

if TYPE_CHECKING:
    from .core import Core
    from .pool import Pool


class Table(NamedTuple):
    """The names of its columns, and their values row by row."""

    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]


def _sessions(core: Core, pool: Pool) -> Table:
    rows: list[tuple[object, ...]] = [
        (
            client.process_id,
            client.state.value,
            ", ".join(reasons(client.pinned)),
            client.application_name.decode("latin-1"),
        )
        for client in sorted(core.sessions, key=lambda client: client.process_id)
    ]
    return Table(("pid", "state", "pinned_by", "application_name"), rows)


def _pins(core: Core, pool: Pool) -> Table:
    now = Counter(reason for client in core.sessions for reason in reasons(client.pinned))
    times = sorted(core.counters.pins.items())
    return Table(
        ("reason", "sessions", "times"), [(reason, now[reason], count) for reason, count in times]
    )


def _pool(core: Core, pool: Pool) -> Table:
    return _values(
        origin_connection_limit=pool.settings.limits.origin_connection_limit,
        origin_connections=len(pool.origins),
        idle=len(pool.idle),
        clients=sum(client.pool is pool for client in core.sessions),
        waiting=len(pool.waiting),
        link_seconds=core.counters.link_seconds,
        pinned_seconds=core.counters.pinned_seconds,
    )


def _stats(core: Core, pool: Pool) -> Table:
    counters, pools = core.counters, core.pools.values()
    return _values(
        origin_round_trips=counters.round_trips,
        background_round_trips=counters.background_round_trips,
        origin_connections=sum(len(each.origins) for each in pools),
        origin_connections_at_work=sum(
            origin.is_at_work for each in pools for origin in each.origins
        ),
        origin_connections_opened=counters.origin_connects,
        clients=len(core.sessions),
        clients_connected=counters.clients,
        waiting=sum(len(each.waiting) for each in pools),
        waits=counters.waits,
        wait_seconds=counters.wait_seconds,
        replays=counters.replays,
        links=counters.links,
        link_seconds=counters.link_seconds,
        pinned_seconds=counters.pinned_seconds,
        cache_entries=len(core.cache.store),
        cache_bytes=core.cache.store.bytes,
        **{f"cache.{status}": times for status, times in counters.cache.items()},
    )


def _cache(core: Core, pool: Pool) -> Table:
    cache = core.cache
    broken = cache.guard.broken if cache.mode == "wal" else ""
    return _values(
        mode=cache.mode,
        mode_reason=cache.closed or broken,
        entries=len(cache.store),
        bytes=cache.store.bytes,
        memory=cache.settings.memory,
        max_age=float(cache.settings.max_age),
        stale_while_revalidate=float(cache.settings.stale_while_revalidate),
        **core.counters.cache,
    )


def _values(**values: object) -> Table:
    return Table(
        ("name", "value"),
        [
            (name, f"{value:.3f}" if isinstance(value, float) else value)
            for name, value in values.items()
        ],
    )


SHOWN: dict[bytes, Callable[[Core, Pool], Table]] = {
    b"stats": _stats,
    b"sessions": _sessions,
    b"pins": _pins,
    b"pool": _pool,
    b"cache": _cache,
}
"""By name; the pool is that of the database which is asked about."""
