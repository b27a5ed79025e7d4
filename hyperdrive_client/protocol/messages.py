"""Message types, and the bytes of the messages that we make ourselves.

PostgreSQL, "Message Formats". A message is one type byte, a length of four bytes that counts
itself, and the body. Text is handled as bytes: a proxy has no business decoding it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct

from ..errors import OriginProtocolError

# From the frontend.
BIND = ord("B")
CLOSE = ord("C")
COPY_FAIL = ord("f")
DESCRIBE = ord("D")
EXECUTE = ord("E")
FLUSH = ord("H")
FUNCTION_CALL = ord("F")
PARSE = ord("P")
PASSWORD = ord("p")
QUERY = ord("Q")
SYNC = ord("S")
TERMINATE = ord("X")

# From either side.
COPY_DATA = ord("d")
COPY_DONE = ord("c")

# From the backend.
AUTHENTICATION = ord("R")
BACKEND_KEY_DATA = ord("K")
BIND_COMPLETE = ord("2")
CLOSE_COMPLETE = ord("3")
COMMAND_COMPLETE = ord("C")
COPY_BOTH_RESPONSE = ord("W")
COPY_IN_RESPONSE = ord("G")
COPY_OUT_RESPONSE = ord("H")
DATA_ROW = ord("D")
EMPTY_QUERY_RESPONSE = ord("I")
ERROR_RESPONSE = ord("E")
FUNCTION_CALL_RESPONSE = ord("V")
NEGOTIATE_PROTOCOL_VERSION = ord("v")
NO_DATA = ord("n")
NOTICE_RESPONSE = ord("N")
NOTIFICATION_RESPONSE = ord("A")
PARAMETER_DESCRIPTION = ord("t")
PARAMETER_STATUS = ord("S")
PARSE_COMPLETE = ord("1")
PORTAL_SUSPENDED = ord("s")
READY_FOR_QUERY = ord("Z")
ROW_DESCRIPTION = ord("T")

# ReadyForQuery's transaction status.
IDLE = ord("I")
IN_TRANSACTION = ord("T")
FAILED_TRANSACTION = ord("E")

# AuthenticationXXX requests.
AUTHENTICATION_OK = 0
AUTHENTICATION_CLEARTEXT_PASSWORD = 3
AUTHENTICATION_MD5_PASSWORD = 5
AUTHENTICATION_SASL = 10
AUTHENTICATION_SASL_CONTINUE = 11
AUTHENTICATION_SASL_FINAL = 12

SYNC_MESSAGE = b"S\x00\x00\x00\x04"
FLUSH_MESSAGE = b"H\x00\x00\x00\x04"
TERMINATE_MESSAGE = b"X\x00\x00\x00\x04"
PARSE_COMPLETE_MESSAGE = b"1\x00\x00\x00\x04"
CLOSE_COMPLETE_MESSAGE = b"3\x00\x00\x00\x04"
EMPTY_QUERY_MESSAGE = b"I\x00\x00\x00\x04"

HEADER = Struct(">BI")
INT32 = Struct(">I")
INT16 = Struct(">H")
# In place of a value's length.
_NULL = 0xFFFFFFFF
# Of a RowDescription, behind the column's name: table, column, type's OID, size, modifier, format.
_TEXT_FIELD = Struct(">xIHIhih").pack(0, 0, 25, -1, -1, 0)


def message(kind: int, body: bytes) -> bytes:
    """One message; ``ValueError`` if its length does not fit into the protocol's int32."""
    length = len(body) + 4
    if length > 0x7FFFFFFF:
        raise ValueError(f"a message of {length} bytes does not fit into the protocol's length")
    return HEADER.pack(kind, length) + body


def authentication(request: int, data: bytes = b"") -> bytes:
    return message(AUTHENTICATION, INT32.pack(request) + data)


def backend_key_data(process_id: int, secret_key: bytes) -> bytes:
    return message(BACKEND_KEY_DATA, INT32.pack(process_id) + secret_key)


def bind(portal: bytes, statement: bytes, parameters: Iterable[bytes]) -> bytes:
    """A Bind whose parameters and results are all in text format."""
    values = list(parameters)
    body = [portal, b"\x00", statement, b"\x00\x00\x00", INT16.pack(len(values))]
    for value in values:
        body += (INT32.pack(len(value)), value)
    body.append(b"\x00\x00")
    return message(BIND, b"".join(body))


