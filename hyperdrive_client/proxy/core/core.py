"""The sans-I/O proxy: what happened goes in, what is to be done comes out."""

from __future__ import annotations

import hmac
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from ...bindings.connection_string import Address
from ...errors import OriginProtocolError
from ...protocol.startup import CancelRequest
from ..cache.cache import EVERYTHING, Cache
from ..cache.store import Entry
from ..settings import Settings
from . import client_cache, reports
from .client_session import SHUTTING_DOWN, ClientSession
from .client_startup import ClientTls, Doorkeeper
from .counters import Counters
from .effects import AbortOrigin, CloseClient, Effect, Requester, TellSupervisor
from .origin_session import OriginSession
from .origin_startup import ConnectFailure
from .overdue import overdue_links, overdue_sessions
from .pool import Pool
from .refresher import Refresher
from .siblings import Siblings
from .states import ClientState, OriginState

# Process ids that we give out lie above every operating system's, so none names a real backend.
FIRST_PROCESS_ID = (1 << 22) + 1
LAST_PROCESS_ID = (1 << 31) - 1

# Seconds until another cancel: one that came before its query, or got lost, changed nothing.
CANCEL_AGAIN = 1.0

# Clients that are not there for a database.
_ASIDE = (ClientState.CANCELLING, ClientState.CONSOLE)
_ENDED = (OriginState.CLOSING, OriginState.CLOSED)


class Conversation(Protocol):
    """What a client and the console say to each other."""

    waiting: deque[tuple[int, bytes]]
    """Messages, without their headers, that are answered when the one before them is."""

    def answer(self, kind: int, body: bytes) -> bytes: ...

    def asks(self) -> str:
        """What the other workers have to be asked before the next answer; empty if nothing."""

    def partial_answer(self, question: str) -> Any:
        """One worker's, in terms of JSON."""

    def whole_answer(self, answers: list[Any]) -> bytes:
        """To what was asked, with those of the other workers."""


