"""What ``connect(x)`` and its like are given: a name, an origin, or a hosted binding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from hyperdrive_client.bindings.binding import Binding
from hyperdrive_client.bindings.connection_string import (
    Origin,
    origin_from_parameters,
    parse_connection_string,
)
from hyperdrive_client.bindings.resolution import (
    DEFAULT_BINDING,
    Resolution,
    behind_its_proxy,
    looks_like_connection_string,
    resolve,
)
from hyperdrive_client.errors import ConfigurationError

# libpq's name for each field of the runtime object.
_HOSTED_FIELDS = {
    "host": "host",
    "port": "port",
    "user": "user",
    "password": "password",
    "database": "dbname",
}


def resolve_target(
    target: object = None,
    *,
    config: Path | None = None,
    env: str | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Resolution:
    """Return where a target leads; the other arguments and the errors are those of ``resolve``.

    A string with ``://`` or ``=`` is an origin, any other string the name of a binding, ``None``
    the binding ``HYPERDRIVE``. An object or mapping with ``connectionString``, or with ``host``,
    ``port``, ``user``, ``password`` and ``database``, is a hosted binding, as a Python Worker's
    ``env`` holds them. A ``Binding`` is what its name leads to.
    """
    if isinstance(target, Binding):
        return target.resolution
    if target is None:
        target = DEFAULT_BINDING
    if not isinstance(target, str):
        return Resolution(None, _hosted_origin(target, environ), "hosted binding", hosted=True)
    if looks_like_connection_string(target):
        origin = parse_connection_string(target, environ=environ)
        return behind_its_proxy(Resolution(None, origin, "connection string"), environ)
    return resolve(target, config=config, env=env, environ=environ, cwd=cwd)


def _hosted_origin(target: object, environ: Mapping[str, str] | None) -> Origin:
    text = _field(target, "connectionString")
    fields = {libpq: _field(target, name) for name, libpq in _HOSTED_FIELDS.items()}
    # The fields are surer: Hyperdrive does not percent-encode the password in its string.
    if None not in fields.values():
        parameters = {
            name: str(int(value) if isinstance(value, float) else value)  # JavaScript's numbers
            for name, value in fields.items()
        }
        parameters["sslmode"] = _ssl_mode(parameters["host"], str(text or ""))
        return origin_from_parameters(parameters, environ=environ)
    if isinstance(text, str):
        return parse_connection_string(text, environ=environ)
    raise ConfigurationError(
        f"expected the name of a binding, a connection string or a hosted binding, "
        f"not an object of type {type(target).__name__}"
    )


def _ssl_mode(host: str, connection_string: str) -> str:
    """Return what the string says, ``disable`` for Hyperdrive itself, else ``""``, the default.

    TLS is spoken between Hyperdrive and the database, not on the short hop to Hyperdrive.
    """
    written = re.findall(r"[?&]sslmode=([a-z-]+)", connection_string)
    if written:
        return str(written[-1])
    return "disable" if host.endswith(".hyperdrive.local") else ""


def _field(target: object, name: str) -> object:
    if isinstance(target, Mapping):
        return target.get(name)
    return getattr(target, name, None)
