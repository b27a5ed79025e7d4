"""A proxy as ``spawn`` starts it in a child process, but with its origin connections rotated.

The pool lends the origin connection that was used last, so a suite that does one thing after
another would always meet its own one, and what it leaves behind there would never show. Here all
connections that the limit allows are opened, and the one that has been idle longest is lent.

At the end a report is written to the file named as the argument, as JSON: ``links``, pairs of the
time (of the monotonic clock, in seconds) and the number of links from then on, and the counters of
the pools, one for each database, together.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from hyperdrive_client.proxy import spawn
from hyperdrive_client.proxy.core import core
from hyperdrive_client.proxy.core.client_session import ClientSession
from hyperdrive_client.proxy.core.counters import Counters
from hyperdrive_client.proxy.core.effects import ConnectOrigin, Effect
from hyperdrive_client.proxy.core.origin_session import OriginSession
from hyperdrive_client.proxy.core.pool import Pool
from hyperdrive_client.proxy.core.states import OriginState
from hyperdrive_client.proxy.settings import Settings

pools: list[RotatingPool] = []
links: list[tuple[float, int]] = []


class RotatingPool(Pool):
    """A pool whose origin connections take turns."""

    def __init__(self, settings: Settings, effects: list[Effect], counters: Counters) -> None:
        super().__init__(settings, effects, counters)
        pools.append(self)

    def acquire(self, client: ClientSession, now: float) -> bool:
        """Link as usual, while the one idle longest is the only one in sight."""
        if client.wanted is not None:
            return super().acquire(client, now)
        others, self.idle = self.idle[1:], self.idle[:1]
        try:
            return super().acquire(client, now)
        finally:
            self.idle += others

    def move(self, origin: OriginSession, state: OriginState) -> None:
        super().move(origin, state)
        number = sum(origin.client is not None for pool in pools for origin in pool.origins)
        if not links or links[-1][1] != number:
            links.append((time.monotonic(), number))

    def tick(self, now: float) -> None:
        """Open all that the limit allows, once the origin has been reached.

        Not to other databases than the configured one: the suites drop those that they make.
        """
        super().tick(now)
        reached = self.default_reported is not None and self.last_failure is None
        if self is not pools[0] or not reached or self.closing:
            return
        while len(self.origins) < self.settings.limits.origin_connection_limit:
            origin = OriginSession(self, now)
            self.origins.add(origin)
            self.effects.append(ConnectOrigin(origin))


def main() -> None:
    vars(core)["Pool"] = RotatingPool
    spawn.main()
    counters = pools[0].counters
    report = {
        "links": links,
        "link_seconds": counters.link_seconds,
        "pinned_seconds": counters.pinned_seconds,
        "pins": counters.pins,
    }
    Path(sys.argv[1]).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
