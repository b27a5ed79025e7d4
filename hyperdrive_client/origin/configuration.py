"""The texts of an embedded server's ``postgresql.conf`` and ``pg_hba.conf``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

HOST = "127.0.0.1"

Authentication = Literal["scram-sha-256", "md5", "password", "trust"]

# Safety traded for speed.
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_connections": "100",
    # In the server's folder, so that a killed server leaves nothing in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
}


def postgresql_conf(folder: Path, tls_files: Iterable[str], settings: Mapping[str, str]) -> str:
    """initdb's settings, then ours, then ``settings``; ALTER SYSTEM still wins over all of them.

    ``tls_files``: the names of the ``ssl_*_file`` settings whose files are in ``folder``.
    """
    merged = {
        **_SETTINGS,
        "listen_addresses": HOST,
        "unix_socket_directories": str(folder),
        "hba_file": str(folder / "pg_hba.conf"),
    }
    for name in tls_files:
        merged |= {"ssl": "on", name: str(folder / name)}
    merged |= settings
    lines = [f"{name} = {_quoted(value)}" for name, value in merged.items()]
    return "\n".join(("include 'data/postgresql.conf'", *lines, ""))


def pg_hba_conf(first: Iterable[str], auth: Authentication) -> str:
    """The lines ``first``, then ``auth`` for everyone (PostgreSQL documentation, 20.1)."""
    everyone = (
        f"local all,replication all {auth}",
        f"host all,replication all {HOST}/32 {auth}",
    )
    return "\n".join((*first, *everyone, ""))


def _quoted(value: str) -> str:
    """A value as ``postgresql.conf`` wants it (PostgreSQL documentation, 19.1.2)."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
