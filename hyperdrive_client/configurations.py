"""``hyperdrive create``, ``list``, ``get``, ``update``, ``delete``, ``restart`` and ``rotate``."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from .access import config_option, env_option
from .bindings import Configuration, Origin, find_wrangler_file, parse_connection_string
from .bindings.configuration import Door, check_name
from .bindings.connection_string import origin_from_parameters
from .bindings.resolution import shown_configuration
from .bindings.store import Store
from .bindings.wrangler import shown_path
from .bindings.wrangler_snippet import add_binding, binding_name, check_can_be_added, snippet
from .errors import ConfigurationError, HyperdriveError

# Below the ports that systems take for outgoing connections, so that it stays free.
_FIRST_PORT, _PORTS = 20000, 10000
_ATTEMPTS = 100

_CONNECTION_STRING = "--connection-string"
# Option → libpq's parameter.
_PARTS = {
    "origin_scheme": "",
    "origin_host": "host",
    "origin_port": "port",
    "database": "dbname",
    "origin_user": "user",
    "origin_password": "password",
}

# As wrangler's list has them.
_COLUMNS = (
    *("id", "name", "user", "host", "port", "scheme", "database", "caching", "mtls"),
    "origin_connection_limit",
)

_ORIGIN_OPTIONS = (
    click.option(
        _CONNECTION_STRING,
        metavar="URL",
        help="postgresql://user:password@host:port/database; '-' reads it from standard input, "
        "out of others' sight.",
    ),
    click.option("--origin-host", "--host", metavar="HOST", help="Instead of --connection-string:"),
    click.option("--origin-port", "--port", type=click.IntRange(1, 65535), help="[default: 5432]"),
    click.option("--origin-scheme", "--scheme", type=click.Choice(["postgres", "postgresql"])),
    click.option("--database", metavar="NAME"),
    click.option("--origin-user", "--user", metavar="NAME"),
    click.option(
        "--origin-password",
        "--password",
        metavar="PASSWORD",
        help="'-' reads it from standard input.",
    ),
    click.option(
        "--caching-disabled/--no-caching-disabled",
        default=None,
        help="Answer nothing from a cache.",
    ),
    click.option(
        "--max-age", type=click.IntRange(1, 3600), metavar="SECONDS", help="[default: 60]"
    ),
    click.option("--swr", type=click.IntRange(0, 3600), metavar="SECONDS", help="[default: 15]"),
    click.option(
        "--ca-certificate-id",
        metavar="PATH",
        help="The authorities for the origin's certificate, in PEM.",
    ),
    click.option(
        "--mtls-certificate-id", metavar="PATH", help="A certificate and its key, in one PEM file."
    ),
    click.option("--sslmode", type=click.Choice(["require", "verify-ca", "verify-full"])),
    click.option(
        "--origin-connection-limit", type=click.IntRange(min=5), metavar="N", help="[default: 20]"
    ),
)
_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")


def _origin_options(command: Callable[..., None]) -> Callable[..., None]:
    for add in reversed(_ORIGIN_OPTIONS):
        command = add(command)
    return command


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of configurations, for a shell, that begin so."""
    with contextlib.suppress(ConfigurationError):
        names = [each.name for each in Store().all()]
        return [name for name in names if name.startswith(incomplete)]
    return []


