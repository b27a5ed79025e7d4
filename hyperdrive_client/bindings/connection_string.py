"""PostgreSQL connection strings: URLs and keyword/value pairs.

The grammar is libpq's ("Connection Strings" and "The Password File" in PostgreSQL's chapter libpq).
Stricter than libpq: host, database and user must be given, and only the parameters that an origin
connection can honour are accepted. No error repeats a value, for it may be part of a password.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Literal, NoReturn, Self, TypeVar, get_args
from urllib.parse import quote, unquote_to_bytes

from hyperdrive_client.bindings.near_miss import did_you_mean
from hyperdrive_client.bindings.password_file import default_password_file, password_from_file
from hyperdrive_client.errors import ConfigurationError

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
SslNegotiation = Literal["postgres", "direct"]
ChannelBinding = Literal["disable", "prefer", "require"]
TargetSessionAttrs = Literal[
    "any", "read-write", "read-only", "primary", "standby", "prefer-standby"
]

DEFAULT_PORT = 5432

# NAMEDATALEN - 1 (PostgreSQL, "Identifiers and Key Words"); also Hyperdrive's limit.
MAX_NAME_BYTES = 63

_SSL_MODES: tuple[SslMode, ...] = get_args(SslMode)
_SSL_NEGOTIATIONS: tuple[SslNegotiation, ...] = get_args(SslNegotiation)
_CHANNEL_BINDINGS: tuple[ChannelBinding, ...] = get_args(ChannelBinding)
_TARGET_SESSION_ATTRS: tuple[TargetSessionAttrs, ...] = get_args(TargetSessionAttrs)

_PARAMETERS = frozenset(
    {
        "host",
        "port",
        "user",
        "password",
        "dbname",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslnegotiation",
        "channel_binding",
        "connect_timeout",
        "options",
        "application_name",
        "target_session_attrs",
        "passfile",
    }
)

# What other drivers call them; the spelling alone would lead elsewhere.
_OTHER_NAMES = {"database": "dbname", "db": "dbname", "ssl": "sslmode", "sslca": "sslrootcert"}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9.+-]*)?://")
_USER_INFO = re.compile(r"([^@/:]*)(?::([^@/]*))?@")
_NETLOC = re.compile(r"(?:\[([^\]]+)\](?=[:/?,]|\Z)|((?!\[)[^:/?,]*))(?::([^/?,]*))?")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")

# The blanks are what C's isspace() takes for one.
_KEYWORD_FORM = re.compile(r"[ \t\n\v\f\r]*[A-Za-z_]+[ \t\n\v\f\r]*=")
_KEYWORD = re.compile(r"[ \t\n\v\f\r]*([^= \t\n\v\f\r]*)[ \t\n\v\f\r]*=[ \t\n\v\f\r]*")
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_BARE = re.compile(r"((?:[^ \t\n\v\f\r\\]|\\.|\\\Z)*)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.?)", re.DOTALL)
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,9}\s*", re.ASCII)

_Choice = TypeVar("_Choice", bound=str)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a host name, an IP address or a socket directory, and a port."""

    host: str
    port: int = DEFAULT_PORT

    @property
    def is_unix(self) -> bool:
        """Whether ``host`` is the directory of a Unix socket."""
        return self.host.startswith("/")

    @property
    def is_local(self) -> bool:
        """Whether the server can only be on this machine: loopback, or a Unix socket."""
        if self.is_unix or self.host.lower() == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Origin:
    """A PostgreSQL server and how to log in to it. Its repr hides the passwords.

    ``connect_timeout`` is in seconds; 0 waits for ever, ``None`` was not given. ``password`` is
    ``None`` where none was given or it was empty, which is the same for libpq;
    ``password_for`` then asks the password file. ``sslrootcert`` is a path or ``"system"``;
    ``sslpassword`` is that of ``sslkey``.
    """

    addresses: tuple[Address, ...]
    user: str
    database: str
    password: str | None = field(default=None, repr=False)
    sslmode: SslMode = "require"
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    sslpassword: str | None = field(default=None, repr=False)
    sslnegotiation: SslNegotiation = "postgres"
    channel_binding: ChannelBinding = "prefer"
    connect_timeout: float | None = None
    options: str | None = None
    application_name: str | None = None
    target_session_attrs: TargetSessionAttrs = "any"
    passfile: str | None = None

    @property
    def connection_string(self) -> str:
        """The origin as a URL, passwords included; every part is percent-encoded."""
        password = f":{_encode(self.password)}" if self.password else ""
        netloc = ",".join(f"{_url_host(each.host)}:{each.port}" for each in self.addresses)
        settings = "&".join(f"{name}={_encode(text)}" for name, text in self._settings().items())
        return (
            f"postgresql://{_encode(self.user)}{password}@{netloc}"
            f"/{_encode(self.database)}?{settings}"
        )

    def libpq_parameters(self) -> dict[str, str]:
        """Return libpq's parameters by name, passwords included, as ``psycopg.connect`` takes them.

        libpq itself asks the password file where there is no password.
        """
        parameters = {
            "host": ",".join(address.host for address in self.addresses),
            "port": ",".join(str(address.port) for address in self.addresses),
            "user": self.user,
            "dbname": self.database,
            **self._settings(),
        }
        if self.password:
            parameters["password"] = self.password
        return parameters

    def with_absolute_paths(self) -> Self:
        """Return it for programs that are not all in the same working directory."""
        paths = {
            name: os.path.abspath(path)
            for name in ("sslrootcert", "sslcert", "sslkey", "passfile")
            if (path := getattr(self, name)) and (name, path) != ("sslrootcert", "system")
        }
        return replace(self, **paths)

    def _settings(self) -> dict[str, str]:
        # Defaults are left out: an older libpq does not know sslnegotiation.
        settings = {
            "sslmode": self.sslmode,
            "sslrootcert": self.sslrootcert,
            "sslcert": self.sslcert,
            "sslkey": self.sslkey,
            "sslpassword": self.sslpassword,
            "sslnegotiation": None if self.sslnegotiation == "postgres" else self.sslnegotiation,
            "channel_binding": None if self.channel_binding == "prefer" else self.channel_binding,
            "connect_timeout": _whole_seconds(self.connect_timeout),
            "options": self.options,
            "application_name": self.application_name,
            "target_session_attrs": (
                None if self.target_session_attrs == "any" else self.target_session_attrs
            ),
            "passfile": self.passfile,
        }
        return {name: text for name, text in settings.items() if text}


