"""A binding as a Worker sees it: its fields are the proxy's."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from hyperdrive_client import bindings
from hyperdrive_client.bindings import DEFAULT_BINDING, Origin
from hyperdrive_client.client.connection_fields import ConnectionFields
from hyperdrive_client.client.proxies import proxy_for


class Binding(bindings.Binding, ConnectionFields):
    """A binding that starts the proxy in front of its origin when a field is first read.

    A proxy that has died is replaced at the next reading, so the fields may change.
    """

    def _door(self) -> Origin:
        proxy = proxy_for(self.resolution)
        return self.origin if proxy is None else proxy.any_drivers_door


def binding(
    name: str = DEFAULT_BINDING,
    *,
    config: str | PathLike[str] | None = None,
    env: str | None = None,
) -> Binding:
    """Return the binding of that name, without any I/O.

    ``.origin``, ``.name`` and ``.source`` lead to the origin. ``.connection_string`` (and
    ``connectionString``), ``.host``, ``.port``, ``.user``, ``.password`` and ``.database`` are
    the proxy's, for any driver, and start it. ``config`` and ``env`` are the path of the wrangler
    file and the name of its environment.

    The fields raise ``BindingError``, ``ConfigurationError`` and ``ProxyStartError``.
    """
    return Binding(name, config=None if config is None else Path(config), env=env)
