"""What a proxy did during a part of a test."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from hyperdrive_client import Proxy, ProxyStats

# What runs longer than this during an observation is not over when that ends.
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.002


class Observation:
    """The difference between two moments at which the proxy waited for nothing from the database.

    Within the observation the second moment is whenever an attribute is read.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._before = _at_rest(proxy)
        self._after: ProxyStats | None = None

    def end(self) -> None:
        self._after = _at_rest(self._proxy)

    @property
    def origin_round_trips(self) -> int:
        """How often a client waited for an answer from the database."""
        return self._now.origin_round_trips - self._before.origin_round_trips

    @property
    def background_round_trips(self) -> int:
        """How often the proxy asked the database for something and no client waited."""
        return self._now.background_round_trips - self._before.background_round_trips

    @property
    def origin_connections_opened(self) -> int:
        return self._now.origin_connections_opened - self._before.origin_connections_opened

    @property
    def waits(self) -> int:
        """How often a client waited for a connection to the database."""
        return self._now.waits - self._before.waits

    @property
    def replays(self) -> int:
        """How often a session's settings were put in force; each is a round trip, too."""
        return self._now.replays - self._before.replays

    @property
    def pins(self) -> Mapping[str, int]:
        """By reason, how often a session was pinned; what did not happen is not in it."""
        return _difference(self._before.pins, self._now.pins)

    @property
    def cache(self) -> Mapping[str, int]:
        """By status, how statements fared with the cache; what did not happen is not in it."""
        return _difference(self._before.cache, self._now.cache)

    @property
    def cache_hits(self) -> int:
        """How many statements were answered from the cache."""
        return self.cache.get("hit", 0)

    @property
    def cache_misses(self) -> int:
        """How many could have been, and were answered by the database."""
        return self.cache.get("miss", 0)

    @property
    def _now(self) -> ProxyStats:
        return _at_rest(self._proxy) if self._after is None else self._after


def _difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    counts = {name: times - before.get(name, 0) for name, times in after.items()}
    return {name: times for name, times in counts.items() if times}


@contextmanager
def observe(proxy: Proxy) -> Iterator[Observation]:
    """Observe a proxy during a ``with`` block. ``TimeoutError`` if it does not come to rest."""
    observation = Observation(proxy)
    yield observation
    observation.end()


def _at_rest(proxy: Proxy) -> ProxyStats:
    """Its counters once nothing is under way: what a client was told is done may not be yet."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (stats := proxy.stats()).origin_connections_at_work:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"a statement has been running for {_PATIENCE_SECONDS:.0f} s where an observation "
                "begins or ends: let it come to its end there"
            )
        time.sleep(_PAUSE_SECONDS)
    return stats
