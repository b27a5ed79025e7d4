"""What one proxy is told: where it listens, who may use it, where the origin is, the limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..bindings.connection_string import Origin
from ..errors import ConfigurationError

Auth = Literal["scram", "trust", "peer"]
CacheMode = Literal["auto", "wal", "writes", "ttl", "off"]
Ssl = Literal["off", "allow", "require"]
ClientCert = Literal["no", "verify-ca", "verify-full"]

CONSOLE_DATABASE = "hyperdrive.console"
"""A virtual database: who names it talks to the proxy itself."""

PUBLICATION = "hyperdrive_cache"
"""At the origin: the tables whose changes a cache follows."""

LARGEST_MAX_AGE = 3600.0
"""Of a cached answer, in seconds (Hyperdrive, "Query caching")."""

MOST_WORKERS = 64
"""Far more than help: PostgreSQL and the programs on the same machine want processors as well."""

LOOPBACK_HOSTS = frozenset(("127.0.0.1", "::1", "localhost"))


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits and time-outs of one configuration; times in seconds, 0 switches a time-out off.

    The figures are Hyperdrive's ("Limits") where it has one, but for ``statement_timeout``. What
    would end a client's work is off by default, so that it may take as long as without a proxy.
    """

    origin_connection_limit: int = 20
    """Connections to the origin at most, in any state."""
    client_connection_limit: int = 10_000
    """Connections of clients at most, in any state; without one, whoever can reach the port could
    use up the memory with connections that never authenticate."""
    pool_timeout: float = 15.0
    """How long a client waits for an origin connection."""
    connect_timeout: float = 15.0
    """How long opening one origin connection may take, authentication included."""
    login_timeout: float = 15.0
    """How long a client may take from its first byte to the end of authentication."""
    idle_timeout: float = 600.0
    """How long an origin connection may be idle before it is closed."""
    max_lifetime: float = 3600.0
    """How long an origin connection is used at most, for a backend's memory grows with what it has
    seen, and a changed address is only seen by new ones. Hyperdrive states none; this is the
    default of psycopg_pool and PgBouncer."""
    silence_timeout: float = 60.0
    """How long a peer's system may leave what we sent without any acknowledgement, and an origin
    what it owes at once (the end of a cancelled query, of cleaning) without an answer. Longer than
    a failover of the network takes, shorter than TCP's own 15 minutes, or two hours when idle.
    A peer that is alive and does not read is not silent."""
    statement_timeout: float = 0.0
    """How long the origin lets a statement run."""
    transaction_timeout: float = 0.0
    """How long a client may keep an origin connection for one transaction, or one statement
    outside of any."""
    idle_transaction_timeout: float = 0.0
    """How long a client may leave a transaction open without a word."""
    client_idle_timeout: float = 0.0
    """How long a client outside of a transaction may be without a word."""
    proxy_idle_timeout: float = 0.0
    """How long the proxy goes on without any client; for the one that programs share."""
    drain_timeout: float = 30.0
    """How long a proxy that is told to end waits for transactions to finish; 0 ends at once."""
    prepared_statements: int = 200
    """Named statements kept at each origin connection."""

    def __post_init__(self) -> None:
        for name in ("origin_connection_limit", "client_connection_limit", "prepared_statements"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}: at least 1 is needed")
        for name in (
            "pool_timeout",
            "connect_timeout",
            "login_timeout",
            "idle_timeout",
            "max_lifetime",
            "silence_timeout",
            "statement_timeout",
            "transaction_timeout",
            "idle_transaction_timeout",
            "client_idle_timeout",
            "proxy_idle_timeout",
            "drain_timeout",
        ):
            if not 0 <= getattr(self, name) < 1e9:
                raise ConfigurationError(f"{name} is {getattr(self, name)}: seconds from 0 on")


@dataclass(frozen=True, slots=True)
class Caching:
    """What is kept of answers, and for how long; times in seconds, sizes in bytes.

    The figures are Hyperdrive's ("Query caching") where it has one.
    """

    mode: CacheMode = "auto"
    """How an answer is known to be right still: by following the origin's WAL (``wal``), by the
    writes that this proxy has seen, which must then be all of them (``writes``), by its age and
    those writes (``ttl``); ``auto`` is ``wal`` where the origin is set up for it, else ``off``."""
    max_age: float = 60.0
    """How old an answer may be."""
    stale_while_revalidate: float = 15.0
    """For how long after that it is still given, while one query fetches it anew. What is known to
    be wrong is never given."""
    memory: int = 64 * 1024 * 1024
    """For all answers together; 0 keeps none."""
    result_limit: int = 50_000_000
    """A longer answer is passed on, and not kept."""
    staleness_bound: float = 1.0
    """In ``wal``: by how much an answer may be older than a commit that others made."""
    functions: tuple[str, ...] = ()
    """Functions outside of pg_catalog, as ``schema.name``, whose results depend on their arguments
    alone, by the user's word."""

    @classmethod
    def asked_for(cls, **given: Any) -> Caching:
        """From those fields that are not ``None``.

        An age without a mode means ``ttl``: Hyperdrive has no other.
        """
        values = {name: value for name, value in given.items() if value is not None}
        if values.keys() & {"max_age", "stale_while_revalidate"}:
            values.setdefault("mode", "ttl")
        return cls(**values)

    def __post_init__(self) -> None:
        if self.mode not in get_args(CacheMode):
            raise ConfigurationError(
                f"the cache's mode is {self.mode!r}: expected 'auto', 'wal', 'writes', 'ttl' or "
                "'off'"
            )
        for name in ("max_age", "stale_while_revalidate"):
            if not 0 <= getattr(self, name) <= LARGEST_MAX_AGE:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}: seconds from 0 to {LARGEST_MAX_AGE:g}"
                )
        for name in ("memory", "result_limit"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}: bytes from 0 on")
        if not 0.2 <= self.staleness_bound <= LARGEST_MAX_AGE:
            raise ConfigurationError(
                f"staleness_bound is {self.staleness_bound}: seconds from 0.2 on"
            )


