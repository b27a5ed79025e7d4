"""From what ``connect`` is given to libpq's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from psycopg.abc import ConnParam

from hyperdrive_client.bindings import Resolution, resolve_target
from hyperdrive_client.client.local_proxy import is_one_of_ours
from hyperdrive_client.client.shared_proxies import door
from hyperdrive_client.errors import ConfigurationError

# What decides where a connection leads and as whom. As arguments they would lead past the proxy.
_ORIGIN_PARAMETERS = frozenset(
    {
        "channel_binding",
        "dbname",
        "host",
        "hostaddr",
        "passfile",
        "password",
        "port",
        "service",
        "sslcert",
        "sslkey",
        "sslmode",
        "sslnegotiation",
        "sslpassword",
        "sslrootcert",
        "target_session_attrs",
        "user",
    }
)


def resolution_of(target: object, config: ConnParam | PathLike[str], env: ConnParam) -> Resolution:
    """Return where a target leads; ``None`` and ``""`` mean the binding ``HYPERDRIVE``."""
    return resolve_target(
        None if target == "" else target,
        config=None if config is None else _path(config),
        env=None if env is None else str(env),
    )


def route(
    target: object,
    config: ConnParam | PathLike[str],
    env: ConnParam,
    overrides: Mapping[str, ConnParam],
) -> dict[str, ConnParam]:
    """Return libpq's parameters for a connection to a target, through the proxy if it needs one.

    ``overrides`` go over them. Raises ``BindingError``, ``ConfigurationError`` (also for an
    override that belongs to the origin) and ``ProxyStartError``.
    """
    # To psycopg None is "not given".
    given = {name: value for name, value in overrides.items() if value is not None}
    resolution = resolution_of(target, config, env)
    if not resolution.hosted:
        _check(given)
    origin = door(resolution)
    # PGHOSTADDR would lead past the host that is meant.
    parameters: dict[str, ConnParam] = {"hostaddr": "", **origin.libpq_parameters()}
    if is_one_of_ours(origin):
        # A proxy has neither GSSAPI nor TLS to bind to, whatever the environment asks for.
        parameters |= {"gssencmode": "disable", "channel_binding": "disable"}
    return parameters | given


def _path(config: str | int | PathLike[str]) -> Path:
    return Path(config if isinstance(config, PathLike) else str(config))


def _check(overrides: Mapping[str, ConnParam]) -> None:
    if wrong := sorted(_ORIGIN_PARAMETERS & overrides.keys()):
        raise ConfigurationError(
            f"{', '.join(wrong)} can't be given beside a binding or an origin: "
            "write the origin as one connection string, postgresql://user:password@host:port/"
            "database?name=value"
        )