def close_portal(name: bytes) -> bytes:
    return message(CLOSE, b"P" + name + b"\x00")


def close_statement(name: bytes) -> bytes:
    return message(CLOSE, b"S" + name + b"\x00")


def error_response(
    sqlstate: str, text: str, *, severity: str = "ERROR", detail: str = "", hint: str = ""
) -> bytes:
    """An ErrorResponse (PostgreSQL, "Error and Notice Message Fields")."""
    fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", text)]
    fields += [(code, value) for code, value in (("D", detail), ("H", hint)) if value]
    body = b"".join(
        code.encode() + value.replace("\x00", "").encode("utf-8", "replace") + b"\x00"
        for code, value in fields
    )
    return message(ERROR_RESPONSE, body + b"\x00")


def command_complete(tag: bytes) -> bytes:
    return message(COMMAND_COMPLETE, tag + b"\x00")


def data_row(values: Iterable[bytes]) -> bytes:
    """A DataRow without NULLs."""
    columns = [INT32.pack(len(value)) + value for value in values]
    return message(DATA_ROW, INT16.pack(len(columns)) + b"".join(columns))


def row_values(body: bytes) -> tuple[bytes | None, ...]:
    """The columns of a DataRow's body, NULL as ``None``.

    ``OriginProtocolError`` if it is not one.
    """
    values: list[bytes | None] = []
    at = 2
    while at + 4 <= len(body):
        (size,) = INT32.unpack_from(body, at)
        at += 4
        if size == _NULL:
            values.append(None)
        else:
            values.append(body[at : at + size])
            at += size
    if at != len(body) or INT16.unpack_from(body)[0] != len(values):
        raise OriginProtocolError("a row that is too short or too long")
    return tuple(values)


def execute(portal: bytes = b"", rows: int = 0) -> bytes:
    return message(EXECUTE, portal + b"\x00" + INT32.pack(rows))


def negotiate_protocol_version(minor: int, unknown_options: Iterable[bytes]) -> bytes:
    """Says the newest protocol 3 that we speak, and which ``_pq_`` options we do not know.

    The documentation says "minor version"; PostgreSQL sends, and libpq reads, the whole number.
    """
    options = list(unknown_options)
    names = b"".join(option + b"\x00" for option in options)
    return message(
        NEGOTIATE_PROTOCOL_VERSION,
        INT32.pack(3 << 16 | minor) + INT32.pack(len(options)) + names,
    )


def parameter_status(name: bytes, value: bytes) -> bytes:
    return message(PARAMETER_STATUS, name + b"\x00" + value + b"\x00")


def parse(name: bytes, text: bytes, parameter_types: bytes = b"\x00\x00") -> bytes:
    """A Parse; ``parameter_types`` is the count and the OIDs as they stand in the message."""
    return message(PARSE, name + b"\x00" + text + b"\x00" + parameter_types)


def password(data: bytes) -> bytes:
    """A PasswordMessage or SASLResponse: one type byte for both."""
    return message(PASSWORD, data)


def query(text: bytes) -> bytes:
    return message(QUERY, text + b"\x00")


def ready_for_query(status: int) -> bytes:
    return b"Z\x00\x00\x00\x05" + bytes((status,))


def row_description(columns: Iterable[bytes]) -> bytes:
    """A RowDescription of columns of type text, in text format, that belong to no table."""
    fields = [name + _TEXT_FIELD for name in columns]
    return message(ROW_DESCRIPTION, INT16.pack(len(fields)) + b"".join(fields))


def sasl_initial_response(mechanism: bytes, data: bytes) -> bytes:
    return message(PASSWORD, mechanism + b"\x00" + INT32.pack(len(data)) + data)


def startup_message(parameters: Mapping[bytes, bytes], minor: int = 0) -> bytes:
    pairs = b"".join(name + b"\x00" + value + b"\x00" for name, value in parameters.items())
    body = INT32.pack(3 << 16 | minor) + pairs + b"\x00"
    return INT32.pack(len(body) + 4) + body


def error_fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse body by their one-letter code.

    Tolerates missing fields and a missing end: what a hostile server sends must not raise.
    """
    return {
        field[:1].decode("latin-1"): field[1:].decode("utf-8", "replace")
        for field in body.split(b"\x00")
        if field
    }


def command_tag(body: bytes) -> bytes:
    """The tag of a CommandComplete body."""
    return body.partition(b"\x00")[0]
