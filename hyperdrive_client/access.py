"""``hyperdrive resolve``, ``url``, ``env`` and ``psql``: how other programs get to a binding."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import warnings
from pathlib import Path

import click

from .bindings import (
    DEFAULT_BINDING,
    Origin,
    Resolution,
    find_wrangler_file,
    password_for,
    read_wrangler_file,
    resolve,
)
from .bindings.resolution import shown_configuration
from .bindings.store import Store
from .errors import ConfigurationError, ProxyStartError

LOCAL_CONNECTION_STRING = "CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_"

# Seconds, for a proxy on this machine.
_TIMEOUT = 5.0

config_option = click.option(
    "--config", type=click.Path(path_type=Path), metavar="PATH", help="The wrangler file."
)
env_option = click.option(
    "--env", metavar="NAME", help="The wrangler file's environment.  [default: $CLOUDFLARE_ENV]"
)


def complete_binding(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the names for a shell that begin so; none from files that are wrong."""
    names = {DEFAULT_BINDING}
    with contextlib.suppress(ConfigurationError):
        names |= {each.name for each in Store().all()}
    with warnings.catch_warnings(), contextlib.suppress(ConfigurationError):
        warnings.simplefilter("ignore")
        names |= set(_names(ctx.params.get("config"), ctx.params.get("env")))
    return sorted(name for name in names if name.startswith(incomplete))


@click.command(name="resolve")
@click.argument("binding", default=DEFAULT_BINDING, shell_complete=complete_binding)
@config_option
@env_option
@click.option("--json", "as_json", is_flag=True, help="As JSON: one object.")
def resolve_command(binding: str, config: Path | None, env: str | None, as_json: bool) -> None:
    """Say where BINDING leads, and which source said so. Never shows a password.

    BINDING is HYPERDRIVE if it is not given.
    """
    found = resolve(binding, config=config, env=env)
    origin = found.origin
    rows = {
        "binding": found.name,
        "source": found.source,
        "host": hosts(origin),
        "database": origin.database,
        "user": origin.user,
        "password": _whose_password(origin),
        "sslmode": origin.sslmode,
    }
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for name, text in rows.items():
        click.echo(f"{name:<9} {text}")


@click.command()
@click.argument("binding", default=DEFAULT_BINDING, shell_complete=complete_binding)
@config_option
@env_option
def url(binding: str, config: Path | None, env: str | None) -> None:
    """Print the connection string of BINDING's proxy, for any driver, and start it.

    It holds the proxy's own password, not the database's, and is for this machine. The proxy runs
    until hyperdrive stop.
    """
    click.echo(_door(resolve(binding, config=config, env=env)).connection_string)


@click.command(name="env")
@click.argument("bindings", metavar="[BINDING]...", nargs=-1, shell_complete=complete_binding)
@config_option
@env_option
@click.option("--json", "as_json", is_flag=True, help="As JSON: one object.")
def env_command(
    bindings: tuple[str, ...], config: Path | None, env: str | None, as_json: bool
) -> None:
    """Print the variables by which `wrangler dev` uses the proxies of bindings, and start these.

    All bindings of the wrangler file are meant if none is named, or else HYPERDRIVE. The lines are
    for a shell, by eval "$(hyperdrive env)", and for a .env file; they hold the proxies' own
    passwords. For a configuration of hyperdrive create they stay the same. A proxy runs until
    hyperdrive stop.
    """
    names = bindings or _names(config, env) or (DEFAULT_BINDING,)
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise ConfigurationError(
                f'the binding "{name}" has a name that no variable of a shell can have'
            )
    # All of them or none.
    variables = {
        LOCAL_CONNECTION_STRING + name: _door(
            resolve(name, config=config, env=env)
        ).connection_string
        for name in names
    }
    if as_json:
        click.echo(json.dumps(variables, indent=2))
        return
    for variable, text in variables.items():
        click.echo(f"export {variable}='{text}'")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("binding", default=DEFAULT_BINDING, shell_complete=complete_binding)
@click.argument("arguments", metavar="[PSQL'S OPTIONS]...", nargs=-1, type=click.UNPROCESSED)
@config_option
@env_option
def psql(binding: str, arguments: tuple[str, ...], config: Path | None, env: str | None) -> None:
    """Run psql through BINDING's proxy; what is behind BINDING are options of psql's own."""
    from psycopg.conninfo import make_conninfo

    from .client.proxies import proxy_for

    if binding.startswith("-"):
        binding, arguments = DEFAULT_BINDING, (binding, *arguments)
    program = shutil.which("psql")
    if program is None:
        raise ConfigurationError("psql is not in PATH; PostgreSQL's client package has it")
    found = resolve(binding, config=config, env=env)
    proxy = proxy_for(found)
    door = found.origin if proxy is None else proxy.door
    parameters = door.libpq_parameters()
    # Neither in argv, which all users of the system can read, nor of another server.
    environment = {
        name: text for name, text in os.environ.items() if name not in ("PGHOSTADDR", "PGSERVICE")
    }
    environment["PGPASSWORD"] = parameters.pop("password", "")
    # Ctrl-C is for psql, which cancels its query by it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    done = subprocess.run(
        [program, "--dbname", make_conninfo("", **parameters), *arguments], env=environment
    )
    raise click.exceptions.Exit(done.returncode)


def hosts(origin: Origin) -> str:
    """Return where an origin is, for people."""
    return ", ".join(
        address.host if address.is_unix else f"{address.host}:{address.port}"
        for address in origin.addresses
    )


def _names(config: Path | None, env: str | None) -> tuple[str, ...]:
    file = find_wrangler_file(config)
    if file is None:
        return ()
    return tuple(
        each.name for each in read_wrangler_file(file, env or os.environ.get("CLOUDFLARE_ENV"))
    )


def _door(found: Resolution) -> Origin:
    """Where any driver connects to: the binding's proxy, which then runs until it is stopped."""
    from .client import variables
    from .client.proxies import is_a_proxy
    from .client.shared_proxy import SharedProxy, place_for

    if is_a_proxy(found.origin):
        _check_it_listens(found)
        return found.origin
    if variables.where() == "off":
        raise ConfigurationError(f"{variables.WHERE} is off: there is no proxy to lead to")
    configuration = found.configuration
    is_shared = place_for(found.origin, configuration).running() is not None
    if configuration is not None and not is_shared and _answers(configuration.tcp_door):
        # `hyperdrive serve` runs there.
        return configuration.tcp_door
    # Wherever other programs have theirs: this one has to outlive the command.
    proxy = SharedProxy(found.origin, configuration)
    if configuration is not None and proxy.record.port != configuration.door.port:
        raise ProxyStartError(
            f"another program listens at port {configuration.door.port}, where the clients of "
            f"{shown_configuration(configuration)} connect to: end that, and then hyperdrive stop"
        )
    proxy.keep()
    return proxy.record.tcp_door


def _answers(door: Origin) -> bool:
    from psycopg import OperationalError

    from .client.console import console

    try:
        console(door).close()
    except OperationalError:
        return False
    return True


def _check_it_listens(found: Resolution) -> None:
    address = found.origin.addresses[0]
    if address.is_unix:
        return
    try:
        socket.create_connection((address.host, address.port), _TIMEOUT).close()
    except OSError:
        raise ProxyStartError(
            f"{found.source} leads to a proxy that has ended: remove that, or name the database"
        ) from None


def _whose_password(origin: Origin) -> str:
    if origin.password:
        return "given"
    in_file = any(password_for(origin, address) for address in origin.addresses)
    return "in the password file" if in_file else "none"


ALL = (resolve_command, url, env_command, psql)
