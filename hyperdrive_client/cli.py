"""The ``hyperdrive`` command.

Exit codes: 0 done, 1 with one line on standard error that says what went wrong, 2 wrong usage.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

import click

from . import __version__, access, configurations, running
from .access import config_option, env_option
from .bindings import (
    Address,
    Origin,
    Resolution,
    parse_connection_string,
    resolve,
    resolve_target,
)
from .bindings.connection_string import DEFAULT_PORT
from .errors import ConfigurationError, HyperdriveError

if TYPE_CHECKING:
    from .proxy.settings import Auth, CacheMode, ClientCert, Limits, Settings, Ssl

_Command = Callable[..., None]

# Hyperdrive, "Limits": a statement is ended after this many seconds, and no configuration has
# fewer origin connections.
HOSTED_STATEMENT_TIMEOUT = 60.0
HOSTED_MINIMUM_CONNECTIONS = 5

# libpq takes the folder and the port, and makes this name of them ("Connection Strings", host).
_SOCKET_NAME = re.compile(r"\.s\.PGSQL\.([0-9]{1,5})")


class _Commands(click.Group):
    """Commands whose ``HyperdriveError`` is a message and exit code 1, not a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except HyperdriveError as error:
            raise click.ClickException(str(error)) from error


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    from .client.variables import bytes_of

    try:
        return None if value is None else bytes_of(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _host_and_port(ctx: click.Context, param: click.Parameter, value: str | None) -> Address | None:
    if value is None:
        return None
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):([0-9]{1,5})", value)
    if match is None or int(match[3]) > 65535:
        raise click.BadParameter("expected HOST:PORT, such as 127.0.0.1:6432 or [::1]:6432")
    return Address(match[1] or match[2], int(match[3]))


_file = click.Path(dir_okay=False, resolve_path=True)
_SECONDS: dict[str, Any] = {"type": float, "metavar": "SECONDS"}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Cheap PostgreSQL connections: a pooling proxy with Cloudflare Hyperdrive's configuration."""
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    click.echo(f"Warning: {message}", err=True)


for _command in (*configurations.ALL, *access.ALL, *running.ALL):
    main.add_command(_command)


@main.command()
@click.option("--clients", default=200, show_default=True, type=click.IntRange(1, 2000))
@click.option(
    "--limit",
    default=20,
    show_default=True,
    type=click.IntRange(1, 80),
    help="Origin connections at most.",
)
@click.option(
    "--seconds",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0.1, 600),
    help="How long the clients are at work.",
)
def demo(clients: int, limit: int, seconds: float) -> None:
    """Show it all on a PostgreSQL of the demo's own; leaves nothing behind."""
    from .demo import run

    run(clients, limit, seconds)


def _which_origin(command: _Command) -> _Command:
    """Add the arguments that ``_resolution`` takes."""
    for add in reversed(_WHICH_ORIGIN):
        command = add(command)
    return command


_WHICH_ORIGIN = (
    click.argument("target", metavar="[BINDING]", required=False),
    click.option("--binding", metavar="NAME", help="The same, as an option."),
    click.option(
        "--connection-string",
        metavar="URL",
        help="The origin instead of a binding; '-' reads it from standard input, out of others' "
        "sight.",
    ),
    click.option(
        "--connection-string-env", metavar="NAME", help="The variable that holds the origin's URL."
    ),
    config_option,
    env_option,
)


@main.command()
@_which_origin
@click.option("--setup", is_flag=True, help="Create the cache's publication, or add to it.")
@click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="SCHEMA.NAME",
    help="Add this table; may be repeated.  [default: all that have a key]",
)
@click.option("--remove", is_flag=True, help="Drop the cache's publication.")
@click.option("--json", "as_json", is_flag=True, help="As JSON: one object.")
def doctor(
    target: str | None,
    binding: str | None,
    connection_string: str | None,
    connection_string_env: str | None,
    config: Path | None,
    env: str | None,
    setup: bool,
    tables: tuple[str, ...],
    remove: bool,
    as_json: bool,
) -> None:
    """Say what the cache can be at BINDING's origin, and what is missing there.

    BINDING is HYPERDRIVE if nothing is given. Without --setup and --remove the origin is only
    read, and these change nothing but the publication hyperdrive_cache. The exit code is 0 if the
    cache can follow the origin's WAL, and 1 if something is missing for that, or in danger.
    """
    from . import doctor as examination

    if setup and remove:
        raise click.UsageError("--setup and --remove exclude each other.")
    if tables and not setup:
        raise click.UsageError("--table is for --setup.")
    found = _resolution(target, binding, connection_string, connection_string_env, config, env)
    if setup:
        click.echo(examination.set_up(found.origin, tables), err=True)
    elif remove:
        click.echo(examination.remove(found.origin), err=True)
        return
    report = examination.examine(found.origin)
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    else:
        click.echo("\n".join(examination.described(report)))
    if report.missing or report.dangers:
        raise click.exceptions.Exit(1)