class Core:
    """All sessions of one proxy.

    The network layer calls one verb per event, with the time in seconds, and performs what is in
    ``effects`` after it, in order.
    """

    def __init__(
        self,
        settings: Settings,
        open_console: Callable[[Core], Conversation] | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        self.settings = settings
        self.siblings = siblings
        self.open_console = open_console
        self.effects: list[Effect] = []
        self.counters = Counters()
        self.pool = Pool(settings, self.effects, self.counters, siblings)
        """Of the configured database."""
        self.cache = Cache(settings.caching, siblings.epochs if siblings else None)
        """Of that database alone."""
        if not self.cache.is_off:
            self.pool.cache = self.cache
            self.cache.on_switch = self._cache_was_switched
            self.cache.on_other_defaults = self.retire_origins
        self.pools = {settings.origin.database.encode(): self.pool}
        """By database; others than the configured one as long as they are in use."""
        seed = secrets.token_bytes(32) if siblings is None else siblings.seed
        self.doorkeeper = Doorkeeper(settings, seed)
        self.doorkeeper.has_console = open_console is not None
        self.clients: set[ClientSession] = set()
        self.draining = False
        self._by_process_id: dict[int, ClientSession] = {}
        self._workers = 1 if siblings is None else siblings.workers
        self._first_process_id = FIRST_PROCESS_ID + (0 if siblings is None else siblings.number)
        self._next_process_id = self._first_process_id
        self._cancelling: dict[OriginSession, set[Requester]] = {}
        self._relayed: dict[int, ClientSession] = {}
        """Who waits for what other workers cancel, or answer, by a number of ours."""
        self._relays = 0
        self._abandoned: dict[OriginSession, float] = {}
        """Where a client's work still runs although it has vanished; when that was cancelled."""

    @property
    def at_rest(self) -> bool:
        """No client and no origin connection is left."""
        return not self.clients and not any(pool.origins for pool in self.pools.values())

    @property
    def has_clients(self) -> bool:
        """Whether somebody is here, or on the way in, who wants more than to look or to cancel."""
        return any(client.state not in _ASIDE for client in self.clients)

    @property
    def sessions(self) -> list[ClientSession]:
        """The clients that were let in to a database."""
        return [each for each in self.clients if each.process_id and each.state not in _ASIDE]

    @property
    def origins(self) -> list[OriginSession]:
        """Of all databases."""
        return [origin for pool in self.pools.values() for origin in pool.origins]

    def pool_of(self, database: bytes) -> Pool:
        """The pool of one database, which a client was let in to; made if there is none."""
        pool = self.pools.get(database)
        if pool is None:
            origin = replace(self.settings.origin, database=database.decode("utf-8", "replace"))
            settings = replace(self.settings, origin=origin)
            pool = Pool(settings, self.effects, self.counters, self.siblings)
            self.pools[database] = pool
        return pool

    # Clients.

    def client_connected(
        self, now: float, tls: ClientTls | None = None, *, is_owner: bool = False
    ) -> ClientSession:
        """``is_owner`` if the system says that it is the user whom the proxy belongs to."""
        client = ClientSession(self, now)
        assert client.startup is not None
        client.startup.tls = tls
        client.startup.is_owner = is_owner
        self.clients.add(client)
        self._decide_refusal()
        return client

    def _decide_refusal(self) -> None:
        """Who may not come in is told so when it has said what it wants, as PostgreSQL does."""
        refusal = None
        if self.draining:
            refusal = "57P03", "the database system is shutting down"
        elif len(self.clients) > self.settings.limits.client_connection_limit:
            refusal = "53300", "sorry, too many clients already"
        self.doorkeeper.refusal = refusal

    def client_received(self, client: ClientSession, data: bytes, now: float) -> None:
        client.active_at = now
        client.receive(data, now)

    def client_lost(self, client: ClientSession, now: float) -> None:
        origin = client.origin
        client.lost(now)
        if origin is not None and origin.state is OriginState.DRAINING:
            self._abandoned[origin] = now

    def admit(self, client: ClientSession, minor: int) -> None:
        """Give an authenticated client its process id and cancel key."""
        client.process_id = self._next_process_id
        while client.process_id in self._by_process_id:
            client.process_id = self._after(client.process_id)
        self._next_process_id = self._after(client.process_id)
        # Protocol 3.2 allows long keys; earlier ones have four bytes.
        client.secret_key = secrets.token_bytes(32 if minor >= 2 else 4)
        self._by_process_id[client.process_id] = client

    def forget(self, client: ClientSession) -> None:
        self.clients.discard(client)
        self._by_process_id.pop(client.process_id, None)
        self._decide_refusal()

    def cancel(self, requester: Requester, request: CancelRequest, now: float) -> None:
        """Cancel what the named session does, if the key fits; the requester hears nothing.

        Its connection is closed when the origin has been told, as PostgreSQL does.
        """
        client = self._by_process_id.get(request.process_id)
        if self._is_anothers(request.process_id) and isinstance(requester, ClientSession):
            self._relay(requester, "cancel", request.process_id, request.secret_key.hex())
            return
        origin = None
        if client is not None and hmac.compare_digest(client.secret_key, request.secret_key):
            origin = client.cancel(now)
        if origin is None:
            requester.close(now)
        else:
            self._cancelling.setdefault(origin, set()).add(requester)
            origin.cancel(requester)

    def knows(self, process_id: int) -> bool:
        """Whether we gave this process id to a client that is still here.

        Another worker's may have gone.
        """
        return process_id in self._by_process_id or self._is_anothers(process_id)

    def signal(self, process_id: int, now: float, *, terminates: bool) -> None:
        """What pg_cancel_backend and pg_terminate_backend do, to one of our sessions."""
        client = self._by_process_id.get(process_id)
        if client is None:
            if self._is_anothers(process_id):
                self.effects.append(TellSupervisor(["signal", process_id, terminates]))
            return
        if terminates:
            self._terminate(client, SHUTTING_DOWN, now)
        else:
            origin = client.cancel(now)
            if origin is not None:
                origin.cancel()

    # Other workers.

    def _is_anothers(self, process_id: int) -> bool:
        """Whether another worker has given this process id to a client, or may have."""
        siblings = self.siblings
        if siblings is None or not FIRST_PROCESS_ID <= process_id <= LAST_PROCESS_ID:
            return False
        return (process_id - FIRST_PROCESS_ID) % siblings.workers != siblings.number

    def _relay(self, client: ClientSession, kind: str, *values: object) -> None:
        self._relays += 1
        self._relayed[self._relays] = client
        self.effects.append(TellSupervisor([kind, self._relays, *values]))

    def relayed_cancel_done(self, token: int, now: float) -> None:
        """Another worker has cancelled what it was to, or has nothing to cancel."""
        _dismiss(self._relayed.pop(token), now)

    def ask_others(self, client: ClientSession, question: str) -> None:
        """Have the other workers answer, too; then :meth:`console_answered`."""
        self._relay(client, "ask", question)

    def console_answered(self, token: int, answers: list[Any], now: float) -> None:
        """What the other workers have to say to a client of our console."""
        self._relayed.pop(token).console_answered(answers, now)

    def console_answer(self, question: str) -> Any:
        """Our part of an answer to a client of another worker's console, in terms of JSON."""
        assert self.open_console is not None
        return self.open_console(self).partial_answer(question)

    def refresh(self, pool: Pool, entry: Entry, now: float) -> None:
        """Fetch an answer anew, for nobody in particular."""
        self.counters.refreshes += 1
        Refresher(self, pool, entry, now).start(now)

    def client_blocked(self, client: ClientSession, now: float) -> None:
        """It does not read; who waits for the same answer must not wait for that."""
        if client.flight is not None:
            client.flight.is_slow = True
            client_cache.release(client.flight, now)

    def retire_origins(self) -> None:
        """End each origin connection of the configured database as soon as nobody uses it."""
        for origin in self.pool.origins:
            origin.retires_at = float("-inf")

    def _cache_was_switched(self) -> None:
        """Let all clients know, and see that what they have sent meanwhile is counted."""
        now, cache = self.pool.now, self.pool.serving_cache
        for origin in self.pool.origins:
            origin.fill = None
            if cache is not None and (origin.client is not None or origin.expected):
                origin.writes(EVERYTHING, now)
        for client in list(self.clients):
            if client.pool is not self.pool or client.startup is not None:
                continue
            client.cache = cache
            if cache is None:
                reports.cache_status(client, "disabled", self.cache.closed)
                client_cache.land(client, now)

    # Origins.

    def origin_connected(
        self,
        origin: OriginSession,
        address: Address,
        *,
        encrypted: bool,
        certificate: bytes | None = None,
    ) -> None:
        """``certificate`` is the origin's, in DER, where there is TLS."""
        if origin.state is OriginState.CONNECTING:
            origin.connected(address, encrypted=encrypted)
            assert origin.startup is not None
            origin.startup.certificate = certificate
        else:
            # It took too long; nobody waits for it any more.
            self.effects.append(AbortOrigin(origin))

    def origin_connect_failed(
        self, origin: OriginSession, failure: ConnectFailure, now: float
    ) -> None:
        if origin.state is OriginState.CONNECTING:
            origin.pool.connect_failed(origin, failure, now)

    def origin_received(self, origin: OriginSession, data: bytes, now: float) -> None:
        if origin.state in _ENDED:
            return
        if origin.client is not None:
            origin.client.active_at = now
        try:
            origin.receive(data, now)
        except OriginProtocolError as error:
            failure = ConnectFailure("08P01", f"The origin broke the protocol: {error}", False)
            if origin.startup is not None:
                origin.pool.connect_failed(origin, failure, now)
                return
            client, origin.client = origin.client, None
            origin.abort(now)
            if client is not None:
                client.dismiss(None if origin.mid_message else failure, now)

    def origin_lost(self, origin: OriginSession, now: float) -> None:
        origin.pool.lost(origin, now)
        for requester in self._cancelling.pop(origin, ()):
            _dismiss(requester, now)

    def cancel_done(
        self, origin: OriginSession, now: float, requester: Requester | None = None
    ) -> None:
        """A CancelRequest was delivered, or could not be; ``requester`` had asked for it."""
        origin.cancels -= 1
        if requester is not None:
            self._cancelling.get(origin, set()).discard(requester)
            _dismiss(requester, now)
        if origin.state not in _ENDED:
            origin.settle(now)

    # Time and end.

    def tick(self, now: float) -> None:
        """What is due by time alone; call it several times a second."""
        limits = self.settings.limits
        for overdue in (
            *overdue_links(self.origins, limits, now),
            *overdue_sessions(self.clients, limits, now),
        ):
            self._terminate(*overdue, now)
        self._cancel_again(now)
        for pool in self.pools.values():
            pool.tick(now)
        self._forget_unused_pools()
        timeout = limits.login_timeout
        if timeout:
            for client in [c for c in self.clients if c.startup is not None]:
                if now - client.since >= timeout:
                    # As PostgreSQL does: who does not authenticate is told nothing.
                    client.close(now)

    def leave_other_databases(self, pool: Pool | None, now: float) -> None:
        """A database can be dropped, renamed or copied while nobody is connected to it.

        ``pool`` is where that was said; ``None`` if another worker has none of that database.
        """
        for other in self.pools.values():
            if other is not pool:
                other.leave_database(now)

    def _forget_unused_pools(self) -> None:
        for database, pool in list(self.pools.items()):
            if pool is self.pool or pool.origins:
                continue
            if not any(client.pool is pool for client in self.clients):
                del self.pools[database]

    def _terminate(self, client: ClientSession, response: bytes, now: float) -> None:
        """End a session of which nothing more is wanted: cancel, and roll back."""
        if client.origin is None or not client.origin.mid_message:
            client.send(response)
        self.effects.append(CloseClient(client))
        self.client_lost(client, now)

    def _cancel_again(self, now: float) -> None:
        """See the work of clients that have vanished ended, or its connections."""
        patience = self.settings.limits.silence_timeout
        for origin, cancelled in list(self._abandoned.items()):
            if origin.state is not OriginState.DRAINING or not origin.expected:
                del self._abandoned[origin]
            elif 0 < patience <= now - origin.since:
                origin.abort(now)
            elif not origin.cancels and now - cancelled >= CANCEL_AGAIN:
                self._abandoned[origin] = now
                origin.cancel()

    def drain(self, now: float) -> None:
        """Refuse new work, let transactions finish, then close what is left."""
        self.draining = True
        self._decide_refusal()
        for client in list(self.clients):
            if client.state is not ClientState.CANCELLING:
                client.shut_down(now)
        for pool in self.pools.values():
            pool.close(now)

    def stop(self, now: float) -> None:
        """End at once."""
        self.draining = True
        for pool in self.pools.values():
            pool.close(now)
        for client in list(self.clients):
            self.effects.append(CloseClient(client))
            client.lost(now)
        for origin in self.origins:
            origin.abort(now)

    def _after(self, process_id: int) -> int:
        following = process_id + self._workers
        return following if following <= LAST_PROCESS_ID else self._first_process_id


def _dismiss(requester: Requester, now: float) -> None:
    """Close the connection of whoever asked for a cancel, unless it is gone already."""
    if requester.state is ClientState.CANCELLING:
        requester.close(now)
