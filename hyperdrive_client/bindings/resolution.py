"""From a binding's name to its origin."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hyperdrive_client.bindings.binding_warning import BindingWarning
from hyperdrive_client.bindings.configuration import Configuration
from hyperdrive_client.bindings.connection_string import Origin, parse_connection_string
from hyperdrive_client.bindings.dotenv import Variable, read_dotenv_files
from hyperdrive_client.bindings.near_miss import did_you_mean
from hyperdrive_client.bindings.store import Store, store_folder
from hyperdrive_client.bindings.wrangler import (
    FILE_NAMES,
    WranglerBinding,
    find_wrangler_file,
    read_wrangler_file,
    shown_path,
)
from hyperdrive_client.errors import BindingError, ConfigurationError

DEFAULT_BINDING = "HYPERDRIVE"

_DEPRECATED_PREFIX = "WRANGLER_HYPERDRIVE_LOCAL_CONNECTION_STRING_"
_CURRENT_PREFIX = "CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_"
_ID = re.compile(r"[0-9a-fA-F]{32}")
_PREFIXES = ("HYPERDRIVE_URL_", _CURRENT_PREFIX, _DEPRECATED_PREFIX)


@dataclass(frozen=True, slots=True)
class Resolution:
    """Where a target leads and who said so.

    ``name`` is the binding's, or ``None`` where no name was involved. ``source`` is for people:
    ``environment variable HYPERDRIVE_URL_DB``, ``wrangler.jsonc:12, localConnectionString``.
    A ``hosted`` origin is itself a Hyperdrive: it is connected straight, never through a proxy.
    ``configuration`` is the stored one that the origin is from, if it is from one.
    """

    name: str | None
    origin: Origin
    source: str
    hosted: bool = False
    configuration: Configuration | None = None


def resolve(
    name: str = DEFAULT_BINDING,
    *,
    config: Path | None = None,
    env: str | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Resolution:
    """Return the origin of a binding: the first source with a connection string that is not empty.

    The order: ``HYPERDRIVE_URL_<name>``, ``CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_<name>``,
    ``WRANGLER_HYPERDRIVE_LOCAL_CONNECTION_STRING_<name>`` (each in ``environ``, then in the
    ``.env`` files), ``localConnectionString`` in the wrangler file, the stored configuration with
    the binding's id, and the one with the name ``name``. Files are read only when it is their turn.
    A connection string that leads to the proxy of a stored configuration, as ``hyperdrive env``
    prints them, means that configuration. ``config`` is the path of the wrangler file, ``env`` the
    name of its environment (``None``: ``CLOUDFLARE_ENV`` decides; empty: the top level), ``cwd``
    where files are looked for; ``environ`` and ``cwd`` default to those of the process.

    Raises ``BindingError`` where no source answers, and ``ConfigurationError`` where a source is
    wrong. (Hyperdrive, "Local development".)
    """
    check_binding_name(name)
    places = _Places(config, env, os.environ if environ is None else environ, cwd)
    looked_at = []
    for source, text in places.candidates(name):
        if text:
            found = Resolution(name, _parse(text, source, places.environ), source)
            return behind_its_proxy(found, places.environ)
        looked_at.append(source)
    for source, configuration in places.stored(name):
        if configuration is not None:
            return Resolution(name, configuration.origin, source, configuration=configuration)
        looked_at.append(source)
    known = places.known_names()
    raise BindingError(
        f'the binding "{name}" leads nowhere. Looked at: {"; ".join(looked_at)}; '
        f"variables also in the .env files of {places.dotenv_folder}. "
        f"Set {_CURRENT_PREFIX}{name}, or localConnectionString in the wrangler file, or "
        f"hyperdrive create {name}. "
        f"Known bindings: {', '.join(sorted(known)) or 'none'}"
        f"{did_you_mean(name, known - {name})}"
    )


def check_binding_name(name: str) -> None:
    """Raise ``ConfigurationError`` for what cannot be the name of a binding."""
    if not name:
        raise ConfigurationError("the name of a binding is empty")
    if looks_like_connection_string(name):  # not shown: it holds a password
        raise ConfigurationError("expected the name of a binding, not a connection string")


def looks_like_connection_string(text: str) -> bool:
    """Whether a string is an origin (``://`` or ``=`` in it) and not the name of a binding."""
    return "://" in text or "=" in text


def behind_its_proxy(found: Resolution, environ: Mapping[str, str] | None = None) -> Resolution:
    """Return the stored configuration to whose proxy a connection string leads, else ``found``.

    So nothing is put in front of what ``hyperdrive env`` prints, and it is right also while that
    proxy does not run. A store that can't be read has no configurations.
    """
    if len(found.origin.addresses) != 1 or not found.origin.addresses[0].is_local:
        return found
    told = found.origin.addresses[0].port, found.origin.user
    with contextlib.suppress(ConfigurationError):
        for each in Store(store_folder(environ)).all():
            if (each.door.port, each.door.user) == told:
                source = f"{found.source}: the proxy of {shown_configuration(each)}"
                return Resolution(found.name, each.origin, source, configuration=each)
    return found


def shown_configuration(configuration: Configuration) -> str:
    """Return how messages name a configuration."""
    return f'configuration "{configuration.name}" ({configuration.id})'


def _parse(text: str, source: str, environ: Mapping[str, str]) -> Origin:
    try:
        return parse_connection_string(text, environ=environ)
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {error}") from None


class _Places:
    """Where connection strings are looked for; each file is read once, when first asked for."""

    def __init__(
        self, config: Path | None, env: str | None, environ: Mapping[str, str], cwd: Path | None
    ) -> None:
        self.environ = environ
        self._env = environ.get("CLOUDFLARE_ENV") if env is None else env
        self._config = config
        self._cwd = cwd
        if config is not None:
            find_wrangler_file(config, cwd)  # a wrong path is an error, whoever answers

    @cached_property
    def _file(self) -> Path | None:
        return find_wrangler_file(self._config, self._cwd)

    @property
    def dotenv_folder(self) -> Path:
        """Where the ``.env`` files are: next to the wrangler file, else the working directory."""
        return self._file.parent if self._file else Path(os.path.abspath(self._cwd or ""))

    @cached_property
    def _variables(self) -> dict[str, Variable]:
        return read_dotenv_files(self.dotenv_folder, self._env, self.environ)

    @cached_property
    def _bindings(self) -> dict[str, WranglerBinding]:
        bindings = read_wrangler_file(self._file, self._env) if self._file else ()
        return {binding.name: binding for binding in bindings}

    def candidates(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield each source in its order, and its connection string, empty if it has none."""
        for prefix in _PREFIXES:
            source, text = self._variable(prefix + name)
            if text and prefix == _DEPRECATED_PREFIX:
                warnings.warn(
                    f"{source} is deprecated; use {_CURRENT_PREFIX}{name}",
                    BindingWarning,
                    stacklevel=3,
                )
            yield source, text
        yield self._local_connection_string(name)

    @cached_property
    def _store(self) -> Store:
        return Store(store_folder(self.environ))

    def stored(self, name: str) -> Iterator[tuple[str, Configuration | None]]:
        """Yield each way into the store, and what it leads to."""
        binding = self._bindings.get(name)
        if binding is not None:
            found = self._store.find(binding.id) if _ID.fullmatch(binding.id) else None
            by = f"the id in {binding.place}"
            yield f"{shown_configuration(found)}, by {by}" if found else f"{by} (not stored)", found
        found = self._store.find(name)
        yield shown_configuration(found) if found else f"{self._store.file} (no {name})", found

    def known_names(self) -> set[str]:
        """Return the names in the wrangler file, those of variables, and stored ones."""
        return (
            self._bindings.keys()
            | {
                variable.removeprefix(prefix)
                for variable in self.environ.keys() | self._variables.keys()
                for prefix in _PREFIXES
                if variable.startswith(prefix) and self._variable(variable)[1]
            }
            | {each.name for each in self._store.all()}
        )

    def _variable(self, variable: str) -> tuple[str, str]:
        text = self.environ.get(variable, "").strip()
        if text or variable not in self._variables:
            return f"environment variable {variable}", text
        found = self._variables[variable]
        return f"{variable} in {shown_path(found.path)}", found.text.strip()

    def _local_connection_string(self, name: str) -> tuple[str, str]:
        if self._file is None:
            return f"{', '.join(FILE_NAMES)} (none in {self.dotenv_folder} or above)", ""
        binding = self._bindings.get(name)
        if binding is None:
            return f"{shown_path(self._file)} (no binding of this name)", ""
        text = binding.local_connection_string or ""
        return f"{binding.place}, localConnectionString", text.strip()
