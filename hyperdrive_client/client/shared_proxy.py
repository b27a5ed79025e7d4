"""The proxy that all programs of one user share for one origin."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from dataclasses import astuple, replace
from functools import cache

from hyperdrive_client.bindings import Configuration, Origin
from hyperdrive_client.client.variables import (
    caching,
    origin_connection_limit,
    proxy_idle_timeout,
)
from hyperdrive_client.errors import ProxyStartError
from hyperdrive_client.registry import Place, Record, places, remove_dead, runtime_folder

# Another program that starts the same proxy is waited for; starting takes a fraction of it.
_LOCK_TIMEOUT = 30.0


class SharedProxy:
    """The running proxy for an origin, found, or else started.

    There is one for each user, origin, stored configuration, set of limits and of the cache's
    settings, version of this package and Python. It ends some time after its last client, not with
    this process. That of a stored configuration is always at the same door.

    Raises ``ProxyStartError``.
    """

    def __init__(self, origin: Origin, configuration: Configuration | None = None) -> None:
        try:
            self._origin = origin.with_absolute_paths()
            self._configuration = configuration
            self._place = place_for(origin, configuration)
            self.record = self._place.running() or self._found_or_started()
        except OSError as error:
            raise ProxyStartError(f"no proxy can be shared: {error}") from error
        self._lease: int | None = None

    def _found_or_started(self) -> Record:
        with self._place.lock(_LOCK_TIMEOUT):
            return self._place.running() or self._start()

    def _start(self) -> Record:
        return _start(self._origin, self._configuration, self._place)

    @property
    def is_running(self) -> bool:
        """Whether it, and not another in its place, accepts connections."""
        try:
            return self._place.running() == self.record
        except OSError:
            return False

    @property
    def door(self) -> Origin:
        """Where psycopg connects to."""
        return self.record.door

    @property
    def any_drivers_door(self) -> Origin:
        """Where any driver connects to; the proxy does not end before this process does.

        Raises ``ProxyStartError``.
        """
        self.lease()
        return self.record.tcp_door

    @property
    def is_leased(self) -> bool:
        """Whether this process keeps it from ending."""
        return self._lease is not None

    def lease(self) -> None:
        """Keep it from ending before this process does; ``ProxyStartError``."""
        if self._lease is not None:
            return
        try:
            with self._place.lock(_LOCK_TIMEOUT):
                if self._lease is None:
                    # It may have ended unused before the lock was ours.
                    self.record = self._place.running() or self._start()
                    self._lease = self._place.lease()
        except OSError as error:
            raise ProxyStartError(f"no proxy can be shared: {error}") from error

    def keep(self) -> None:
        """Keep it from ending until somebody stops it; ``ProxyStartError``."""
        try:
            with self._place.lock(_LOCK_TIMEOUT):
                self.record = self._place.running() or self._start()
                self._place.keep()
        except OSError as error:
            raise ProxyStartError(f"no proxy can be shared: {error}") from error

    def close(self) -> None:
        """It is not ours to end."""
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None


def place_for(origin: Origin, configuration: Configuration | None = None) -> Place:
    """Return where the files of an origin's proxy are. ``ProxyStartError`` if they can't be."""
    return Place(runtime_folder(), _id(origin.with_absolute_paths(), configuration))


def shared_proxy_at(origin: Origin) -> Record | None:
    """Return the running shared proxy that a connection string leads to."""
    if len(origin.addresses) != 1 or not origin.addresses[0].is_local:
        return None
    address = origin.addresses[0]
    for place in places():
        record = place.running()
        if record is None:
            continue
        if address.is_unix:
            found = address == record.door.addresses[0]
        else:
            found = address.port == record.port
        if found:
            return record
    return None


def shared_proxies_for(origin: Origin) -> list[Record]:
    """Return the running shared proxies in front of an origin, whatever their settings."""
    running = (place.running() for place in places())
    return [record for record in running if record and record.origin == shown_origin(origin)]


def shared_proxies_of(configuration: Configuration) -> list[Place]:
    """Return the places of a configuration's running shared proxies, whatever their settings."""
    running = ((place, place.running()) for place in places())
    return [
        place for place, record in running if record and record.configuration == configuration.id
    ]


def _start(origin: Origin, configuration: Configuration | None, place: Place) -> Record:
    """Hold the place's lock."""
    # Only here: a program that finds a proxy never loads one.
    from hyperdrive_client import __version__
    from hyperdrive_client.proxy import detached, spawn
    from hyperdrive_client.proxy.settings import Caching, Limits, Settings

    user, password = spawn.fresh_credentials()
    port = 0
    if died := place.read():
        # What other programs have read of it is right again.
        user, password, port = died.user, died.password, died.port
    if configuration is not None:
        door = configuration.door
        user, password, port = door.user, door.password, door.port
    given = origin_connection_limit(configuration)
    limits = Limits(proxy_idle_timeout=proxy_idle_timeout())
    if given is not None:
        limits = replace(limits, origin_connection_limit=given)
    settings = Settings(
        origin,
        user,
        password,
        port=port,
        unix_socket=str(place.socket),
        auth="peer",
        limits=limits,
        caching=Caching.asked_for(**caching(configuration)),
    )
    record = Record(
        id=place.id,
        pid=0,
        version=__version__,
        python=spawn.python(),
        origin=shown_origin(origin),
        unix_socket=str(place.socket),
        port=port,
        user=user,
        password=password,
        database=origin.database,
        started_at=time.time(),
        configuration="" if configuration is None else configuration.id,
    )
    try:
        detached.start(settings, place, record)
    except ProxyStartError:
        if not port:
            raise
        # Somebody else has the port by now.
        detached.start(replace(settings, port=0), place, record)
    started = place.running()
    remove_dead()
    if started is None:
        raise ProxyStartError(f"the proxy has ended as soon as it was ready (its log: {place.log})")
    return started


def _id(origin: Origin, configuration: Configuration | None) -> str:
    """The same for whoever may share a proxy, and for nobody else; it tells nothing."""
    told = [
        os.geteuid(),
        origin.connection_string,
        origin_connection_limit(configuration),
        proxy_idle_timeout(),
        caching(configuration),
        *_installation(),
    ]
    if configuration is not None:
        told += [configuration.id, *astuple(configuration.door)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


@cache
def _installation() -> tuple[str, ...]:
    from hyperdrive_client import __file__, __version__

    return __version__, os.path.dirname(__file__), sys.prefix, sys.version


def shown_origin(origin: Origin) -> str:
    """Return how a record names an origin."""
    hosts = ",".join(f"{address.host}:{address.port}" for address in origin.addresses)
    return f"{hosts}/{origin.database}"
