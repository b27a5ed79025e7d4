"""Every decision of the proxy, synchronous and without I/O.

Five words:

client session
    one client connection, from its first byte to its end
origin session
    one origin connection, from the wish to connect to its end
link
    an origin session lent to a client session, for one transaction
expected answers
    the queue, one per origin session, of what its answers are answers to
effect
    what the network layer is to do; the only way in which the core acts on the world
"""
