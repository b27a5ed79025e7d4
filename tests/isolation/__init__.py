"""Many clients with random conversations, and what PostgreSQL would have told each of them alone.

``python -m isolation`` in ``tests/`` is the long run, ``test_isolation.py`` a short one.

model
    one PostgreSQL session: what its settings, tables, locks and transactions must be
statements
    single statements, each with what it does to the model
conversation
    statements as messages, and the answers that are due
script
    one client's random conversations; the same for the same seed
wire
    a client of raw bytes
run
    all clients at once, and what is found to be wrong
"""
