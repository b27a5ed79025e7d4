"""A stored configuration: a Hyperdrive, as ``hyperdrive create`` makes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hyperdrive_client.bindings.connection_string import Address, Origin, origin_from_parameters
from hyperdrive_client.errors import ConfigurationError

MAX_AGE = 60
"""Seconds; Hyperdrive's default, as the next."""
STALE_WHILE_REVALIDATE = 15

# Of libpq's parameters: what the object has in places of its own.
_PLACED = frozenset(["host", "port", "user", "password", "dbname", "sslmode", "sslrootcert"])


@dataclass(frozen=True, slots=True)
class Door:
    """How clients log in at the configuration's proxy; the same as long as nobody rotates it."""

    port: int
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Hyperdrive's object of that name. Its repr hides the passwords.

    ``id`` is 32 hexadecimal digits. ``max_age`` and ``stale_while_revalidate`` are seconds,
    ``None`` where they were not given. Times are ISO 8601, in UTC. (Hyperdrive, "REST API".)
    """

    id: str
    name: str
    scheme: str
    origin: Origin
    door: Door
    caching_disabled: bool = False
    max_age: int | None = None
    stale_while_revalidate: int | None = None
    origin_connection_limit: int | None = None
    created_on: str = ""
    modified_on: str = ""
    restarted_on: str | None = None

    @property
    def tcp_door(self) -> Origin:
        """Where any driver connects to, while its proxy runs."""
        return Origin(
            addresses=(Address("127.0.0.1", self.door.port),),
            user=self.door.user,
            password=self.door.password,
            database=self.origin.database,
            sslmode="disable",  # TLS is spoken to the origin, not on this hop
        )

    @property
    def caching(self) -> dict[str, Any]:
        """What was asked for of the cache, by the fields of the proxy's ``Caching``."""
        if self.caching_disabled:
            return {"mode": "off"}
        ages = {"max_age": self.max_age, "stale_while_revalidate": self.stale_while_revalidate}
        given: dict[str, Any] = {name: age for name, age in ages.items() if age is not None}
        # Ages that were asked for are Hyperdrive's bargain.
        return given | {"mode": "ttl"} if given else {}

    def shown(self) -> dict[str, Any]:
        """Return the object as ``hyperdrive get`` prints it: without any password."""
        parameters = self.origin.libpq_parameters()
        port = parameters["port"]
        shown: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "origin": {
                "scheme": self.scheme,
                "host": parameters["host"],
                "port": int(port) if port.isdigit() else port,
                "database": self.origin.database,
                "user": self.origin.user,
            },
            "caching": {
                "disabled": self.caching_disabled,
                "max_age": MAX_AGE if self.max_age is None else self.max_age,
                "stale_while_revalidate": (
                    STALE_WHILE_REVALIDATE
                    if self.stale_while_revalidate is None
                    else self.stale_while_revalidate
                ),
            },
            "mtls": {
                "ca_certificate_id": self.origin.sslrootcert,
                "mtls_certificate_id": self.origin.sslcert,
                "sslmode": self.origin.sslmode,
            },
            "origin_connection_limit": self.origin_connection_limit,
            "created_on": self.created_on,
            "modified_on": self.modified_on,
            "restarted_on": self.restarted_on,
        }
        if self.caching_disabled:
            shown["caching"] = {"disabled": True}
        others = parameters.keys() - _PLACED - {"sslcert", "sslkey", "sslpassword"}
        if others:
            shown["origin"]["parameters"] = {name: parameters[name] for name in sorted(others)}
        return shown

    def stored(self) -> dict[str, Any]:
        """Return all of it, passwords included, for the store's file."""
        return {
            "id": self.id,
            "name": self.name,
            "scheme": self.scheme,
            "origin": self.origin.libpq_parameters(),
            "door": {
                "port": self.door.port,
                "user": self.door.user,
                "password": self.door.password,
            },
            "caching": {
                "disabled": self.caching_disabled,
                "max_age": self.max_age,
                "stale_while_revalidate": self.stale_while_revalidate,
            },
            "origin_connection_limit": self.origin_connection_limit,
            "created_on": self.created_on,
            "modified_on": self.modified_on,
            "restarted_on": self.restarted_on,
        }

    @classmethod
    def of_stored(cls, stored: Mapping[str, Any]) -> Configuration:
        """Return what ``stored`` has returned.

        Raises ``KeyError``, ``TypeError`` or ``ConfigurationError`` for anything else.
        """
        caching = stored["caching"]
        texts = (stored["id"], stored["name"], stored["scheme"], *stored["origin"].values())
        door = Door(**stored["door"])
        if not all(isinstance(text, str) for text in (*texts, door.user, door.password)):
            raise TypeError
        # What the environment says of password files is not part of it.
        origin = origin_from_parameters(stored["origin"], environ={})
        return cls(
            id=stored["id"],
            name=stored["name"],
            scheme=stored["scheme"],
            origin=origin,
            door=door,
            caching_disabled=caching["disabled"],
            max_age=caching["max_age"],
            stale_while_revalidate=caching["stale_while_revalidate"],
            origin_connection_limit=stored["origin_connection_limit"],
            created_on=stored["created_on"],
            modified_on=stored["modified_on"],
            restarted_on=stored["restarted_on"],
        )

    def with_origin(self, parameters: Mapping[str, str]) -> Configuration:
        """Return it with some of libpq's parameters changed. ``ConfigurationError``."""
        changed = {**self.origin.libpq_parameters(), **parameters}
        return replace(self, origin=origin_from_parameters(changed, environ={}))


def check_name(name: str) -> None:
    """Raise ``ConfigurationError`` for what cannot be the name of a configuration."""
    if not name.strip() or not name.isprintable() or len(name.encode()) > 255:
        raise ConfigurationError(
            "expected a name for the configuration: 1 to 255 bytes, all of them printable"
        )
    if "://" in name or "=" in name:  # not shown: it holds a password
        raise ConfigurationError("expected a name for the configuration, not a connection string")
