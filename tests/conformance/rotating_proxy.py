"""A proxy as ``spawn`` starts it in a child process, but with its origin connections rotated.

The pool lends the origin connection that was used last, so a suite that does one thing after
another would always meet its own one, and what it leaves behind there would never show. Here all
connections that the limit allows are opened, and the one that has been idle longest is lent.

At the end a report is written to the file named as the argument, as JSON: ``links``, pairs of the
time (of the monotonic clock, in seconds) and the number of links from then on, and the pool's own
counters.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hyperdrive_client.proxy import spawn
from hyperdrive_client.proxy.core.client_session import ClientSession
from hyperdrive_client.proxy.core.effects import ConnectOrigin, Effect
from hyperdrive_client.proxy.core.origin_session import OriginSession, OriginState
from hyperdrive_client.proxy.core.pool import Pool
from hyperdrive_client.proxy.settings import Settings

COUNTERS = ("link_seconds", "pinned_seconds", "pins")

_pools: list[Pool] = []
_links: list[tuple[float, int]] = []
_create: Callable[[Pool, Settings, list[Effect]], None] = Pool.__init__
_acquire, _move, _tick = Pool.acquire, Pool.move, Pool.tick


def create(pool: Pool, settings: Settings, effects: list[Effect]) -> None:
    _create(pool, settings, effects)
    _pools.append(pool)


def acquire(pool: Pool, client: ClientSession, now: float) -> bool:
    """As ``Pool.acquire``, while the one idle longest is the only one in sight."""
    others, pool.idle = pool.idle[1:], pool.idle[:1]
    try:
        return _acquire(pool, client, now)
    finally:
        pool.idle += others


def move(pool: Pool, origin: OriginSession, state: OriginState) -> None:
    """As ``Pool.move``, and note how many are lent."""
    _move(pool, origin, state)
    links = sum(origin.client is not None for origin in pool.origins)
    if not _links or _links[-1][1] != links:
        _links.append((time.monotonic(), links))


def tick(pool: Pool, now: float) -> None:
    """As ``Pool.tick``, and open all that the limit allows once the origin has been reached."""
    _tick(pool, now)
    if pool.default_reported is None or pool.last_failure is not None or pool.closing:
        return
    while len(pool.origins) < pool.settings.limits.origin_connection_limit:
        origin = OriginSession(pool, now)
        pool.origins.add(origin)
        pool.effects.append(ConnectOrigin(origin))


def main() -> None:
    Pool.__init__ = create  # type: ignore[method-assign]
    Pool.acquire = acquire  # type: ignore[method-assign]
    Pool.move = move  # type: ignore[method-assign]
    Pool.tick = tick  # type: ignore[method-assign]
    spawn.main()
    counted = [name for name in COUNTERS if hasattr(Pool, name) or hasattr(_pools[0], name)]
    report = {name: getattr(_pools[0], name) for name in counted}
    Path(sys.argv[1]).write_text(json.dumps({"links": _links, **report}))


if __name__ == "__main__":
    main()
