"""Wrong and random messages, from clients and from origins.

``python -m fuzz`` in ``tests/`` is the long run, ``test_fuzz.py`` a short one.

messages
    what a client or an origin could send, and what is wrong with it
server
    an origin that answers as PostgreSQL's protocol wants it
world
    a core without sockets, and what can happen to it, one event after the other
episode
    random events in a world, until all is at rest again
coverage
    which messages have met which states
core
    many episodes: crashes, hangs, what is left, memory
live
    inputs to a proxy process with a PostgreSQL behind it
"""
