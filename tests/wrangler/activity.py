"""What the database says of its connections, looked at again and again."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psycopg

_COUNTS = """
    SELECT count(*) FILTER (WHERE application_name = 'Cloudflare Hyperdrive'), count(*)
    FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""
# As Hyperdrive's page has it.
HYPERDRIVE = (
    "SELECT DISTINCT usename, application_name FROM pg_stat_activity "
    "WHERE application_name = 'Cloudflare Hyperdrive'"
)


class Activity:
    """The most connections that were there at once, as seen ``looks`` times.

    ``hyperdrive``: those whose application_name is Cloudflare Hyperdrive; ``all``: those of any.
    """

    def __init__(self, origin: str) -> None:
        self.hyperdrive = self.all = self.looks = 0
        self._connection = psycopg.connect(origin, autocommit=True)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._connection.close()

    def _look(self) -> None:
        while not self._ended.wait(0.002):
            [(hyperdrive, every)] = self._connection.execute(_COUNTS).fetchall()
            self.hyperdrive = max(self.hyperdrive, hyperdrive)
            self.all = max(self.all, every)
            self.looks += 1
