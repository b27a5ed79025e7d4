"""Until a program has its first answer: importing the package, and spawning a proxy for it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import contestants, process, report, rounds
from benchmarks.contestants import DATABASE, HOST, HYPERDRIVE

PROGRAMS = {
    "python -c pass": "",
    "import psycopg": "import psycopg",
    "import hyperdrive_client": "import hyperdrive_client",
    "psycopg, direct: first answer": "import psycopg; psycopg.connect({url!r}).execute('SELECT 1')",
    "proxy in a child process: first answer": (
        "import hyperdrive_client; hyperdrive_client.connect({url!r}).execute('SELECT 1')"
    ),
}
_TIMED = """
import time
begun = time.perf_counter()
{program}
print((time.perf_counter() - begun) * 1e3)
"""


def main() -> None:
    parser = rounds.parser(__doc__, number=15)
    options = parser.parse_args()
    process.end_in_order_when_told()
    with contestants.origin() as server, tempfile.TemporaryDirectory(prefix="h") as folder:
        url = f"postgresql://{HYPERDRIVE}:{server.password}@{HOST}:{server.port}/{DATABASE}"
        environment = {
            **os.environ,
            "HYPERDRIVE_PROXY": "process",
            "XDG_RUNTIME_DIR": folder,
            "PYTHONPATH": str(contestants.REPOSITORY),
        }
        taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
        for _ in range(options.rounds):
            for name, program in PROGRAMS.items():
                text = _TIMED.format(program=program.format(url=f"{url}?sslmode=disable"))
                done = subprocess.run(
                    [sys.executable, "-c", text], env=environment, capture_output=True, text=True
                )
                if done.returncode:
                    raise SystemExit(f"FAILED: {name}: {done.stderr}")
                taken[name].append(float(done.stdout))
    rows = [[name, report.spread(values, 1)] for name, values in taken.items()]
    report.print_table("milliseconds within the program", [["", "ms"], *rows])
    medians = {name: statistics.median(values) for name, values in taken.items()}
    print(f"all runs: {report.write('starting', {'medians': medians, 'results': taken})}")


if __name__ == "__main__":
    main()