def parse_connection_string(text: str, *, environ: Mapping[str, str] | None = None) -> Origin:
    """Return the origin that a URL or a ``keyword=value`` string names.

    ``environ`` (default: the process environment) is asked for ``PGPASSFILE`` only. URLs may have
    the scheme ``postgres`` or ``postgresql``, also with SQLAlchemy's ``+driver``.

    Raises ``ConfigurationError``, which never repeats a value: protocol missing, not PostgreSQL,
    no host, no database, no user (in this order), then anything else.
    """
    _check_text(text)
    if scheme := _SCHEME.match(text):
        _check_scheme(scheme[1])
        parameters = _url_parameters(text[scheme.end() :])
    elif _KEYWORD_FORM.match(text):
        parameters = _keyword_parameters(text)
    else:
        _check_scheme(None)
    return origin_from_parameters(parameters, environ=environ)


def origin_from_parameters(
    parameters: Mapping[str, str], *, environ: Mapping[str, str] | None = None
) -> Origin:
    """Return the origin that libpq's parameters describe; an empty value counts as not given.

    ``environ`` and the errors are those of ``parse_connection_string``.
    """
    given = {name: text for name, text in parameters.items() if text}
    for text in given.values():
        _check_text(text)
    for name, meaning in (("host", "host"), ("dbname", "database"), ("user", "user")):
        if name not in given:
            raise ConfigurationError(
                f"the connection string has no {meaning}; "
                "expected postgresql://user:password@host:port/database"
            )
    for name, meaning in (("dbname", "database"), ("user", "user")):
        if len(given[name].encode()) > MAX_NAME_BYTES:
            raise ConfigurationError(
                f"the {meaning} name in the connection string is longer than the "
                f"{MAX_NAME_BYTES} bytes that PostgreSQL allows"
            )
    environ = os.environ if environ is None else environ
    addresses = _addresses(given["host"], given.get("port", ""))
    return Origin(
        addresses=addresses,
        user=given["user"],
        database=given["dbname"],
        password=given.get("password"),
        sslmode=_ssl_mode(given, addresses),
        sslrootcert=given.get("sslrootcert"),
        sslcert=given.get("sslcert"),
        sslkey=given.get("sslkey"),
        sslpassword=given.get("sslpassword"),
        sslnegotiation=_choice(given, "sslnegotiation", _SSL_NEGOTIATIONS, "postgres"),
        channel_binding=_choice(given, "channel_binding", _CHANNEL_BINDINGS, "prefer"),
        connect_timeout=_timeout(given.get("connect_timeout")),
        options=given.get("options"),
        application_name=given.get("application_name"),
        target_session_attrs=_choice(given, "target_session_attrs", _TARGET_SESSION_ATTRS, "any"),
        passfile=given.get("passfile") or environ.get("PGPASSFILE") or None,
    )


