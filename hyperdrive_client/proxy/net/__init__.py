"""The proxy's I/O: sockets and time for :mod:`..core`, which decides everything."""