@main.command()
@_which_origin
@click.option(
    "--listen",
    callback=_host_and_port,
    metavar="HOST:PORT",
    help="[default: 127.0.0.1, any free port]",
)
@click.option(
    "--unix-socket",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Listen there instead: a folder, or PATH/.s.PGSQL.PORT in one.",
)
@click.option(
    "--ssl-cert-file",
    type=_file,
    metavar="PATH",
    help="The proxy's certificate, in PEM: clients can have TLS, and must.",
)
@click.option("--ssl-key-file", type=_file, metavar="PATH", help="Its key.  [default: same file]")
@click.option(
    "--ssl",
    type=click.Choice(["allow", "require"]),
    help="With a certificate: whether clients must have TLS.  [default: require]",
)
@click.option(
    "--ssl-ca-file",
    type=_file,
    metavar="PATH",
    help="The authorities for clients' certificates; one that is shown must then be valid.",
)
@click.option(
    "--clientcert",
    type=click.Choice(["verify-ca", "verify-full"]),
    help="Clients must show a certificate; for verify-full with the user as its common name.",
)
@click.option(
    "--without-tls",
    is_flag=True,
    help="Listen elsewhere than on loopback although clients' connections are not encrypted.",
)
@click.option(
    "--auth",
    type=click.Choice(["scram", "trust"]),
    default="scram",
    show_default=True,
    help="How clients show who they are; trust is for loopback and Unix sockets only.",
)
@click.option("--user", metavar="NAME", help="The clients' user.  [default: a fresh one]")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Holds the clients' password, which is then not shown.  [default: a fresh one]",
)
@click.option(
    "--any-database",
    is_flag=True,
    help="Clients may name any database at the origin; each has connections of its own.",
)
@click.option(
    "--pin-sequences",
    is_flag=True,
    help="Sessions that use a sequence keep their origin connection, for currval and lastval.",
)
@click.option(
    "--cache-mode",
    type=click.Choice(["auto", "wal", "writes", "ttl", "off"]),
    help="How answers are known to be right.  [default: auto, or ttl with --max-age or --swr]",
)
@click.option("--caching-disabled", is_flag=True, help="The same as --cache-mode off.")
@click.option("--max-age", **_SECONDS, help="How old an answer may be.  [default: 60]")
@click.option(
    "--swr",
    **_SECONDS,
    help="For how long after that it is still given, while it is fetched anew.  [default: 15]",
)
@click.option(
    "--cache-memory",
    callback=_size,
    metavar="SIZE",
    help="For all answers, such as 256MB.  [default: 64MB; 0: no cache]",
)
@click.option(
    "--staleness-bound",
    **_SECONDS,
    help="In wal: how much older an answer may be than others' commits.  [default: 1]",
)
@click.option(
    "--cache-function",
    "cache_functions",
    multiple=True,
    metavar="SCHEMA.NAME",
    help="A function whose results depend on its arguments alone; may be repeated.",
)
@click.option("--origin-connection-limit", type=int, metavar="N", help="[default: 20]")
@click.option(
    "--pool-timeout", **_SECONDS, help="Waiting for an origin connection.  [default: 15; 0: no end]"
)
@click.option("--connect-timeout", **_SECONDS, help="Opening one.  [default: 15; 0: no end]")
@click.option("--idle-timeout", **_SECONDS, help="Keeping one unused.  [default: 600; 0: no end]")
@click.option("--max-lifetime", **_SECONDS, help="Using one at all.  [default: 3600; 0: no end]")
@click.option(
    "--silence-timeout",
    **_SECONDS,
    help="A peer whose system answers nothing at all.  [default: 60; 0: TCP's own]",
)
@click.option("--statement-timeout", **_SECONDS, help="One statement.  [default: 0: no end]")
@click.option("--transaction-timeout", **_SECONDS, help="One transaction.  [default: 0: no end]")
@click.option(
    "--idle-transaction-timeout",
    **_SECONDS,
    help="A client that is silent in a transaction.  [default: 0: no end]",
)
@click.option(
    "--client-idle-timeout",
    **_SECONDS,
    help="A client that is silent outside of one.  [default: 0: no end]",
)
@click.option("--client-connection-limit", type=int, metavar="N", help="[default: 10000]")
@click.option(
    "--drain-timeout", **_SECONDS, help="Waiting for transactions to finish.  [default: 30]"
)
@click.option(
    "--workers",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that share the work, the limits and what they know of writes.",
)
@click.option(
    "--hosted-limits",
    is_flag=True,
    help="Hyperdrive's own limits: statements end after 60 s, at least 5 origin connections.",
)
def serve(
    target: str | None,
    binding: str | None,
    connection_string: str | None,
    connection_string_env: str | None,
    config: Path | None,
    env: str | None,
    listen: Address | None,
    unix_socket: Path | None,
    ssl_cert_file: str | None,
    ssl_key_file: str | None,
    ssl: Ssl | None,
    ssl_ca_file: str | None,
    clientcert: ClientCert | None,
    without_tls: bool,
    auth: Auth,
    user: str | None,
    password_file: Path | None,
    any_database: bool,
    pin_sequences: bool,
    hosted_limits: bool,
    cache_mode: CacheMode | None,
    caching_disabled: bool,
    max_age: float | None,
    swr: float | None,
    cache_memory: int | None,
    staleness_bound: float | None,
    cache_functions: tuple[str, ...],
    workers: int,
    **limits: float | None,
) -> None:
    """Run the proxy in front of BINDING's origin until told to end.

    BINDING is HYPERDRIVE if nothing is given. The connection string for clients is the one line
    on standard output. SIGTERM or Ctrl-C lets transactions finish first; a second one does not.
    With several workers, SIGHUP replaces them one by one, and the old ones serve their clients to
    the end.
    """
    from .proxy.settings import Caching, Settings
    from .proxy.spawn import fresh_credentials, run_until_told
    from .proxy.workers import run_workers

    if listen is not None and unix_socket is not None:
        raise click.UsageError("--listen and --unix-socket exclude each other.")
    if not ssl_cert_file and (ssl or ssl_key_file or ssl_ca_file or clientcert):
        raise click.UsageError("TLS needs the proxy's certificate: --ssl-cert-file PATH.")
    if ssl_cert_file and without_tls:
        raise click.UsageError("--ssl-cert-file and --without-tls exclude each other.")
    if listen and not (listen.is_local or without_tls or ssl_cert_file):
        raise click.UsageError(
            f"--listen {listen.host}: what clients send there is not encrypted. Listen on "
            "127.0.0.1, give --ssl-cert-file, or say --without-tls."
        )
    if caching_disabled and cache_mode not in (None, "off"):
        raise click.UsageError("--caching-disabled and --cache-mode exclude each other.")
    found = _resolution(target, binding, connection_string, connection_string_env, config, env)
    said: dict[str, Any] = {
        "mode": "off" if caching_disabled else cache_mode,
        "max_age": max_age,
        "stale_while_revalidate": swr,
    }
    said = {name: value for name, value in said.items() if value is not None}
    configuration = found.configuration
    fresh_user, fresh_password = fresh_credentials()
    address = listen or Address("127.0.0.1", 0)
    if configuration is not None:
        # What `hyperdrive env` has printed leads here.
        door = configuration.door
        fresh_user, fresh_password = door.user, door.password
        address = listen or Address("127.0.0.1", door.port)
        if limits["origin_connection_limit"] is None:
            limits["origin_connection_limit"] = configuration.origin_connection_limit
        said = said or configuration.caching
    settings = Settings(
        origin=found.origin,
        user=user or fresh_user,
        password=_password_in(password_file) if password_file else fresh_password,
        host=None if unix_socket else address.host,
        port=address.port,
        unix_socket=_socket_path(unix_socket) if unix_socket else None,
        auth=auth,
        limits=_limits(hosted_limits, limits),
        caching=Caching.asked_for(
            **said,
            memory=cache_memory,
            staleness_bound=staleness_bound,
            functions=cache_functions,
        ),
        ssl=(ssl or "require") if ssl_cert_file else "off",
        ssl_cert_file=ssl_cert_file,
        ssl_key_file=ssl_key_file,
        ssl_ca_file=ssl_ca_file,
        clientcert=clientcert or "no",
        any_database=any_database,
        pin_sequences=pin_sequences,
        workers=workers,
    )
    _refuse_itself(settings)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    (run_until_told if workers == 1 else run_workers)(
        settings,
        on_start=lambda settings: _announce(
            settings, found.source, shows_password=auth == "scram" and password_file is None
        ),
        on_drain=lambda: click.echo("draining: transactions finish, new work is refused", err=True),
    )