def password_for(origin: Origin, address: Address) -> str | None:
    """Return the password for one address of an origin: its own, else the password file's.

    The file is ``origin.passfile``, else libpq's default, ``~/.pgpass``. It is read each time, and
    ignored with a ``BindingWarning`` where others may read it.
    """
    if origin.password:
        return origin.password
    return password_from_file(
        origin.passfile or default_password_file(),
        address.host,
        address.port,
        origin.database,
        origin.user,
    )


def _check_text(text: str) -> None:
    if "\0" in text:
        raise ConfigurationError("the connection string holds a NUL byte")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigurationError("the connection string is not valid UTF-8") from None


def _check_scheme(scheme: str | None) -> None:
    if not scheme:
        raise ConfigurationError(
            "the connection string has no protocol; it must begin with postgresql://"
        )
    name = scheme.lower().partition("+")[0]
    if name not in ("postgres", "postgresql"):
        raise ConfigurationError(
            f'the protocol "{name}" is not PostgreSQL, and only PostgreSQL is supported; '
            "the connection string must begin with postgresql://"
        )


def _url_parameters(text: str) -> dict[str, str]:
    user_info = _USER_INFO.match(text)
    user, password = user_info.groups(default="") if user_info else ("", "")
    hosts, ports, position = _netlocs(text, user_info.end() if user_info else 0)
    path, _, query = text[position:].partition("?")
    if "@" in path + query and any(hosts) and not user and "user=" not in query:
        raise ConfigurationError(
            "the connection string has no user before its first slash; "
            "a slash in the user name or password must be written as %2F"
        )
    parameters = {
        "user": _decode(user, "user"),
        "password": _decode(password, "password"),
        "host": _decode(",".join(hosts), "host"),
        "port": _decode(",".join(ports), "port"),
        "dbname": _decode(path.removeprefix("/"), "database"),
    }
    return parameters | _query_parameters(query)


def _netlocs(text: str, position: int) -> tuple[list[str], list[str], int]:
    """Return the hosts and ports of a URL as written, and where they end."""
    hosts, ports = [], []
    while True:
        netloc = _NETLOC.match(text, position)
        if netloc is None:
            raise ConfigurationError(
                "the IPv6 address in the connection string is not written as [address]:port"
            )
        hosts.append(netloc[1] or netloc[2] or "")
        ports.append(netloc[3] or "")
        position = netloc.end()
        if text[position : position + 1] != ",":
            return hosts, ports, position
        position += 1


def _query_parameters(query: str) -> dict[str, str]:
    parameters = {}
    for pair in query.removesuffix("&").split("&") if query else ():
        name, equals, text = pair.partition("=")
        name = _decode(name, "name of a parameter")
        if name not in _PARAMETERS:
            # A raw "@" says that this may be the rest of a password with a raw "?".
            _raise_unknown_parameter(name if equals and "@" not in query else None)
        if not equals or "=" in text:
            raise ConfigurationError(
                f'the parameter "{name}" in the connection string must be written as '
                f'{name}=value, with "=" in the value as %3D'
            )
        parameters[name] = _decode(text, name)
    return parameters


def _decode(text: str, part: str) -> str:
    """Undo percent-encoding as libpq 18 does.

    ``+`` stays, blanks around are dropped; a blank inside and a lone ``%`` are errors.
    """
    text = text.strip(" ")
    if " " in text:
        raise ConfigurationError(
            f"the {part} in the connection string holds a blank; in a URL it is written as %20"
        )
    if _BAD_PERCENT.search(text):
        raise ConfigurationError(
            f'the {part} in the connection string holds a "%" without two hexadecimal digits '
            'after it; write "%" as %25'
        )
    decoded = unquote_to_bytes(text)
    if b"\0" in decoded:
        raise ConfigurationError(f"the {part} in the connection string holds a NUL byte (%00)")
    try:
        return decoded.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"the {part} in the connection string is not percent-encoded UTF-8"
        ) from None


