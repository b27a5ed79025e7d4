"""A core without sockets, and what can happen to it, one event after the other.

An event is a tuple of a name and values, so that what went wrong can be printed and done again.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any, Literal

from hyperdrive_client.bindings.connection_string import Address, Origin
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.scram import SCRAM_SHA_256, ScramClient, ScramCredentials
from hyperdrive_client.proxy.admin.console import Console
from hyperdrive_client.proxy.core import effects as do
from hyperdrive_client.proxy.core.client_session import ClientSession
from hyperdrive_client.proxy.core.core import Core
from hyperdrive_client.proxy.core.origin_session import OriginSession
from hyperdrive_client.proxy.core.origin_startup import ConnectFailure
from hyperdrive_client.proxy.core.refresher import Refresher
from hyperdrive_client.proxy.core.states import ClientState, OriginState
from hyperdrive_client.proxy.settings import Caching, Limits, Settings

from .catalogue import Catalogue
from .coverage import Coverage
from .messages import cancel_request
from .server import Server

ADDRESS = Address("127.0.0.1", 5432)
CREDENTIALS = ScramCredentials("entry")
LIMITS = Limits(origin_connection_limit=2, prepared_statements=3)
CACHED = Caching(mode="writes", max_age=5.0, stale_while_revalidate=20.0, memory=20_000)
UNCACHED = Caching(mode="off")

Event = tuple[Any, ...]
Auth = Literal["scram", "trust"]


class Broken(Exception):
    """The core did what it must not do."""


class Impossible(Exception):
    """No network does this; an event that the one before it needs is missing."""


class Client:
    """A client's end: what it was told, and whether the proxy has closed."""

    def __init__(self, session: ClientSession) -> None:
        self.session = session
        session.handle = self
        self.data = bytearray()
        self.closed = False
        self.gone = False
        self.plan: list[bytes] = []
        """What it is about to send, one after the other."""


class Backend:
    """An origin's end; ``hurt`` once it was sent, or sent itself, something wrong."""

    def __init__(self, session: OriginSession, server: Server) -> None:
        self.session = session
        session.handle = self
        self.server = server
        self.data = bytearray()
        self.open = self.gone = False
        self.aborted = False
        self.cancels = 0
        self.hurt = False


