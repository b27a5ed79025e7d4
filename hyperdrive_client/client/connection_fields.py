"""Hyperdrive's runtime object: where clients connect to."""

from __future__ import annotations

from abc import ABC, abstractmethod

from hyperdrive_client.bindings import Origin


class ConnectionFields(ABC):
    """The fields of a Worker's ``env.HYPERDRIVE``, for any driver."""

    @abstractmethod
    def _door(self) -> Origin:
        """Where clients connect to, and how they log in."""

    @property
    def connection_string(self) -> str:
        """A URL, password included."""
        return self._door().connection_string

    @property
    def connectionString(self) -> str:
        """The same, under Hyperdrive's name."""
        return self.connection_string

    @property
    def host(self) -> str:
        """A host name, an IP address, or the directory of a Unix socket."""
        return self._door().addresses[0].host

    @property
    def port(self) -> int:
        return self._door().addresses[0].port

    @property
    def user(self) -> str:
        return self._door().user

    @property
    def password(self) -> str:
        return self._door().password or ""

    @property
    def database(self) -> str:
        return self._door().database
