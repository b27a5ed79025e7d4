"""A million rows at once: SELECT, COPY TO STDOUT and COPY FROM STDIN, one client.

The client reads and writes bytes and looks at nothing, so that the proxies are what is measured.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psycopg

from benchmarks import contestants, process, rounds
from benchmarks.contestants import Contestant
from benchmarks.rounds import Figures
from benchmarks.wire import Wire
from hyperdrive_client.protocol import messages as m

BLOCK_BYTES = 8 * 1024
TABLES = """
    CREATE TABLE rows AS
        SELECT id, id % 1000 AS kind, repeat('x', 60) AS payload FROM generate_series(1, {rows}) id;
    CREATE UNLOGGED TABLE sink (LIKE rows)"""
CASES = ("SELECT", "COPY TO STDOUT", "COPY FROM STDIN")


def blocks(rows: int) -> list[bytes]:
    """CopyData messages with so many rows."""
    made, text = [], bytearray()
    for number in range(rows):
        text += b"%d\t%d\t%s\n" % (number, number % 1000, b"x" * 60)
        if len(text) >= BLOCK_BYTES or number == rows - 1:
            made.append(m.message(m.COPY_DATA, bytes(text)))
            text.clear()
    # As libpq does: as many to a write as there is room for.
    return [b"".join(made[at : at + 8]) for at in range(0, len(made), 8)]


def main() -> None:
    parser = rounds.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="default: 1,000,000")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    process.end_in_order_when_told()
    data = blocks(options.rows)
    results = {}
    with (
        contestants.origin() as server,
        rounds.contest(server, options) as everyone,
        psycopg.connect(everyone[0].connection_string, autocommit=True) as origin,
    ):
        origin.execute(TABLES.format(rows=options.rows))
        for case in options.cases:

            def measure(one: Contestant, case: str = case) -> Figures:
                origin.execute("TRUNCATE sink")
                client = Wire(one)
                begun = time.perf_counter()

                def work() -> float:
                    if case == "SELECT":
                        return client.query("SELECT * FROM rows") / 1e6
                    if case == "COPY TO STDOUT":
                        return client.query("COPY rows TO STDOUT") / 1e6
                    return client.copy_in("COPY sink FROM STDIN", data) / 1e6

                size, cpu = rounds.cpu_of(one, work, "proxy CPU, µs/MB")
                seconds = time.perf_counter() - begun
                client.close()
                return {"MB/s": size / seconds, **cpu}

            runs = rounds.take_turns(everyone, options.rounds, measure)
            rounds.show(f"{case}, {options.rows:,} rows", runs, ["MB/s", "proxy CPU, µs/MB"], 0)
            results[case] = runs
        rounds.write("bulk", everyone, results)


if __name__ == "__main__":
    main()
