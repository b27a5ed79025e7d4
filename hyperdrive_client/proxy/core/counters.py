"""What has happened since the proxy began, as plain numbers that nobody resets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Of one proxy, all its databases together. Times are in seconds."""

    clients: int = 0
    """Clients that were let in, the console's not among them."""
    origin_connects: int = 0
    """Connections to the origin that became ready."""
    round_trips: int = 0
    """How often something went to the origin for a client, which waited until it came back: its
    queries and batches, by their ReadyForQuery; each Flush; replays, and what is asked or sent anew
    before a statement can run. BEGIN is no round trip of its own where it goes along with another
    message. COPY FROM is one."""
    background_round_trips: int = 0
    """The same where no client waits: ends that were told early, read-backs, cleaning."""
    replays: int = 0
    """How often a session's settings had to be put in force before its link."""
    waits: int = 0
    """How often clients waited for an origin connection, or for other transactions' ends."""
    wait_seconds: float = 0.0
    links: int = 0
    """Links that have ended; one is a transaction, or all of them while a session is pinned."""
    link_seconds: float = 0.0
    """Of all links that have ended."""
    pinned_seconds: float = 0.0
    """Of those, pinned."""
    pins: Counter[str] = field(default_factory=Counter)
    """How often a session was pinned, by reason."""
    cache: Counter[str] = field(default_factory=Counter)
    """How statements fared with the cache, by status (Hyperdrive, "Query caching")."""
    refreshes: int = 0
    """How often an answer was fetched anew in the background."""
