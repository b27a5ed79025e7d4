"""Whether an answer from the cache is ever wrong: a checker in the spirit of Jepsen.

``python -m cache_check`` in ``tests/`` is the long run, ``test_cache_check.py`` a short one.

wire
    a client of raw bytes, which says when what it asked for has come
judge
    every write with the time it may have become visible, and what each answer may then be
registers
    tables, views and functions, and the texts that read and write their versions
actor
    one session: its operations are the same for the same seed
run
    all actors at once, the faults between them, and what was found
faults
    a relay between a proxy and its origin, a synchronous standby, signals
stage
    a PostgreSQL of its own and the proxies before it
guards
    the rules that keep the cache right, and how each is taken out of a proxy
scenarios
    small stories, each of which needs one of the rules
"""
