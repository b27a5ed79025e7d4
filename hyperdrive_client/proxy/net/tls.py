"""TLS with clients, as PostgreSQL does it, and with the origin, as libpq does.

PostgreSQL, "Secure TCP/IP Connections with SSL", and libpq's "SSL Support".
"""

from __future__ import annotations

import os
import re
import ssl
from functools import lru_cache
from pathlib import Path

from ...bindings.connection_string import Origin
from ...errors import ConfigurationError
from ...protocol.channel_binding import server_end_point
from ..core.client_startup import ClientTls
from ..settings import Settings

ALPN = "postgresql"

# The first byte of a TLS handshake; no packet of PostgreSQL's begins with it.
HANDSHAKE = b"\x16"

# Where libpq looks for what is not given ("SSL Client File Usage").
ROOTS = "~/.postgresql/root.crt"
CERTIFICATE = "~/.postgresql/postgresql.crt"
KEY = "~/.postgresql/postgresql.key"

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def client_context(settings: Settings) -> tuple[ssl.SSLContext, bytes | None]:
    """The context for clients, and our certificate's hash if it has one.

    ``ConfigurationError`` for a file that can't be used. A client's certificate is optional here:
    who has none can be told so only after the handshake.
    """
    assert settings.ssl_cert_file is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([ALPN])
    # As in PostgreSQL: no renegotiation, and no session that outlives its connection.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    _load_certificate(context, settings.ssl_cert_file, settings.ssl_key_file, None, "ssl_cert_file")
    if settings.ssl_ca_file is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        try:
            context.load_verify_locations(cafile=settings.ssl_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"ssl_ca_file {settings.ssl_ca_file} can't be used: {error}"
            ) from error
    own = _CERTIFICATE.search(Path(settings.ssl_cert_file).read_bytes())
    assert own is not None, "OpenSSL has found one"
    return context, server_end_point(ssl.PEM_cert_to_DER_cert(own[0].decode("ascii")))


def client_tls(connection: ssl.SSLObject, *, direct: bool) -> ClientTls:
    """What a handshake with a client has shown."""
    alpn = connection.selected_alpn_protocol() == ALPN
    certificate = connection.getpeercert()
    if not certificate:
        return ClientTls(None, direct, alpn)
    subject: tuple[tuple[tuple[str, str], ...], ...] = certificate.get("subject", ())  # type: ignore[assignment]
    names = [value for part in subject for name, value in part if name == "commonName"]
    return ClientTls(names[0] if names else "", direct, alpn)


def origin_context(origin: Origin) -> ssl.SSLContext:
    """The context for one origin; ``ConfigurationError`` for a file that can't be used.

    It is kept until one of its files changes. ``require`` does not check the certificate unless
    there are roots to check it by, as in libpq.
    """
    verifies = origin.sslmode in ("verify-ca", "verify-full")
    files = (
        _path(origin.sslrootcert, ROOTS, needed=verifies),
        _path(origin.sslcert, CERTIFICATE),
        _path(origin.sslkey, KEY),
    )
    return _origin_context(origin.sslmode, files, origin.sslpassword, tuple(map(_version, files)))


@lru_cache(maxsize=4)
def _origin_context(
    mode: str,
    files: tuple[str | None, str | None, str | None],
    password: str | None,
    versions: tuple[object, ...],
) -> ssl.SSLContext:
    roots, certificate, key = files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([ALPN])
    context.check_hostname = mode == "verify-full"
    if roots is None:
        context.verify_mode = ssl.CERT_NONE
    elif roots == "system":
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(cafile=roots)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"sslmode={mode} needs the root certificates in {roots}, which can't be "
                f"used: {error}; set sslrootcert=PATH or sslrootcert=system"
            ) from error
    if certificate is not None:
        _load_certificate(context, certificate, key, password, "sslcert")
    return context


def _load_certificate(
    context: ssl.SSLContext, certificate: str, key: str | None, password: str | None, name: str
) -> None:
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, password or "")
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{name} {certificate} with the key in {key or certificate} can't be used: {error}"
        ) from error


def _path(given: str | None, default: str, *, needed: bool = False) -> str | None:
    path = os.path.expanduser(given or default)
    return path if given or needed or os.path.exists(path) else None


def _version(path: str | None) -> object:
    """Something that is different once the file is."""
    try:
        found = os.stat(path) if path else None
    except OSError:
        return None
    return found and (found.st_mtime_ns, found.st_size, found.st_ino)
