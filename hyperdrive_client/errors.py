"""The exceptions of this package.

::

    HyperdriveError
    ├── ConfigurationError (psycopg.InterfaceError)    a file, URL, variable or argument is wrong
    │   └── BindingError                               a binding name leads nowhere
    ├── ProxyStartError    (psycopg.OperationalError)  the proxy could not be started
    ├── OriginStartError   (psycopg.OperationalError)  the embedded PostgreSQL could not be started
    └── ProtocolError                                  a peer broke the wire protocol
        ├── ClientProtocolError                        … the client did
        └── OriginProtocolError                        … the origin did

What a caller of the library can meet is also one of psycopg's exceptions, so code that handles
psycopg's errors handles ours (PEP 249, "Exceptions").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperdrive_client import alone

if TYPE_CHECKING or not alone.IS_ALONE:
    try:
        from psycopg import InterfaceError, OperationalError
    except ImportError as error:  # psycopg is there, but no libpq for it
        raise ImportError(
            f"hyperdrive_client needs psycopg with a libpq: {error}. "
            "Install it with: pip install 'hyperdrive-client[binary]'"
        ) from error
else:
    InterfaceError = OperationalError = Exception

__all__ = [
    "BindingError",
    "ClientProtocolError",
    "ConfigurationError",
    "HyperdriveError",
    "OriginProtocolError",
    "OriginStartError",
    "ProtocolError",
    "ProxyStartError",
]


ORIGIN_IS_A_PROXY = "The origin is a Hyperdrive proxy itself"
"""How the text of the error begins that a proxy gives to clients then."""


class HyperdriveError(Exception):
    """Base of every exception that this package defines."""


class ConfigurationError(HyperdriveError, InterfaceError):
    """A file, URL, variable or argument is wrong; the text says where and what to do."""


class BindingError(ConfigurationError):
    """A binding name could not be resolved to an origin."""


class ProxyStartError(HyperdriveError, OperationalError):
    """The proxy could not be started, or ended before it was ready."""


class OriginStartError(HyperdriveError, OperationalError):
    """The embedded PostgreSQL server could not be found, initialised or started."""


class ProtocolError(HyperdriveError):
    """A peer sent what the PostgreSQL wire protocol does not allow here.

    ``sqlstate`` is the code that a client is told (PostgreSQL, Appendix A).
    """

    sqlstate = "08P01"

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        if sqlstate is not None:
            self.sqlstate = sqlstate


class ClientProtocolError(ProtocolError):
    """The client broke the protocol."""


class OriginProtocolError(ProtocolError):
    """The origin broke the protocol."""
