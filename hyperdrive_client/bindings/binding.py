"""A binding by its name, resolved when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from hyperdrive_client.bindings.connection_string import Origin
from hyperdrive_client.bindings.resolution import (
    DEFAULT_BINDING,
    Resolution,
    check_binding_name,
    resolve,
)


class Binding:
    """A binding's name and, from first use on, its origin. Making one does no I/O.

    The arguments are those of ``resolve``. ``origin``, ``source`` and ``resolution`` raise what
    ``resolve`` raises, and what they return is kept.
    """

    def __init__(
        self,
        name: str = DEFAULT_BINDING,
        *,
        config: Path | None = None,
        env: str | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        check_binding_name(name)
        self.name = name
        self._config = config
        self._env = env
        self._environ = environ
        self._cwd = cwd

    @cached_property
    def resolution(self) -> Resolution:
        """Where the name leads, and the source that said so."""
        return resolve(
            self.name,
            config=self._config,
            env=self._env,
            environ=self._environ,
            cwd=self._cwd,
        )

    @property
    def origin(self) -> Origin:
        """The PostgreSQL server behind; its repr hides the password."""
        return self.resolution.origin

    @property
    def source(self) -> str:
        """The source of the connection string, for people."""
        return self.resolution.source

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def binding(
    name: str = DEFAULT_BINDING,
    *,
    config: Path | None = None,
    env: str | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Binding:
    """Return the binding of that name, without any I/O; the arguments are those of ``resolve``."""
    return Binding(name, config=config, env=env, environ=environ, cwd=cwd)
