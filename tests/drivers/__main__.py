"""Run the drivers, all or those named, and print the table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from .building import NotInstalledError, build
from .cases import Result, run_driver, version_of
from .catalogue import DRIVERS, Driver, Language
from .stage import origin

HEADINGS = (
    "driver",
    "version",
    "passed, pooling",
    "passed, cached",
    "has not",
    "origin connections",
    "cache, three reads",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="drivers", description=__doc__)
    parser.add_argument("driver", nargs="*", help="a name of the table, or a folder's: all of it")
    parser.add_argument("--folder", type=Path, help="where programs are built; default: temporary")
    options = parser.parse_args()
    chosen = [each for each in DRIVERS if _is_named(each, options.driver)]
    unknown = [
        name for name in options.driver if not any(_is_named(each, [name]) for each in DRIVERS)
    ]
    if unknown:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(each.name for each in DRIVERS)}")
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        results = _run(chosen, folder)
    print(table(results))
    failures = [failure for result in results for failure in result.failures()]
    for failure in failures:
        print(f"FAILED {failure}")
    absent = [result for result in results if result.not_installed]
    for result in absent:
        print(f"NOT RUN {result.driver.name}: {result.not_installed}")
    return int(bool(failures or (options.driver and absent)))


def _is_named(driver: Driver, names: Sequence[str]) -> bool:
    return not names or driver.name in names or driver.language.folder in names


def _run(drivers: Sequence[Driver], folder: Path) -> list[Result]:
    built: dict[Language, Path | NotInstalledError] = {}
    results = []
    with origin() as connection_string:
        for driver in drivers:
            if driver.language not in built:
                print(f"building {driver.language.folder} …", flush=True)
                built[driver.language] = _built(driver.language, folder)
            result = _one(driver, built[driver.language], connection_string)
            results.append(result)
            print(f"{driver.name}: {len(result.failures())} failures", flush=True)
    return results


def _built(language: Language, folder: Path) -> Path | NotInstalledError:
    try:
        return build(language, folder)
    except NotInstalledError as error:
        return error


def _one(driver: Driver, place: Path | NotInstalledError, connection_string: str) -> Result:
    try:
        if isinstance(place, NotInstalledError):
            raise place
        version = version_of(driver, place)
    except NotInstalledError as error:
        return Result(driver, not_installed=str(error))
    result = run_driver(driver, place, connection_string)
    result.version = version
    return result


def table(results: Sequence[Result]) -> str:
    """As docs/drivers.md has it."""
    rows = [HEADINGS, *map(_row, results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in rows
    )


def _row(result: Result) -> tuple[str, ...]:
    if result.not_installed:
        return (result.driver.name, "not installed", *[""] * (len(HEADINGS) - 2))
    return (
        result.driver.name,
        result.version,
        result.passed("pooling"),
        result.passed("cached"),
        ", ".join(result.has_not()) or "-",
        str(result.most_connections),
        result.reads,
    )


if __name__ == "__main__":
    sys.exit(main())
