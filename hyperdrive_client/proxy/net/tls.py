"""TLS towards the origin, by libpq's ``ssl…`` parameters (PostgreSQL, "SSL Support" of libpq)."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from ...bindings.connection_string import Origin
from ...errors import ConfigurationError

ALPN = "postgresql"


def origin_context(origin: Origin) -> ssl.SSLContext:
    """The context for one origin; ``ConfigurationError`` for a file that can't be used.

    ``require`` does not check the certificate unless ``sslrootcert`` says by what, as in libpq.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([ALPN])
    mode = origin.sslmode
    if mode not in ("verify-ca", "verify-full") and not origin.sslrootcert:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        _load_roots(context, origin)
        context.check_hostname = mode == "verify-full"
    if origin.sslcert:
        certificate = os.path.expanduser(origin.sslcert)
        key = os.path.expanduser(origin.sslkey) if origin.sslkey else None
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"sslcert {certificate} with sslkey {key} can't be used: {error}"
            ) from error
    return context


def _load_roots(context: ssl.SSLContext, origin: Origin) -> None:
    if origin.sslrootcert == "system":
        context.load_default_certs()
        return
    roots = Path(origin.sslrootcert or "~/.postgresql/root.crt").expanduser()
    try:
        context.load_verify_locations(cafile=roots)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"sslmode={origin.sslmode} needs the root certificates in {roots}, which can't be "
            f"used: {error}; set sslrootcert=PATH or sslrootcert=system"
        ) from error
