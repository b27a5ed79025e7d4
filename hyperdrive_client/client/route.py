"""From what ``connect`` is given to libpq's parameters."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from psycopg.abc import ConnParam

from hyperdrive_client.bindings import Origin, Resolution, resolve_target
from hyperdrive_client.client.local_proxy import LocalProxy
from hyperdrive_client.client.proxies import (
    found_to_be_a_proxy,
    is_a_proxy,
    proxy_for,
    was_found_to_be_a_proxy,
)
from hyperdrive_client.client.shared_proxy import SharedProxy
from hyperdrive_client.errors import ORIGIN_IS_A_PROXY, ConfigurationError

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


# A process that was killed loses its sockets a moment before its locks.
_DEATH_SECONDS = 0.1
_DEATH_PAUSE = 0.005


class Route(NamedTuple):
    """How to connect: libpq's parameters, and the proxy that they lead to, if any."""

    parameters: dict[str, Any]
    proxy: LocalProxy | SharedProxy | None
    origin: Origin

    def has_changed(self, error: Exception) -> bool:
        """Whether another attempt goes another way, after one that met this error.

        The proxy has ended, so there will be a new one; or it has found that the origin is a proxy
        itself, and so is not needed.
        """
        if self.proxy is None:
            return False
        if ORIGIN_IS_A_PROXY in str(error):
            found_to_be_a_proxy(self.origin)
            return True
        # Whoever has answered was not being killed.
        deadline = time.monotonic() + (0 if "FATAL:" in str(error) else _DEATH_SECONDS)
        while self.proxy.is_running:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_DEATH_PAUSE)
        return True


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
) -> Route:
    """Return how to connect to a target, through the proxy if it needs one.

    ``overrides`` go over libpq's parameters. Raises ``BindingError``, ``ConfigurationError`` (also
    for an override that belongs to the origin) and ``ProxyStartError``.
    """
    # To psycopg None is "not given".
    given = {name: value for name, value in overrides.items() if value is not None}
    resolution = resolution_of(target, config, env)
    if not resolution.hosted:
        _check(given)
    proxy = proxy_for(resolution)
    origin = resolution.origin if proxy is None else proxy.door
    # PGHOSTADDR would lead past the host that is meant.
    parameters: dict[str, Any] = {"hostaddr": "", **origin.libpq_parameters()}
    is_ours = proxy is not None or is_a_proxy(origin)
    if is_ours:
        # A proxy has neither GSSAPI nor TLS to bind to, whatever the environment asks for.
        parameters |= {"gssencmode": "disable", "channel_binding": "disable"}
    parameters |= given
    if is_ours or was_found_to_be_a_proxy(origin):
        # Our parameter would hide that of the environment.
        options = parameters.get("options", os.environ.get("PGOPTIONS", ""))
        parameters["options"] = f"-c hyperdrive.report=on {options}".rstrip()
    return Route(parameters, proxy, resolution.origin)


def _path(config: str | int | PathLike[str]) -> Path:
    return Path(config if isinstance(config, PathLike) else str(config))


def _check(overrides: Mapping[str, ConnParam]) -> None:
    if wrong := sorted(_ORIGIN_PARAMETERS & overrides.keys()):
        raise ConfigurationError(
            f"{', '.join(wrong)} can't be given beside a binding or an origin: "
            "write the origin as one connection string, postgresql://user:password@host:port/"
            "database?name=value"
        )