@dataclass(frozen=True, slots=True)
class Settings:
    """All of one proxy. ``user`` and ``password`` are what its clients authenticate with."""

    origin: Origin
    user: str
    password: str = field(repr=False)
    host: str | None = "127.0.0.1"
    """``None`` to listen on no port at all."""
    port: int = 0
    """0: any free one."""
    unix_socket: str | None = None
    """Path of a socket to listen on as well."""
    auth: Auth = "scram"
    """How clients show who they are; ``peer`` lets those in who come by the socket as the proxy's
    own user of the system, and is ``scram`` for all others (PostgreSQL, "Peer Authentication")."""
    limits: Limits = Limits()
    caching: Caching = Caching()
    any_database: bool = False
    """Clients may name any database at the origin; each has connections of its own."""
    pin_sequences: bool = False
    """Sessions that use a sequence keep their origin connection, so that currval always works."""
    ssl: Ssl = "off"
    """TLS for clients that ask for it (``allow``), or for all (``require``); TCP only."""
    ssl_cert_file: str | None = None
    """Path of our certificate in PEM, those that it was issued by behind it."""
    ssl_key_file: str | None = None
    """Path of its key, not encrypted; without, it is in the same file."""
    ssl_ca_file: str | None = None
    """Path of the authorities for clients' certificates, each of which must then be valid."""
    clientcert: ClientCert = "no"
    """Whether a client must have a certificate, and (``verify-full``) of the user's name."""
    workers: int = 1
    """Processes that share the work, the limits and what they know of writes."""

    def __post_init__(self) -> None:
        self._check_tls()
        if not 1 <= self.workers <= MOST_WORKERS:
            raise ConfigurationError(f"workers is {self.workers}: expected 1 to {MOST_WORKERS}")
        if self.workers > self.limits.origin_connection_limit:
            raise ConfigurationError(
                f"workers is {self.workers} and origin_connection_limit "
                f"{self.limits.origin_connection_limit}: each worker needs a connection at least"
            )
        if self.origin.database == CONSOLE_DATABASE:
            raise ConfigurationError(
                f"the database {CONSOLE_DATABASE} can't be had: the console is there"
            )
        if self.host is None and self.unix_socket is None:
            raise ConfigurationError("neither host nor unix_socket: the proxy has to listen")
        if self.auth not in get_args(Auth):
            raise ConfigurationError(f"auth is {self.auth!r}: expected 'scram', 'trust' or 'peer'")
        if self.auth == "trust" and self.host is not None and self.host not in LOOPBACK_HOSTS:
            raise ConfigurationError(
                f"auth 'trust' would let anyone in who reaches {self.host}: it is for loopback "
                "and Unix sockets only; use auth 'scram' or listen on 127.0.0.1"
            )
        if not 0 <= self.port <= 65535:
            raise ConfigurationError(f"port is {self.port}: expected 0 to 65535")

    def _check_tls(self) -> None:
        if self.ssl not in get_args(Ssl):
            raise ConfigurationError(f"ssl is {self.ssl!r}: expected 'off', 'allow' or 'require'")
        if self.clientcert not in get_args(ClientCert):
            raise ConfigurationError(
                f"clientcert is {self.clientcert!r}: expected 'no', 'verify-ca' or 'verify-full'"
            )
        files = (self.ssl_cert_file, self.ssl_key_file, self.ssl_ca_file)
        if self.ssl == "off" and (any(files) or self.clientcert != "no"):
            raise ConfigurationError(
                "ssl is 'off', so no certificates are used: set ssl to 'require' or 'allow'"
            )
        if self.ssl != "off" and not self.ssl_cert_file:
            raise ConfigurationError(f"ssl is {self.ssl!r}, which needs ssl_cert_file")
        if self.ssl != "off" and self.host is None:
            raise ConfigurationError(
                f"ssl is {self.ssl!r}: a Unix socket has no TLS; listen on a host and a port"
            )
        if self.clientcert != "no" and not (self.ssl == "require" and self.ssl_ca_file):
            raise ConfigurationError(
                f"clientcert is {self.clientcert!r}, which needs ssl_ca_file and ssl 'require'"
            )