def _resolution(
    target: str | None,
    binding: str | None,
    connection_string: str | None,
    variable: str | None,
    config: Path | None,
    env: str | None,
) -> Resolution:
    given = (target, binding, connection_string, variable)
    if sum(value is not None for value in given) > 1:
        raise click.UsageError(
            "BINDING, --binding, --connection-string and --connection-string-env exclude each "
            "other."
        )
    if connection_string == "-":
        return _parsed(sys.stdin.readline(), "standard input")
    if connection_string is not None:
        return _parsed(connection_string, "--connection-string")
    if variable is not None:
        return _parsed(os.environ.get(variable, ""), f"environment variable {variable}")
    if binding is not None:
        return resolve(binding, config=config, env=env)
    return resolve_target(target, config=config, env=env)


def _parsed(text: str, source: str) -> Resolution:
    if not text.strip():
        raise ConfigurationError(f"{source}: there is no connection string")
    try:
        return Resolution(None, parse_connection_string(text.strip()), source)
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {error}") from None


def _password_in(path: Path) -> str:
    try:
        password = path.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--password-file {path} cannot be read: {error}") from None
    if not password or "\n" in password:
        raise ConfigurationError(f"--password-file {path}: expected one line, the password")
    return password


def _socket_path(path: Path) -> str:
    path = path.absolute()
    if path.is_dir():
        path /= f".s.PGSQL.{DEFAULT_PORT}"
    if not _SOCKET_NAME.fullmatch(path.name):
        raise click.UsageError(
            f"--unix-socket {path}: clients look for a name such as .s.PGSQL.5432; give that, or "
            "a folder that exists."
        )
    return str(path)


