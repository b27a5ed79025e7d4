"""libpq's password file (PostgreSQL, "The Password File")."""

from __future__ import annotations

import os
import re
import stat
import warnings

from hyperdrive_client.bindings.binding_warning import BindingWarning

# Where PostgreSQL's own builds and those of the distributions put the socket. libpq looks the one
# that it was built with up as "localhost".
_DEFAULT_SOCKET_DIRECTORIES = frozenset({"/tmp", "/var/run/postgresql", "/run/postgresql"})

# host:port:database:user:password
_ENTRY = re.compile(r"((?:[^\\:]|\\.)*):" * 4 + r"((?:[^\\:]|\\.|\\\Z)*)", re.DOTALL)


def default_password_file() -> str:
    """Return the path of the file that libpq reads when none is named."""
    if os.name == "nt":
        return os.path.expandvars(r"%APPDATA%\postgresql\pgpass.conf")
    return os.path.expanduser("~/.pgpass")


def password_from_file(path: str, host: str, port: int, database: str, user: str) -> str | None:
    """Return the password of the first entry that matches, ``None`` without one or if it is empty.

    A file that others may read is ignored with a ``BindingWarning``; so is a file that is not a
    plain one. A file that cannot be read is as good as none.
    """
    hosts = {host, "localhost"} if host in _DEFAULT_SOCKET_DIRECTORIES else {host}
    wanted = (hosts, {str(port)}, {database}, {user})
    for line in _lines(path):
        entry = _ENTRY.match(line)
        if entry is None or line.startswith("#"):
            continue
        *fields, password = entry.groups()
        if all(
            text == "*" or _unescape(text) in allowed
            for text, allowed in zip(fields, wanted, strict=True)
        ):
            return _unescape(password) or None
    return None


def _lines(path: str) -> list[str]:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            _warn(path, "is not a plain file")
            return []
        if os.name != "nt" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            _warn(path, "may be used by others; its mode should be 0600")
            return []
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return [line.rstrip("\r\n") for line in file]
    except OSError:
        return []


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _warn(path: str, what: str) -> None:
    warnings.warn(f"password file {path} {what}; it is ignored", BindingWarning, stacklevel=2)
