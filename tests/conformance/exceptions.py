"""Tests that can pass behind no pooler, each with the reason; at most five.

Each is also run through a session pooler that has nothing to do with us, and must fail there.
"""

MOST = 5
_OTHER_DATABASE = (
    "makes a database, connects to it (3D000 without --any-database) and drops it: "
    "a pooler still has a connection there then (55006)"
)
EXCEPTIONS = {
    "asyncpg": dict.fromkeys(
        (
            "tests/test_cache_invalidation.py::TestCacheInvalidation"
            "::test_type_cache_invalidation_in_pool",
            "tests/test_introspection.py::TestIntrospection"
            "::test_introspection_loads_basetypes_of_domains",
            "tests/test_introspection.py::TestIntrospection::test_introspection_on_large_db",
        ),
        _OTHER_DATABASE,
    )
}
"""By the suite's name and the test's id."""

assert sum(map(len, EXCEPTIONS.values())) <= MOST