def _limits(hosted: bool, given: dict[str, Any]) -> Limits:
    from .proxy.settings import Limits

    values = {name: value for name, value in given.items() if value is not None}
    if hosted:
        values.setdefault("statement_timeout", HOSTED_STATEMENT_TIMEOUT)
    limits = Limits(**values)
    if hosted and limits.origin_connection_limit < HOSTED_MINIMUM_CONNECTIONS:
        raise ConfigurationError(
            f"origin_connection_limit is {limits.origin_connection_limit}: Hyperdrive's minimum "
            f"is {HOSTED_MINIMUM_CONNECTIONS} (--hosted-limits)"
        )
    return limits


def _refuse_itself(settings: Settings) -> None:
    """A proxy that is its own origin would wait for itself, and one before another helps nobody."""
    from .client.proxies import is_a_proxy

    if is_a_proxy(settings.origin):
        raise ConfigurationError("the origin is a Hyperdrive itself: connect to it directly")
    for address in settings.origin.addresses:
        if _leads_to(address, settings):
            raise ConfigurationError(
                f"the origin {_shown(address)} is where this proxy is to listen; "
                "listen elsewhere, or name the PostgreSQL server as the origin"
            )


def _leads_to(address: Address, settings: Settings) -> bool:
    if settings.unix_socket is not None:
        path = Path(address.host, f".s.PGSQL.{address.port}")
        return address.is_unix and path.resolve() == Path(settings.unix_socket).resolve()
    if address.is_unix or address.port != settings.port or settings.host is None:
        return False
    everywhere = settings.host in ("0.0.0.0", "::") and address.is_local
    return everywhere or not _ip_addresses(address.host).isdisjoint(_ip_addresses(settings.host))


def _ip_addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:  # who connects there will say so better
        return set()


def _announce(settings: Settings, source: str, *, shows_password: bool) -> None:
    """What people need to know, and on standard output what programs need."""
    origin, limit = settings.origin, settings.limits.origin_connection_limit
    listening = settings.unix_socket or _shown(Address(settings.host or "", settings.port))
    click.echo(
        f"hyperdrive {__version__}\n"
        f"  origin     {_hosts(origin)}/{origin.database} ({source}), {limit} connections at most\n"
        f"  listening  {listening}\n"
        "  to stop    Ctrl-C or SIGTERM: transactions finish; a second time: at once\n"
        f"Connection string for clients{'' if shows_password else ', without the password'}:",
        err=True,
    )
    click.echo(_client_url(settings, settings.password if shows_password else None))


def _client_url(settings: Settings, password: str | None) -> str:
    if settings.host is not None:
        # As in Hyperdrive TLS is for the origin, and on the way to the proxy only if it is set up.
        return Origin(
            addresses=(Address(settings.host, settings.port),),
            user=settings.user,
            database=settings.origin.database,
            password=password,
            sslmode="disable" if settings.ssl == "off" else "require",
        ).connection_string
    folder, name = os.path.split(settings.unix_socket or "")
    port = name.rpartition(".")[2]
    login = quote(settings.user, safe="") + (f":{quote(password, safe='')}" if password else "")
    database = quote(settings.origin.database, safe="")
    # As parameters: not every driver decodes a folder in the place of the host.
    return f"postgresql://{login}@/{database}?host={quote(folder, safe='')}&port={port}"


def _hosts(origin: Origin) -> str:
    return ",".join(map(_shown, origin.addresses))


def _shown(address: Address) -> str:
    bare_ipv6 = ":" in address.host and not address.is_unix
    return f"[{address.host}]:{address.port}" if bare_ipv6 else f"{address.host}:{address.port}"
