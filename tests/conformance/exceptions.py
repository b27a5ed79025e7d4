"""Tests that can pass behind no pooler, each with the reason; at most five.

Each is also run through a session pooler that has nothing to do with us, and must fail there.
"""

import re

MOST = 5
EXCEPTIONS: dict[str, dict[str, str]] = {
    "asyncpg": {
        "tests/test_execute.py::TestExecuteMany::test_executemany_server_failure_during_writes": (
            "counts on the server's error before 4 MB are written: what lies between client and "
            "server has socket buffers of its own, which take them (a race directly, too)"
        )
    }
}
"""By the suite's name and the test's id."""

assert sum(map(len, EXCEPTIONS.values())) <= MOST

# On the library's dialect the native hstore is off unless asked for, and without it psycopg reads
# an array of hstore as text. With it each must pass.
_FIXTURE = re.compile(r"_postgresql\+\w+(?=::)")
_HSTORE_ARRAYS = {
    f"test/dialect/postgresql/test_types.py::{test}[{flag}-HSTORE]"
    for flag in (False, True)
    for test in (
        "CoreArrayRoundTripTest::test_type_specific_slice_update",
        "CoreArrayRoundTripTest::test_type_specific_value_select",
        "CoreArrayRoundTripTest::test_type_specific_value_update",
        "PGArrayRoundTripTest::test_type_specific_contains",
        "PGArrayRoundTripTest::test_type_specific_slice_update",
        "PGArrayRoundTripTest::test_type_specific_value_select",
        "PGArrayRoundTripTest::test_type_specific_value_update",
    )
}


def wants_native_hstore(test: str) -> bool:
    """Whether a test of SQLAlchemy's counts on a native hstore."""
    return _FIXTURE.sub("", test) in _HSTORE_ARRAYS
