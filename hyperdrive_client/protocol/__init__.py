"""Bytes to messages and back: PostgreSQL's frontend/backend protocol, without I/O.

What the names mean is in PostgreSQL's documentation, chapter "Frontend/Backend Protocol".
"""
