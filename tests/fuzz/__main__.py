"""The long run; see the package."""

from __future__ import annotations

import argparse
import secrets
import sys

from .core import MAX_STEADY_GROWTH, Fuzz, steady_growth
from .live import Broken, Live

PROGRESS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--messages", type=int, default=1_000_000, help="to the core")
    parser.add_argument("--inputs", type=int, default=20_000, help="to the live proxy")
    options = parser.parse_args()
    print(
        f"--seed {options.seed} --messages {options.messages} --inputs {options.inputs}; the seed "
        "makes the same messages again, to the live proxy not with the same timing",
        flush=True,
    )
    problems = [*_core(options), *_live(options)]
    for problem in problems:
        print(problem)
    print("FAILED" if problems else "passed")
    sys.exit(bool(problems))


def _core(options: argparse.Namespace) -> list[str]:
    fuzz = Fuzz(options.seed)
    fuzz.play(options.messages, PROGRESS)
    print(fuzz.coverage)
    print("With the cache: ", ", ".join(f"{n} {name}" for name, n in fuzz.statuses.items()))
    growth = steady_growth(options.seed)
    print(f"growth of a core in steady state: {growth} bytes, {MAX_STEADY_GROWTH} are allowed")
    problems = [f"never reached: {each}" for each in fuzz.coverage.missing()]
    if growth > MAX_STEADY_GROWTH:
        problems.append(f"the core has grown by {growth} bytes")
    if 2 * fuzz.coverage.authenticated < fuzz.coverage.messages:
        problems.append("less than half of the messages came after authentication")
    if fuzz.findings.counts:
        problems.append(str(fuzz.findings))
    return problems


def _live(options: argparse.Namespace) -> list[str]:
    live = Live(options.seed)
    try:
        live.play(options.inputs, progress=True)
    except Broken as broken:
        return [str(broken)]
    print(live)
    if 2 * live.authenticated < live.inputs:
        return ["less than half of the live inputs came after authentication"]
    return []


if __name__ == "__main__":
    main()
