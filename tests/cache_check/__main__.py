"""The long run: a PostgreSQL of its own, one or two proxies, and clients of both."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hyperdrive_client.origin import EmbeddedPostgres

from .guards import RULES
from .run import Run
from .scenarios import shown, told
from .stage import Stage, server

PROGRESS_SECONDS = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="cache_check", description=__doc__)
    add = parser.add_argument
    add("--seed", type=int, default=secrets.randbelow(1_000_000))
    add("--reads", type=int, help="default: 200,000; with --without at most 20,000 for each rule")
    add("--mode", choices=("wal", "writes", "off"), default="wal")
    add("--proxies", type=int, choices=(1, 2), default=1)
    add("--workers", type=int, default=1, help="of each proxy; default: 1")
    add("--clients", type=int, default=12, help="of each proxy; default: 12")
    add("--faults", type=int, help="default: one for 25,000 reads")
    add("--history", type=Path, help="write it there, even if nothing is wrong")
    add(
        "--without",
        choices=("every", *RULES),
        help="take this rule out: the run is a success if that shows",
    )
    options = parser.parse_args()
    if options.mode == "writes" and options.proxies > 1:
        parser.error("in mode 'writes' all writers use one proxy")
    if options.reads is None:
        options.reads = 20_000 if options.without else 200_000
    if options.faults is None:
        options.faults = options.reads // 25_000
    print(
        f"--seed {options.seed} --reads {options.reads} --mode {options.mode} --proxies "
        f"{options.proxies} --workers {options.workers}; the seed makes the same operations and "
        "faults again, but not the network's and the kernel's timing",
        flush=True,
    )
    with server() as postgres:
        sys.exit(_run(_without(postgres, options) if options.without else _play(postgres, options)))


def _run(coroutine: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


async def _play(postgres: EmbeddedPostgres, options: argparse.Namespace) -> int:
    async with Stage(postgres, options.mode, options.proxies, workers=options.workers) as stage:
        run = Run(
            stage, options.seed, options.reads, clients=options.clients, faults=options.faults
        )
        reporting = asyncio.create_task(_report(run))
        await run.play()
        reporting.cancel()
    print(f"{run}\n{run.details()}")
    if run.found or options.history:
        path = options.history or Path(tempfile.mkdtemp(prefix="cache-check-")) / "history.jsonl"
        run.write_history(path)
        print(f"history: {path}")
    print("FAILED" if run.found else "passed")
    return bool(run.found)


async def _without(postgres: EmbeddedPostgres, options: argparse.Namespace) -> int:
    """Each rule's stories with it and without, and a run without it that ends when it shows."""
    failed = False
    for name in RULES if options.without == "every" else [options.without]:
        rule = RULES[name]
        for story in rule.stories:
            wrong = await told(postgres, rule.mode, story)
            found = await shown(postgres, rule.mode, story, name)
            failed = failed or bool(wrong) or not found
            print(f"{name}: {story.__name__}: with it {wrong or 'all is well'}", flush=True)
            print(f"{name}: {story.__name__}: without it {found or 'NOTHING IS WRONG'}", flush=True)
        async with Stage(postgres, rule.mode, without=name) as stage:
            run = Run(
                stage,
                options.seed,
                options.reads,
                clients=options.clients,
                faults=20,
                kinds=rule.faults,
                enough=1,
            )
            await run.play()
        print(f"{name}: a run without it: {run.found.total()} violations in {run.reads} reads")
        print("\n".join(run.examples), flush=True)
    print("FAILED" if failed else "passed")
    return int(failed)


async def _report(run: Run) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        print(f"{run}", flush=True)


if __name__ == "__main__":
    main()
