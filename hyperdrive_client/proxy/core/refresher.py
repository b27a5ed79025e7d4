"""A client of our own, which fetches an answer anew when nobody waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cache.store import Entry
from .client_cache import Miss
from .client_session import ClientSession
from .fill import Flight
from .origin_startup import ConnectFailure
from .states import ClientState

if TYPE_CHECKING:
    from .core import Core
    from .origin_session import OriginSession
    from .pool import Pool


class Refresher(ClientSession):
    """One request with the settings of whoever made it first; it hears nothing."""

    def __init__(self, core: Core, pool: Pool, entry: Entry, now: float) -> None:
        super().__init__(core, now)
        self.startup = None
        self.state = ClientState.IDLE
        self.handle = _Nowhere()
        self.pool = pool
        self.cache = pool.cache
        self.settings = self.initial = entry.key.settings
        self.looked_up = True
        self.miss = Miss(entry.key, entry.tables, entry.request, core.cache.generation)
        self.flight = pool.flights[entry.key] = Flight()
        self._request = entry.request

    def start(self, now: float) -> None:
        self.pool.refreshes += 1
        self.receive(self._request, now)

    def send(self, data: bytes) -> None:
        """Nobody is there to hear it."""

    def unlinked(self, now: float) -> None:
        super().unlinked(now)
        self.lost(now)

    def link_failed(self, failure: ConnectFailure, now: float) -> None:
        self.origin = None
        self.lost(now)

    def origin_lost(
        self, origin: OriginSession, failure: ConnectFailure | None, now: float
    ) -> None:
        self.origin = None
        self.lost(now)

    def dismiss(self, failure: ConnectFailure | None, now: float) -> None:
        self.origin = None
        self.lost(now)

    def close(self, now: float) -> None:
        self.lost(now)

    def lost(self, now: float, *, terminated: bool = False) -> None:
        if self.state is not ClientState.CLOSED:
            self.pool.refreshes -= 1
        super().lost(now, terminated=terminated)


class _Nowhere:
    """The network's end of a session that has none."""

    blocked = False

    @property
    def transport(self) -> _Nowhere:
        return self

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def hold(self, reason: int) -> None: ...
    def let_go(self, reason: int) -> None: ...
    def end_if_silent(self, limit: float, now: float) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0
