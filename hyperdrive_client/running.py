"""``hyperdrive status``, ``logs``, ``stop`` and ``purge``: proxies that a user's programs share."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict
from typing import Any

import click

from .bindings import Origin
from .errors import BindingError, ConfigurationError, HyperdriveError
from .registry import Place, Record, places

_PAUSE = 0.05
_LOCK_TIMEOUT = 5.0
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON: a list of objects.")
def status(as_json: bool) -> None:
    """List the proxies that your programs share, with what they do just now."""
    found = [_described(place) for place in places()]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo("No proxy is running.", err=True)
        return
    rows: list[tuple[str, ...]] = [("ID", "PROCESS", "UP", "CLIENTS", "CONNECTIONS", "ORIGIN")]
    rows += [
        (
            each["id"],
            str(each["pid"]) if each["running"] else "died",
            _duration(each["uptime_seconds"]) if each["running"] else "",
            str(each.get("clients", "")),
            str(each.get("origin_connections", "")),
            each["origin"],
        )
        for each in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    if any(not each["running"] for each in found):
        click.echo("What died left a log: hyperdrive logs ID", err=True)


@click.command()
@click.argument("which", metavar="[ID|BINDING]", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, until Ctrl-C.")
def logs(which: str | None, follow: bool) -> None:
    """Print the log of a shared proxy, also of one that has died.

    The beginning of its id is enough, or the name of a binding; neither is needed if there is
    only one proxy.
    """
    place = _chosen(which)
    try:
        with place.log.open(encoding="utf-8", errors="replace") as file:
            shutil.copyfileobj(file, sys.stdout)
            while follow and place.running():
                sys.stdout.flush()
                time.sleep(_PAUSE)
                shutil.copyfileobj(file, sys.stdout)
    except FileNotFoundError:
        raise ConfigurationError(f"proxy {place.id} has no log") from None
    except KeyboardInterrupt:
        pass


@click.command()
@click.argument("which", metavar="[ID|BINDING]", required=False)
@click.option("--all", "everyone", is_flag=True, help="All of them.")
@click.option("--now", is_flag=True, help="At once, without letting transactions finish.")
def stop(which: str | None, everyone: bool, now: bool) -> None:
    """End a shared proxy, when the transactions under way are done.

    Programs that connect from now on get a new one.
    """
    if everyone and which:
        raise click.UsageError("--all and a proxy exclude each other.")
    for place in places() if everyone else [_chosen(which)]:
        record = place.running() or _started_or_removed(place)
        if record is None:
            click.echo(f"{place.id} had died; its log is removed", err=True)
        else:
            _stop(place, record, now)


@click.command()
@click.argument("which", metavar="[ID|BINDING|URL]", required=False)
@click.option("--binding", metavar="NAME", help="The same, as an option.")
@click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="SCHEMA.NAME",
    help="Only answers that depend on this table; may be repeated.",
)
def purge(which: str | None, binding: str | None, tables: tuple[str, ...]) -> None:
    """Have a proxy's cache forget its answers.

    URL is what `hyperdrive serve` has printed; '-' reads it from standard input, out of others'
    sight. A binding means all of your programs' proxies in front of its origin, or the proxy that
    it leads to. Nothing is needed if there is only one proxy.
    """
    from psycopg import OperationalError

    from .client import console

    if which and binding:
        raise click.UsageError("BINDING and --binding exclude each other.")
    for door in _doors(which or binding):
        try:
            answers = console.purge(door, tables)
        except OperationalError as error:
            raise HyperdriveError(f"no proxy answers: {' '.join(str(error).split())}") from None
        click.echo(f"answers forgotten: {answers}", err=True)


def _doors(which: str | None) -> list[Origin]:
    from .bindings import resolve_target
    from .client.shared_proxy import shared_proxies_for

    if which == "-":
        which = sys.stdin.readline().strip()
    named = [] if which is None else [each for each in places() if each.id.startswith(which)]
    if which is None or named:
        record = _chosen(which).running()
        if record is None:
            raise ConfigurationError(f"proxy {which} has died")
        return [record.door]
    origin = resolve_target(which).origin
    return [record.door for record in shared_proxies_for(origin)] or [origin]


def _started_or_removed(place: Place) -> Record | None:
    try:
        with place.lock(_LOCK_TIMEOUT):
            if (record := place.running()) is None:
                shutil.rmtree(place.folder, ignore_errors=True)
            return record
    except TimeoutError as error:
        raise HyperdriveError(f"{place.id} is being started, or was: {error}") from error


ALL = (status, logs, stop, purge)


def tell(place: Place, number: signal.Signals) -> None:
    """Send a signal to a proxy, if it runs, and wait until it is not published any more."""
    record = place.running()
    if record is None:
        return
    try:
        is_there = place.watch()
        os.kill(record.pid, number)
    except (FileNotFoundError, ProcessLookupError):
        return
    while place.running() == record and is_there():
        time.sleep(_PAUSE)


def _stop(place: Place, record: Record, now: bool) -> None:
    try:
        is_there = place.watch()
        # Two different signals, for two of a kind may arrive as one.
        for number in (signal.SIGTERM, signal.SIGINT) if now else (signal.SIGTERM,):
            os.kill(record.pid, number)
    except (FileNotFoundError, ProcessLookupError):
        click.echo(f"{record.id} had ended", err=True)
        return
    told_at, told = time.monotonic(), False
    while is_there():
        if not told and time.monotonic() - told_at > 1:
            click.echo(f"{record.id} lets transactions finish (--now: it does not)", err=True)
            told = True
        time.sleep(_PAUSE)
    click.echo(f"{record.id} has ended", err=True)


def _chosen(which: str | None) -> Place:
    found = places()
    if which is not None:
        found = [place for place in found if place.id.startswith(which)] or _of_binding(which)
    if len(found) == 1:
        return found[0]
    known = ", ".join(place.id for place in places()) or "none"
    if which is None:
        what = "no proxy is running" if not found else "there are several proxies: name one"
    else:
        what = f"{which!r} is the id or the binding of {'several' if found else 'no'} proxies"
    raise ConfigurationError(f"{what} (there are: {known})")


def _of_binding(name: str) -> list[Place]:
    from .bindings import resolve
    from .client.shared_proxy import place_for, shown_origin

    try:
        found = resolve(name)
    except BindingError:
        return []
    place = place_for(found.origin, found.configuration)
    if place.folder.exists():
        return [place]
    # Another installation of this package may have started it, or this one with other settings.
    recorded = ((place, place.read()) for place in places())
    return [
        each for each, record in recorded if record and record.origin == shown_origin(found.origin)
    ]


def _described(place: Place) -> dict[str, Any]:
    record, alive = place.read(), place.running()
    described: dict[str, Any] = {"id": place.id, "running": alive is not None, "origin": "?"}
    if record is not None:
        described |= {"pid": record.pid, "origin": record.origin, "version": record.version}
    if alive is not None:
        described |= {
            "python": alive.python,
            "uptime_seconds": round(time.time() - alive.started_at),
            "unix_socket": alive.unix_socket,
            "port": alive.port,
            **_figures(alive),
        }
    return described


def _figures(record: Record) -> dict[str, Any]:
    from psycopg import OperationalError

    from .client.stats import stats_of

    try:
        return asdict(stats_of(record.door))
    except OperationalError:
        return {}  # its process is stopped, or it has just ended


def _duration(seconds: int) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return "0 s"