class World:
    """One core, its clients and its origins, which events call by number."""

    def __init__(self, auth: Auth, random: Random | None = None, *, cached: bool = False) -> None:
        origin = Origin((ADDRESS,), "owner", "app", "secret", sslmode="disable")
        settings = Settings(
            origin=origin,
            user="visitor",
            password="entry",
            auth=auth,
            limits=LIMITS,
            caching=CACHED if cached else UNCACHED,
        )
        self.cached = cached
        self.core = Core(settings, Console)
        self.now = 1000.0
        self.clients: list[Client] = []
        self.backends: list[Backend] = []
        self.coverage = Coverage()
        self.random = random

    def play(self, events: Iterable[Event]) -> None:
        for name, *values in events:
            getattr(self, name)(*values)
            self._perform()

    # Events.

    def all_is_new(self) -> None:
        """Numbers begin anew: an episode can be told without those before it."""
        self.clients.clear()
        self.backends[:] = [each for each in self.backends if not each.gone]

    def client_connects(self) -> None:
        self.clients.append(Client(self.core.client_connected(self.now)))

    def client_sends(self, number: int, data: bytes) -> None:
        client = self.clients[number]
        if client.gone:
            raise Impossible("there is no connection to send on")
        if client.session.startup is None:
            self.coverage.client_sends(client.session.state, data)
        else:
            self.coverage.client_begins(data, client.session.startup.startup is not None)
        self.core.client_received(client.session, data, self.now)

    def client_proves(self, number: int) -> None:
        """The whole of SCRAM, with the right password."""
        client = self.clients[number]
        scram = ScramClient(CREDENTIALS, [SCRAM_SHA_256])
        client.data.clear()
        for answer in (
            lambda: m.sasl_initial_response(SCRAM_SHA_256, scram.first()),
            lambda: m.password(scram.final(bytes(client.data[9:]))),
        ):
            message = answer()
            client.data.clear()
            self.client_sends(number, message)
            self._perform()

    def client_is_lost(self, number: int) -> None:
        client = self.clients[number]
        client.gone = True
        self.core.client_lost(client.session, self.now)

    def client_cancels(self, number: int) -> None:
        """A new client asks to cancel what this one does."""
        session = self.clients[number].session
        self.client_connects()
        self.client_sends(
            len(self.clients) - 1, cancel_request(session.process_id, session.secret_key)
        )

    def client_does_not_read(self, number: int) -> None:
        self.core.client_blocked(self.clients[number].session, self.now)

    def catalogue_is_loaded(self, zone: str) -> None:
        self.core.cache.catalogue_loaded(Catalogue(zone), self.now)  # type: ignore[arg-type]

    def catalogue_is_the_same(self) -> None:
        self.core.cache.catalogue_unchanged(self.now, self.core.cache.looks)

    def catalogue_is_lost(self) -> None:
        self.core.cache.catalogue_lost("lost")

    def backends_are_gone(self) -> None:
        """Those whose connections were lost while they wrote."""
        for process_id in list(self.core.cache.uncertain):
            self.core.cache.backend_gone(process_id)

    def another_writes(self) -> None:
        self.core.cache.advance(None)

    def cache_is_switched(self, mode: str) -> None:
        self.core.cache.decide(mode, "")

    def origin_opens(self, number: int) -> None:
        backend = self.backends[number]
        if backend.open or backend.gone:
            raise Impossible("it was opened before")
        backend.open = True
        self.core.origin_connected(backend.session, ADDRESS, encrypted=False)
        self._perform()
        backend.server.start()
        backend.data.clear()

    def origin_is_unreachable(self, number: int, transient: bool) -> None:
        backend = self.backends[number]
        backend.gone = True
        failure = ConnectFailure("58000", "unreachable", transient)
        self.core.origin_connect_failed(backend.session, failure, self.now)

    def origin_sends(self, number: int, data: bytes) -> None:
        backend = self.backends[number]
        if not backend.open or backend.gone:
            raise Impossible("there is no connection to send on")
        self.coverage.origin_sends(backend.session.state, data)
        self.core.origin_received(backend.session, data, self.now)

    def origin_is_lost(self, number: int) -> None:
        backend = self.backends[number]
        backend.gone = True
        self.core.origin_lost(backend.session, self.now)

    def cancel_is_done(self, number: int) -> None:
        backend = self.backends[number]
        backend.cancels -= 1
        self.core.cancel_done(backend.session, self.now)

    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)

    # What the network layer does.

    def _perform(self) -> None:
        effects = self.core.effects
        for effect in effects:
            match effect:
                case do.SendToClient(Refresher()) | do.CloseClient(Refresher()):
                    """Nobody is there to hear it."""
                case do.SendToClient(session, data):
                    if session.handle.closed:
                        raise Broken(f"sent to a closed client: {data!r}")
                    session.handle.data += data
                case do.SendToOrigin(session, data):
                    if session.handle.aborted:
                        raise Broken(f"sent to an aborted origin, {session.state.value}: {data!r}")
                    session.handle.data += data
                case do.CloseClient(session):
                    session.handle.closed = True
                case do.ConnectOrigin(session):
                    self.backends.append(Backend(session, Server(self.random)))
                case do.AbortOrigin(session):
                    session.handle.aborted = True
                case do.CancelOrigin(session):
                    session.handle.cancels += 1
        effects.clear()
        self._check()

    def _check(self) -> None:
        """The pool's books agree with each other."""
        pool = self.core.pool
        if len(pool.origins) > LIMITS.origin_connection_limit:
            raise Broken(f"too many origin connections: {len(pool.origins)}")
        if set(pool.idle) != {each for each in pool.origins if each.state is OriginState.IDLE}:
            raise Broken(f"wrong ones are idle: {pool.idle}, of {pool.origins}")
        for each in pool.waiting:
            if each.state not in (ClientState.WAITING, ClientState.JOINING):
                raise Broken(f"not in a state that waits: {each}")
        store = self.core.cache.store
        if store.bytes != sum(each.size for each in store) or store.bytes > store.budget:
            raise Broken(f"{store.bytes} bytes are kept, of {store.budget}")
        self._check_flights()

    def _check_flights(self) -> None:
        """Who waits for another's answer waits for one that is on its way."""
        pool = self.core.pool
        flights = list(pool.flights.values())
        owners = [each for each in self.core.clients if each.flight is not None]
        for each in owners:
            if each.flight not in flights:
                raise Broken(f"its flight is not known: {each}")
            if each.state is ClientState.IDLE:
                raise Broken(f"others may wait for it, and it does nothing: {each}")
        if len(flights) > len(owners) + pool.refreshes:
            raise Broken(f"{len(flights)} flights of {len(owners)} and {pool.refreshes}")
        for each in self.core.clients:
            if each.joins is not None and each.joins not in flights and not each.joins.is_slow:
                raise Broken(f"waits for ever: {each}")
