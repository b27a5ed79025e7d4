"""The proxy's memory while a gigabyte goes through it and one end is slow.

SELECT and COPY TO STDOUT: the client asks, reads nothing until the proxy's memory has settled, then
reads at a bounded rate. COPY FROM STDIN: the client sends as fast as it is let, and a trigger at
the origin sleeps. Each case has a proxy of its own. The idle figure is taken after a first query,
the peak is that of the transfer alone.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import contestants, process, report
from benchmarks.contestants import DATABASE, HOST, Contestant
from hyperdrive_client.origin import EmbeddedPostgres
from hyperdrive_client.protocol import messages as m

MIB = 1024 * 1024
SETTLE_SECONDS = 15.0
# So little that a client that does not read is noticed at once.
SOCKET_BUFFER_BYTES = 64 * 1024
# The first pause is long enough to fill all there is to fill, the others make the origin slow.
SLOW_TABLE = """
    CREATE UNLOGGED TABLE sink (id integer GENERATED ALWAYS AS IDENTITY, payload text);
    CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN PERFORM pg_sleep(CASE NEW.id WHEN 1 THEN 5 ELSE 0.3 END); RETURN NEW; END$$;
    CREATE TRIGGER pause BEFORE INSERT ON sink FOR EACH ROW
        WHEN (NEW.id = 1 OR NEW.id % {every} = 0) EXECUTE FUNCTION pause()"""
PAUSES = 50


@dataclass(frozen=True, slots=True)
class Load:
    """How much goes through, in which rows, and how fast a slow client reads, in bytes a second."""

    rows: int
    row_bytes: int
    rate: float

    @property
    def query(self) -> str:
        return f"SELECT repeat('x', {self.row_bytes}) FROM generate_series(1, {self.rows})"


@dataclass(frozen=True, slots=True)
class Result:
    """One case: bytes of memory, and the seconds that the transfer took."""

    case: str
    idle: int
    peak: int
    seconds: float


class Client:
    """A PostgreSQL client that reads and writes when it is told to, which no driver does."""

    def __init__(self, contestant: Contestant) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        self._socket.connect((HOST, contestant.port))
        self._incoming = self._socket.makefile("rb")
        user, database = contestant.name.encode(), DATABASE.encode()
        self.send(m.startup_message({b"user": user, b"database": database}))
        self.read_until(m.READY_FOR_QUERY)

    def close(self) -> None:
        self._incoming.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def query(self, text: str) -> None:
        self.send(m.query(text.encode()))

    def read_until(self, last: int, rate: float | None = None) -> Counter[int]:
        """How many messages of each type came, up to the first ``last``.

        ``rate``: bytes a second at most. ``SystemExit`` if the server sends an error.
        """
        counts: Counter[int] = Counter()
        size, begun = 0, time.monotonic()
        while not counts[last]:
            kind, length = m.HEADER.unpack(self._read(m.HEADER.size))
            body = self._read(length - 4)
            if kind == m.ERROR_RESPONSE:
                raise SystemExit(f"FAILED: {m.error_fields(body)}")
            counts[kind] += 1
            size += length
            if rate is not None and (ahead := size / rate + begun - time.monotonic()) > 0.01:
                time.sleep(ahead)
        return counts

    def _read(self, size: int) -> bytes:
        data = self._incoming.read(size)
        if len(data) < size:
            raise SystemExit("FAILED: the proxy closed the connection")
        return data


def read_slowly(client: Client, pid: int, load: Load, text: str, kind: int) -> None:
    """Run ``text``, which gives one message of type ``kind`` for each row."""
    client.query(text)
    process.wait_until_settled(pid, SETTLE_SECONDS)
    counts = client.read_until(m.READY_FOR_QUERY, load.rate)
    check(counts[kind], load.rows)


def copy_in(client: Client, server: EmbeddedPostgres, load: Load) -> None:
    """Fill the slow table, and see that all has arrived."""
    with psycopg.connect(contestants.direct(server).connection_string) as connection:
        connection.execute(SLOW_TABLE.format(every=max(load.rows // PAUSES, 1)))
        connection.commit()
        client.query("COPY sink (payload) FROM STDIN")
        client.read_until(m.COPY_IN_RESPONSE)
        row = m.message(m.COPY_DATA, b"x" * load.row_bytes + b"\n")
        for _ in range(load.rows):
            client.send(row)
        client.send(m.message(m.COPY_DONE, b""))
        client.read_until(m.READY_FOR_QUERY)
        found = connection.execute("SELECT sum(length(payload)) / %s FROM sink", [load.row_bytes])
        arrived = found.fetchone()
        check(0 if arrived is None else arrived[0], load.rows)


def check(found: int, expected: int) -> None:
    if found != expected:
        raise SystemExit(f"FAILED: {found} of {expected} rows came through")


def measure(case: str, server: EmbeddedPostgres, load: Load) -> Result:
    """Run one case through a proxy of its own."""
    with contestants.hyperdrive(server) as proxy:
        assert proxy.pid is not None
        client = Client(proxy)
        try:
            client.query("SELECT 1")
            client.read_until(m.READY_FOR_QUERY)
            process.forget_peak(proxy.pid)
            idle, begun = process.resident_bytes(proxy.pid), time.monotonic()
            if case == "SELECT":
                read_slowly(client, proxy.pid, load, load.query, m.DATA_ROW)
            elif case == "COPY TO STDOUT":
                text = f"COPY ({load.query}) TO STDOUT"
                read_slowly(client, proxy.pid, load, text, m.COPY_DATA)
            else:
                copy_in(client, server, load)
            seconds = time.monotonic() - begun
            return Result(case, idle, process.peak_bytes(proxy.pid), seconds)
        finally:
            client.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--mebibytes", type=int, default=1024, help="of each transfer; default: 1024")
    add("--row-bytes", type=int, default=8192, help="of each row; default: 8192")
    add("--rate", type=int, default=40, help="of the slow client, in MiB/s; default: 40")
    options = parser.parse_args()
    process.end_in_order_when_told()
    size = options.mebibytes * MIB
    load = Load(max(size // options.row_bytes, 1), options.row_bytes, options.rate * MIB)
    with contestants.origin() as server:
        cases = ("SELECT", "COPY TO STDOUT", "COPY FROM STDIN")
        results = [measure(case, server, load) for case in cases]
    title = f"{load.rows:,} rows of {load.row_bytes:,} bytes, memory of the proxy in MiB"
    rows = [
        (
            each.case,
            *(f"{size / MIB:.1f}" for size in (each.idle, each.peak)),
            f"{each.seconds:.0f}",
        )
        for each in results
    ]
    report.print_table(title, [("", "idle", "peak", "seconds"), *rows])
    path = report.write("memory", {"load": asdict(load), "results": list(map(asdict, results))})
    print(f"results: {path}")


if __name__ == "__main__":
    main()
