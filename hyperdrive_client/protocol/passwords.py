"""What PostgreSQL makes of a password before it is hashed or sent."""

from __future__ import annotations

import hashlib
import stringprep
import unicodedata

from hyperdrive_client.errors import ConfigurationError

__all__ = ["encode_password", "md5_password", "saslprep"]

# RFC 4013, section 2.3; C.1.2 is not here because mapping leaves no such character, A.1 is
# because stored strings must not hold unassigned code points (RFC 3454, section 7).
_PROHIBITED = (
    stringprep.in_table_a1,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def encode_password(password: str) -> bytes:
    """The bytes that libpq would read for ``password``: UTF-8, undecodable bytes as they were.

    :raises ConfigurationError: a lone surrogate that stands for no byte (PEP 383).
    """
    try:
        return password.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        pass  # it carries the password, so it must not become our error's context
    raise ConfigurationError(
        "the password holds a lone surrogate (U+D800 to U+DFFF), which UTF-8 cannot carry; "
        "make sure that it is decoded as UTF-8 where it comes from"
    )


def md5_password(user: str, password: str, salt: bytes) -> bytes:
    """The answer to AuthenticationMD5Password, 35 ASCII characters without the closing NUL.

    ``salt`` is the 4 bytes of that message (PostgreSQL, "Message Flow", Start-up).

    :raises ConfigurationError: see :func:`encode_password`.
    """
    stored = hashlib.md5(encode_password(password + user))
    return b"md5" + hashlib.md5(stored.hexdigest().encode() + salt).hexdigest().encode()


def saslprep(password: str) -> str:
    """``password`` as PostgreSQL's server and libpq prepare it for SCRAM (never fails).

    It departs from RFC 4013 in three ways, all of them PostgreSQL's (``pg_saslprep`` and its
    callers): a password that the profile refuses is used as it is; U+200B, which is in both
    mapping tables, becomes a space; what is prohibited and the rules for right-to-left text are
    judged before normalisation, not after.
    """
    if password.isascii():
        return password
    mapped = "".join(map(_mapped, password))
    if not mapped or any(table(char) for char in mapped for table in _PROHIBITED):
        return password
    if not _direction_is_consistent(mapped):
        return password
    return unicodedata.normalize("NFKC", mapped)


def _mapped(char: str) -> str:
    """RFC 4013, section 2.1, spaces first."""
    if stringprep.in_table_c12(char):
        return " "
    return "" if stringprep.in_table_b1(char) else char


def _direction_is_consistent(text: str) -> bool:
    """RFC 3454, section 6; ``text`` is not empty."""
    right_to_left = stringprep.in_table_d1
    if not any(map(right_to_left, text)):
        return True
    return (
        right_to_left(text[0])
        and right_to_left(text[-1])
        and not any(map(stringprep.in_table_d2, text))
    )