def _keyword_parameters(text: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    position, name = 0, ""
    while text[position:].strip(" \t\n\v\f\r"):
        keyword = _KEYWORD.match(text, position)
        if keyword is None or keyword[1] not in _PARAMETERS:
            if name == "password":
                raise ConfigurationError(
                    "what follows the password in the connection string is not a known parameter; "
                    r"write a password with blanks or quotes as password='...', a quote in it as \'"
                )
            _raise_unknown_parameter(keyword[1] if keyword else None)
        name, position = keyword[1], keyword.end()
        value = (_QUOTED if text.startswith("'", position) else _BARE).match(text, position)
        if value is None:
            raise ConfigurationError(
                f'the quote that opens the value of "{name}" in the connection string is not closed'
            )
        parameters[name] = _unescape(value[1])
        position = value.end()
    return parameters


def _raise_unknown_parameter(name: str | None) -> NoReturn:
    # Only what looks like a parameter's name is shown: the rest may be part of a password.
    if name is None or not re.fullmatch(r"[A-Za-z_]{1,40}", name):
        raise ConfigurationError(
            "the connection string holds something that is not a known name=value parameter; "
            "special characters in a URL must be percent-encoded, values with blanks quoted"
        )
    raise ConfigurationError(
        f'the connection string parameter "{name}" is not supported'
        f"{did_you_mean(_OTHER_NAMES.get(name, name), _PARAMETERS)}"
    )


def _unescape(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)


def _addresses(host: str, port: str) -> tuple[Address, ...]:
    hosts = host.split(",")
    ports = port.split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise ConfigurationError(
            f"the connection string has {len(ports)} ports for {len(hosts)} hosts; "
            "give one port for all, or one for each"
        )
    return tuple(_address(*pair) for pair in zip(hosts, ports, strict=True))


def _address(host: str, port: str) -> Address:
    if not host:
        raise ConfigurationError("one of the hosts in the connection string is empty")
    if "@" in host:
        raise ConfigurationError(
            'the host in the connection string holds an "@"; '
            'an "@" in the user name or password must be written as %40'
        )
    if not port:
        return Address(host)
    if not _INTEGER.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise ConfigurationError(
            "a port in the connection string is not a number between 1 and 65535; "
            "special characters in the user name or password must be percent-encoded"
        )
    return Address(host, int(port))


def _ssl_mode(given: Mapping[str, str], addresses: tuple[Address, ...]) -> SslMode:
    system_roots = given.get("sslrootcert") == "system"
    default: SslMode = "prefer" if all(each.is_local for each in addresses) else "require"
    mode = _choice(given, "sslmode", _SSL_MODES, "verify-full" if system_roots else default)
    # Both rules are libpq's ("sslrootcert", "sslnegotiation").
    if system_roots and mode != "verify-full":
        raise ConfigurationError("sslrootcert=system in the connection string needs verify-full")
    if given.get("sslnegotiation") == "direct" and mode in ("disable", "prefer"):
        raise ConfigurationError(
            "sslnegotiation=direct in the connection string needs sslmode=require or stronger"
        )
    return mode


def _choice(
    given: Mapping[str, str], name: str, allowed: tuple[_Choice, ...], default: _Choice
) -> _Choice:
    if name not in given:
        return default
    for choice in allowed:
        if given[name] == choice:
            return choice
    raise ConfigurationError(
        f"{name} in the connection string must be one of {', '.join(allowed)}"
        f"{did_you_mean(given[name], allowed)}"
    )


def _timeout(text: str | None) -> float | None:
    if text is None:
        return None
    if not _INTEGER.fullmatch(text):
        raise ConfigurationError(
            "connect_timeout in the connection string must be a whole number of seconds"
        )
    return float(max(0, int(text)))


def _whole_seconds(seconds: float | None) -> str | None:
    return None if seconds is None else str(math.ceil(seconds))


def _encode(text: str) -> str:
    return quote(text, safe="")


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("/") else _encode(host)
