"""The long run: a proxy in front of a PostgreSQL of its own, and fifty clients."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys

import psycopg

from hyperdrive_client.origin import EmbeddedPostgres

from .run import Run
from .stage import Stage, defaults, prepare
from .statements import FAMILIES

PROGRESS_SECONDS = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="isolation", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--origin-connections", type=int, default=5)
    parser.add_argument(
        "--without",
        default="",
        help=f"comma-separated, of cancel, discard, vanish, {', '.join(FAMILIES)}",
    )
    parser.add_argument(
        "--direct", action="store_true", help="no proxy: what is wrong is the model"
    )
    options = parser.parse_args()
    print(
        f"--seed {options.seed} --requests {options.requests}; the seed makes the clients' scripts "
        "and pauses the same again, but not the network's and the kernel's timing",
        flush=True,
    )
    with EmbeddedPostgres(auth="trust", settings={"max_connections": "200"}) as postgres:
        sys.exit(_play(postgres, options))


def _play(postgres: EmbeddedPostgres, options: argparse.Namespace) -> int:
    with psycopg.connect(postgres.connection_string, autocommit=True) as connection:
        prepare(connection)
        known = defaults(connection)
    with Stage(postgres.connection_string, options.origin_connections) as stage:
        run = Run(
            stage.direct if options.direct else stage.address,
            known,
            options.seed,
            options.requests,
            options.clients,
            [name for name in options.without.split(",") if name],
            translated=not options.direct,
        )
        asyncio.run(_play_and_report(run))
        print(f"{run}")
        troubles = stage.troubles()
    print(run.findings)
    for trouble in troubles:
        print(f"NOT AT REST: {trouble}")
    print("FAILED" if run.findings.counts or troubles else "passed")
    return bool(run.findings.counts or troubles)


async def _play_and_report(run: Run) -> None:
    async def report() -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            print(f"{run}", flush=True)

    reporting = asyncio.create_task(report())
    await run.play()
    reporting.cancel()


if __name__ == "__main__":
    main()
