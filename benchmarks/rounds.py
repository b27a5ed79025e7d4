"""Contestants that take turns: whatever is measured, in several rounds.

Every round begins with another contestant, so that a machine that is busy for a while is busy for
all of them, and ratios are taken within a round.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import contestants, process, report
from benchmarks.contestants import DIRECT, OPEN, PGBOUNCER, Contestant, Entrance
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.proxy.settings import CacheMode

Figures = dict[str, float]
"""What one run gave, by the headings of its table."""
Result = TypeVar("Result")


def take_turns(
    everyone: Sequence[Contestant], number: int, measure: Callable[[Contestant], Result]
) -> dict[str, list[Result]]:
    """What each contestant's measurement gave in each of ``number`` rounds, by its name."""
    runs: dict[str, list[Result]] = {one.name: [] for one in everyone}
    for turn in range(number):
        first = turn % len(everyone)
        for one in [*everyone[first:], *everyone[:first]]:
            runs[one.name].append(measure(one))
    return runs


def show(title: str, runs: dict[str, list[Figures]], compared: Sequence[str], digits: int) -> None:
    """Print the table; behind each figure of ``compared`` its ratios to the first contestants."""
    headings = [""]
    for figure in _headings(runs):
        headings.append(figure)
        headings += ["of direct", "of PgBouncer"] if figure in compared else []
    rows = [headings]
    for name, own in runs.items():
        row = [name]
        for figure in _headings(runs):
            values = [each.get(figure) for each in own]
            row.append(report.spread(values, digits))
            if figure in compared:
                for other in (DIRECT, PGBOUNCER):
                    others = [each.get(figure) for each in runs.get(other, [{}] * len(own))]
                    row.append(report.ratio(values, others))
        rows.append(row)
    report.print_table(title, rows)


def _headings(runs: dict[str, list[Figures]]) -> list[str]:
    return list(dict.fromkeys(name for own in runs.values() for each in own for name in each))


def cpu_of(
    contestant: Contestant, work: Callable[[], float], heading: str
) -> tuple[float, Figures]:
    """Do ``work``: how many units it says it did, and the proxy's CPU microseconds for each."""
    before = 0.0 if contestant.pid is None else process.cpu_seconds(contestant.pid)
    done = work()
    if contestant.pid is None:
        return done, {}
    return done, {heading: (process.cpu_seconds(contestant.pid) - before) / done * 1e6}


def parser(description: str | None, number: int = 5) -> argparse.ArgumentParser:
    """Of a program, with the options that all have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=number, help=f"default: {number}")
    made.add_argument("--without-pgbouncer", action="store_true", help="leave PgBouncer out")
    return made


@contextmanager
def others(
    server: EmbeddedPostgres,
    options: argparse.Namespace,
    entrance: Entrance = OPEN,
    *,
    origin_port: int = 0,
) -> Iterator[list[Contestant]]:
    """PostgreSQL itself, and PgBouncer if there is one."""
    with ExitStack() as stack:
        everyone = [contestants.direct(server, entrance)]
        if origin_port:
            everyone = [replace(everyone[0], port=origin_port)]
        program = None if options.without_pgbouncer else contestants.find_pgbouncer()
        if program is not None:
            made = contestants.pgbouncer(server, program, entrance, origin_port=origin_port)
            everyone.append(stack.enter_context(made))
        else:
            print(f"{PGBOUNCER}: {'left out' if options.without_pgbouncer else 'not found'}")
        for one in everyone:
            print(f"{one.name}: {one.about}", flush=True)
        yield everyone


@contextmanager
def contest(
    server: EmbeddedPostgres,
    options: argparse.Namespace,
    entrance: Entrance = OPEN,
    *,
    caches: Sequence[CacheMode] = (),
    origin_port: int = 0,
) -> Iterator[list[Contestant]]:
    """Those, this proxy, and this proxy with a cache in each of these modes.

    ``origin_port`` is where all of them find the origin, if that is not the server's own.
    """
    with ExitStack() as stack:
        given = others(server, options, entrance, origin_port=origin_port)
        everyone = stack.enter_context(given)
        modes: list[CacheMode] = ["off", *caches]
        for mode in modes:
            proxy = contestants.hyperdrive(server, entrance, cache=mode, origin_port=origin_port)
            everyone.append(stack.enter_context(proxy))
            print(f"{everyone[-1].name}: {everyone[-1].about}", flush=True)
        yield everyone


def write(name: str, everyone: Sequence[Contestant], results: Any) -> Path:
    """All figures as JSON."""
    about = {one.name: one.about for one in everyone}
    path = report.write(name, {"contestants": about, "results": results})
    print(
        f"\nmedian (min..max) of the rounds; ratios are medians of each round's\nall runs: {path}"
    )
    return path
