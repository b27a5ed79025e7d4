from __future__ import annotations

import psycopg
import pytest

import hyperdrive_client

API = {
    "connect",
    "Connection",
    "AsyncConnection",
    "ConnectionPool",
    "AsyncConnectionPool",
    "binding",
    "Proxy",
    "AsyncProxy",
    "ProxyStats",
    "CacheStatus",
}
# PEP 249, "Module Interface" and "Type Objects and Constructors".
GLOBALS = {"apilevel", "threadsafety", "paramstyle"}
EXCEPTIONS = {
    "Warning",
    "Error",
    "InterfaceError",
    "DatabaseError",
    "DataError",
    "OperationalError",
    "IntegrityError",
    "InternalError",
    "ProgrammingError",
    "NotSupportedError",
}
TYPES = {
    "Date",
    "Time",
    "Timestamp",
    "DateFromTicks",
    "TimeFromTicks",
    "TimestampFromTicks",
    "Binary",
    "STRING",
    "BINARY",
    "NUMBER",
    "DATETIME",
    "ROWID",
}


def test_the_public_api_is_complete_and_nothing_else() -> None:
    names = API | GLOBALS | EXCEPTIONS | TYPES | set(hyperdrive_client.errors.__all__)
    assert set(hyperdrive_client.__all__) == names
    assert len(hyperdrive_client.__all__) == len(names)
    assert names <= set(dir(hyperdrive_client))


def test_a_star_import_brings_all_of_it() -> None:
    found: dict[str, object] = {}
    exec("from hyperdrive_client import *", found)
    assert set(hyperdrive_client.__all__) <= found.keys()


def test_it_is_a_dbapi_module() -> None:
    assert hyperdrive_client.apilevel == "2.0"
    assert hyperdrive_client.threadsafety == 2
    assert hyperdrive_client.paramstyle == "pyformat"


@pytest.mark.parametrize("name", sorted(EXCEPTIONS | TYPES))
def test_exceptions_and_types_are_psycopgs_own(name: str) -> None:
    assert getattr(hyperdrive_client, name) is getattr(psycopg, name)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        _ = hyperdrive_client.conect  # type: ignore[attr-defined]