@click.command()
@click.argument("name")
@_origin_options
@click.option("--binding", metavar="NAME", help="The binding's name in the wrangler file.")
@click.option(
    "--update-config",
    is_flag=True,
    help="Add the binding to the wrangler file without asking, if that is JSON.",
)
@config_option
@env_option
@_json
def create(
    name: str,
    binding: str | None,
    update_config: bool,
    config: Path | None,
    env: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Make a configuration of this NAME, after a connection to its origin has succeeded.

    It is kept on this machine, with the password, in a file that only you can read. Prints its id
    and what to paste into the wrangler file.
    """
    check_name(name)
    wanted = binding_name(name) if binding is None else binding
    if wanted != binding_name(wanted):
        raise click.UsageError("--binding: expected letters, digits and _, no digit at the front.")
    scheme, origin = _origin_of(given)
    env = os.environ.get("CLOUDFLARE_ENV") if env is None else env
    file = find_wrangler_file(config)
    is_json = file is not None and file.suffix != ".toml"
    if update_config and not is_json:
        what = (
            f"{shown_path(file)} is TOML, which is never changed"
            if file
            else "there is no wrangler file"
        )
        raise ConfigurationError(f"--update-config: {what}; leave it out, and paste what is shown")
    store = Store()
    # All of that before the connection is tried, and again when it is saved.
    store.check_is_new(name)
    if file is not None and is_json and (binding is not None or update_config):
        check_can_be_added(file, env, wanted)
    _try(origin)
    now = _now()
    made = _cached(
        Configuration(
            id=uuid.uuid4().hex,
            name=name,
            scheme=scheme,
            origin=origin,
            door=Door(0, *_fresh()),
            created_on=now,
            modified_on=now,
        ),
        given,
    )
    made = store.add(lambda others: replace(made, door=replace(made.door, port=_port(others))))
    click.echo(f"Created configuration {made.name} with the id {made.id}", err=True)
    if as_json:
        click.echo(json.dumps(made.shown(), indent=2))
    _offer(file, env, wanted, made.id, asked=binding is not None or update_config, quiet=as_json)


@click.command(name="list")
@_json
def list_command(as_json: bool) -> None:
    """List the configurations. Never shows a password."""
    found = [each.shown() for each in Store().all()]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo("There are no configurations; hyperdrive create makes one.", err=True)
        return
    rows = [_COLUMNS, *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _row(shown: dict[str, Any]) -> tuple[str, ...]:
    origin, caching, mtls = shown["origin"], shown["caching"], shown["mtls"]
    ages = "max_age={max_age} swr={stale_while_revalidate}"
    limit = shown["origin_connection_limit"]
    return (
        shown["id"],
        shown["name"],
        origin["user"],
        origin["host"],
        str(origin["port"]),
        origin["scheme"],
        origin["database"],
        "disabled" if caching["disabled"] else ages.format(**caching),
        ", ".join(f"{name}={value}" for name, value in mtls.items() if value),
        "" if limit is None else str(limit),
    )


@click.command()
@click.argument("which", metavar="ID", shell_complete=complete)
def get(which: str) -> None:
    """Print a configuration as JSON, without its password. ID may be its name."""
    click.echo(json.dumps(Store().get(which).shown(), indent=2))


@click.command()
@click.argument("which", metavar="ID", shell_complete=complete)
@click.option("--name", metavar="NAME", help="A new name.")
@_origin_options
def update(which: str, name: str | None, **given: Any) -> None:
    """Change what is given of a configuration, and print it as JSON. ID may be its name.

    A connection to the changed origin has to succeed first. Clients that are connected stay so, by
    the old settings; new ones get the new settings.
    """
    if name is None and not any(value is not None for value in given.values()):
        raise click.UsageError("Nothing to change: give at least one option.")
    if name is not None:
        check_name(name)
    store = Store()
    old = store.get(which)
    scheme, origin = _origin_of(given, old)
    if origin != old.origin:
        _try(origin)

    def change(configuration: Configuration) -> Configuration:
        if configuration.origin != old.origin:
            raise ConfigurationError(
                "somebody else has changed this configuration meanwhile; nothing was saved"
            )
        changed = replace(
            configuration,
            name=name or configuration.name,
            scheme=scheme,
            origin=origin,
            modified_on=_now(),
        )
        return _cached(changed, given)

    changed = store.change(old.id, change)
    _replace_proxies(old, changed)
    click.echo(json.dumps(changed.shown(), indent=2))


@click.command()
@click.argument("which", metavar="ID", shell_complete=complete)
@_json
def delete(which: str, as_json: bool) -> None:
    """Forget a configuration. ID may be its name. Clients that are connected stay so."""
    removed = Store().remove(which)
    _retire_proxies(removed)
    _done("Deleted", removed, as_json)


@click.command()
@click.argument("which", metavar="ID", shell_complete=complete)
@_json
def restart(which: str, as_json: bool) -> None:
    """End all connections to a configuration's origin as soon as nobody uses them.

    ID may be its name.
    """
    from psycopg import OperationalError

    from .client import console
    from .client.shared_proxy import shared_proxies_of

    restarted = Store().change(which, lambda each: replace(each, restarted_on=_now()))
    for place in shared_proxies_of(restarted):
        record = place.running()
        try:
            if record is not None:
                console.reconnect(record.door)
        except OperationalError as error:
            raise HyperdriveError(f"no proxy answers: {' '.join(str(error).split())}") from None
    _done("Restarted", restarted, as_json)


@click.command()
@click.argument("which", metavar="ID", shell_complete=complete)
@_json
def rotate(which: str, as_json: bool) -> None:
    """Give a configuration's proxy a new user and password. ID may be the configuration's name.

    Clients that are connected stay so; connection strings that were saved are of no use any more:
    hyperdrive env prints the new ones.
    """
    store = Store()
    old = store.get(which)
    rotated = store.change(old.id, lambda each: replace(each, door=Door(each.door.port, *_fresh())))
    _replace_proxies(old, rotated)
    _done("Rotated the credentials of", rotated, as_json)


def _done(what: str, configuration: Configuration, as_json: bool) -> None:
    click.echo(f"{what} {shown_configuration(configuration)}", err=True)
    if as_json:
        click.echo(json.dumps(configuration.shown(), indent=2))


ALL = (create, list_command, get, update, delete, restart, rotate)


# Origins.


def _origin_of(given: dict[str, Any], old: Configuration | None = None) -> tuple[str, Origin]:
    """The scheme and the origin that options describe, over those of ``old``."""
    url = given["connection_string"]
    parts = {option: given[option] for option in _PARTS if given[option] is not None}
    if url is not None and parts:
        names = ", ".join(f"--{option.replace('_', '-')}" for option in parts)
        raise click.UsageError(f"{_CONNECTION_STRING} and {names} exclude each other.")
    if given["caching_disabled"] and (given["max_age"] is not None or given["swr"] is not None):
        raise click.UsageError("--caching-disabled and --max-age or --swr exclude each other.")
    if "-" in (url, parts.get("origin_password")):
        secret = sys.stdin.readline().rstrip("\r\n")
        if not secret:
            raise click.UsageError("there is nothing on standard input")
        url = secret if url == "-" else url
        parts = {name: secret if value == "-" else value for name, value in parts.items()}
    scheme = old.scheme if old else "postgresql"
    if url is not None:
        origin = parse_connection_string(url, environ={})
        scheme = url.partition("://")[0].lower().partition("+")[0] if "://" in url else scheme
    else:
        scheme = parts.pop("origin_scheme", scheme)
        before = old.origin.libpq_parameters() if old else {}
        _check_parts(before, parts)
        changed = {_PARTS[option]: str(value) for option, value in parts.items()}
        if "host" in changed and before.get("sslmode") == "prefer":
            del before["sslmode"]  # the default of the old host, which may be wrong for the new
        origin = origin_from_parameters(before | changed, environ={})
    origin = _with_tls(origin, given)
    if not origin.password:
        raise ConfigurationError(
            "a configuration needs a password: write it into the connection string, or give "
            "--origin-password (- reads it from standard input)"
        )
    return scheme, origin


def _check_parts(before: dict[str, str], parts: dict[str, Any]) -> None:
    for option in ("origin_host", "database", "origin_user"):
        if not parts.get(option) and not before.get(_PARTS[option]):
            raise click.UsageError(
                f"--{option.replace('_', '-')} is missing: give that, or {_CONNECTION_STRING}."
            )


def _with_tls(origin: Origin, given: dict[str, Any]) -> Origin:
    mode = given["sslmode"]
    if mode is not None:
        origin = replace(origin, sslmode=mode)
    if (path := given["ca_certificate_id"]) is not None:
        origin = replace(origin, sslrootcert=_certificate("--ca-certificate-id", path))
    if (path := given["mtls_certificate_id"]) is not None:
        path = _certificate("--mtls-certificate-id", path)
        origin = replace(origin, sslcert=path, sslkey=path)
    if origin.sslmode in ("verify-ca", "verify-full") and not origin.sslrootcert:
        raise click.UsageError(
            f"--sslmode {origin.sslmode} needs --ca-certificate-id PATH, or sslrootcert in the "
            "connection string ('system' for the system's authorities)."
        )
    if origin.sslrootcert == "system" and origin.sslmode != "verify-full":  # as for libpq
        raise click.UsageError("The system's authorities need --sslmode verify-full.")
    return origin.with_absolute_paths()


def _certificate(option: str, path: str) -> str:
    if path == "system" and option == "--ca-certificate-id":
        return path
    file = Path(path).absolute()
    if not file.is_file():
        raise ConfigurationError(f"{option}: there is no file {file}")
    return str(file)


def _cached(configuration: Configuration, given: dict[str, Any]) -> Configuration:
    """It, with what options say of the cache and of the limit."""
    disabled, age, swr = given["caching_disabled"], given["max_age"], given["swr"]
    if disabled is False:
        configuration = replace(configuration, caching_disabled=False)
    if disabled:
        configuration = replace(
            configuration, caching_disabled=True, max_age=None, stale_while_revalidate=None
        )
    if age is not None or swr is not None:
        configuration = replace(configuration, caching_disabled=False)
    if age is not None:
        configuration = replace(configuration, max_age=age)
    if swr is not None:
        configuration = replace(configuration, stale_while_revalidate=swr)
    if (limit := given["origin_connection_limit"]) is not None:
        configuration = replace(configuration, origin_connection_limit=limit)
    return configuration


def _try(origin: Origin) -> None:
    from .proxy.trial import try_origin

    where = ", ".join(f"{each.host}:{each.port}" for each in origin.addresses)
    try_origin(origin, lambda: click.echo(f"Testing the connection to {where}", err=True))


# Doors and proxies.


def _fresh() -> tuple[str, str]:
    from .proxy.spawn import fresh_credentials

    return fresh_credentials()


def _port(others: Sequence[Configuration]) -> int:
    """A port of 127.0.0.1 that is free now, and nobody else's later."""
    taken = {each.door.port for each in others}
    for _ in range(_ATTEMPTS):
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        if port in taken:
            continue
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise ConfigurationError(f"no port from {_FIRST_PORT} to {_FIRST_PORT + _PORTS} is free")


def _retire_proxies(configuration: Configuration) -> bool:
    """Have its running proxies leave their sockets, and go on for who is there.

    Returns whether one of them was to run until somebody stops it.
    """
    from .client.shared_proxy import shared_proxies_of
    from .running import tell

    places = shared_proxies_of(configuration)
    was_kept = any(place.is_kept for place in places)
    for place in places:
        tell(place, signal.SIGHUP)
    return was_kept


def _replace_proxies(old: Configuration, new: Configuration) -> None:
    from .client.shared_proxy import SharedProxy

    if _retire_proxies(old):
        SharedProxy(new.origin, new).keep()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# Wrangler files.


def _offer(
    file: Path | None, env: str | None, binding: str, id: str, *, asked: bool, quiet: bool
) -> None:
    """Show what to paste, or add it to the wrangler file if that is wanted."""
    is_toml = file is not None and file.suffix == ".toml"
    if not quiet:
        where = file.name if file is not None else "wrangler.jsonc"
        click.echo(f"For {where}:\n", err=True)
        click.echo(snippet(binding, id, toml=is_toml))
    if file is None or is_toml:
        if asked:
            what = "a TOML file is never changed" if file else "there is no wrangler file"
            click.echo(f"Nothing is added: {what}; paste it yourself.", err=True)
        return
    if not asked and not (_is_interactive() and click.confirm("Add it there?", default=True)):
        return
    add_binding(file, env, binding, id)
    click.echo(f"Added the binding {binding} to {shown_path(file)}", err=True)


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
