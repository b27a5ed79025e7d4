"""Tests that can pass behind no pooler, each with the reason; at most five.

Each is also run through a session pooler that has nothing to do with us, and must fail there.
"""

MOST = 5
EXCEPTIONS: dict[str, dict[str, str]] = {}
"""By the suite's name and the test's id."""

assert sum(map(len, EXCEPTIONS.values())) <= MOST
