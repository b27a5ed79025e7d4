"""Our bytes are what PostgreSQL's "Message Formats" describes, and what libpq writes and reads."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import pq

from hyperdrive_client.protocol import messages as m

TEXTS = st.binary(max_size=40).map(lambda text: text.replace(b"\x00", b""))
INT32 = st.integers(0, 0xFFFFFFFF)


class Reader:
    """The data types of "Message Formats", read one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        assert self.position + size <= len(self.data)
        self.position += size
        return self.data[self.position - size : self.position]

    def integer(self, bits: int) -> int:
        return int.from_bytes(self.take(bits // 8), "big")

    def string(self) -> bytes:
        return self.take(self.data.index(b"\x00", self.position) - self.position + 1)[:-1]

    def strings(self) -> list[bytes]:
        """Strings up to an empty one."""
        return list(iter(self.string, b""))

    def message(self, kind: str) -> Reader:
        assert self.take(1) == kind.encode()
        return Reader(self.take(self.integer(32) - 4))

    def many(self, bits: int) -> list[int]:
        return [self.integer(bits) for _ in range(self.integer(16))]

    def end(self) -> None:
        assert self.position == len(self.data)


def read_bind(reader: Reader) -> tuple[bytes, bytes, list[bytes], list[int]]:
    """Portal, statement, values, and all format codes."""
    body = reader.message("B")
    portal, statement, formats = body.string(), body.string(), body.many(16)
    values = [body.take(body.integer(32)) for _ in range(body.integer(16))]
    formats += body.many(16)
    body.end()
    return portal, statement, values, formats


def read_parse(reader: Reader) -> tuple[bytes, bytes, list[int]]:
    body = reader.message("P")
    parsed = body.string(), body.string(), body.many(32)
    body.end()
    return parsed


def read_execute(reader: Reader) -> tuple[bytes, int]:
    body = reader.message("E")
    read = body.string(), body.integer(32)
    body.end()
    return read


@given(st.integers(0, 255), st.binary(max_size=300))
def test_a_message_is_its_type_its_length_and_its_body(kind: int, body: bytes) -> None:
    reader = Reader(m.message(kind, body))
    assert (reader.integer(8), reader.integer(32)) == (kind, len(body) + 4)
    assert reader.take(len(body)) == body
    reader.end()


class _Huge(bytes):
    """Bytes that only claim to be many."""

    claimed: int

    def __len__(self) -> int:
        return self.claimed


def test_a_message_that_the_length_cannot_express_is_never_made() -> None:
    body = _Huge(b"")
    body.claimed = 0x7FFFFFFF - 4
    assert m.message(m.QUERY, body) == b"Q\x7f\xff\xff\xff"
    body.claimed += 1
    with pytest.raises(ValueError, match="2147483648 bytes"):
        m.message(m.QUERY, body)


@given(INT32, st.binary(max_size=40))
def test_authentication(request: int, data: bytes) -> None:
    body = Reader(m.authentication(request, data)).message("R")
    assert (body.integer(32), body.take(len(data))) == (request, data)
    body.end()


@given(INT32, st.binary(max_size=256))
def test_backend_key_data(process_id: int, key: bytes) -> None:
    body = Reader(m.backend_key_data(process_id, key)).message("K")
    assert (body.integer(32), body.take(len(key))) == (process_id, key)
    body.end()


@given(TEXTS, TEXTS, st.lists(st.binary(max_size=20), max_size=5))
def test_bind(portal: bytes, statement: bytes, values: list[bytes]) -> None:
    reader = Reader(m.bind(portal, statement, iter(values)))
    assert read_bind(reader) == (portal, statement, values, [])
    reader.end()


@given(TEXTS)
def test_close_statement(name: bytes) -> None:
    body = Reader(m.close_statement(name)).message("C")
    assert (body.take(1), body.string()) == (b"S", name)
    body.end()


@given(
    st.text("0123456789ABCDEFGHIJ", min_size=5, max_size=5),
    st.text(max_size=40),
    st.sampled_from(("ERROR", "FATAL")),
    st.text(max_size=20),
    st.text(max_size=20),
)
def test_error_response(sqlstate: str, text: str, severity: str, detail: str, hint: str) -> None:
    message = m.error_response(sqlstate, text, severity=severity, detail=detail, hint=hint)
    body = Reader(message).message("E")
    fields = {field[:1].decode(): field[1:] for field in body.strings()}
    body.end()
    sent = {"S": severity, "V": severity, "C": sqlstate, "M": text, "D": detail, "H": hint}
    sent = {code: value.replace("\x00", "") for code, value in sent.items() if value or code == "M"}
    assert fields.keys() - {"D", "H"} == {"S", "V", "C", "M"}
    assert {code: field for code, field in fields.items() if field} == {
        code: value.encode("utf-8", "replace") for code, value in sent.items() if value
    }
    assert m.error_fields(message[5:]) == {code: field.decode() for code, field in fields.items()}


@given(TEXTS)
def test_command_complete(tag: bytes) -> None:
    body = Reader(m.command_complete(tag)).message("C")
    assert body.string() == tag
    body.end()


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_data_row(values: list[bytes]) -> None:
    body = Reader(m.data_row(iter(values))).message("D")
    assert [body.take(body.integer(32)) for _ in range(body.integer(16))] == values
    body.end()


@given(st.lists(TEXTS, max_size=5))
def test_row_description(names: list[bytes]) -> None:
    body = Reader(m.row_description(iter(names))).message("T")
    for _, name in zip(range(body.integer(16)), names, strict=True):
        assert body.string() == name
        assert [body.integer(bits) for bits in (32, 16)] == [0, 0]
        # text, of any length and without a modifier, as text.
        assert [body.integer(bits) for bits in (32, 16, 32, 16)] == [25, 0xFFFF, 0xFFFFFFFF, 0]
    body.end()


@given(TEXTS, INT32)
def test_execute(portal: bytes, rows: int) -> None:
    reader = Reader(m.execute(portal, rows))
    assert read_execute(reader) == (portal, rows)
    reader.end()


@given(st.integers(0, 0xFFFF), st.lists(TEXTS.filter(bool), max_size=4))
def test_negotiate_protocol_version(minor: int, options: list[bytes]) -> None:
    body = Reader(m.negotiate_protocol_version(minor, iter(options))).message("v")
    assert (body.integer(16), body.integer(16)) == (3, minor)
    assert [body.string() for _ in range(body.integer(32))] == options
    body.end()


@given(TEXTS, TEXTS)
def test_parameter_status(name: bytes, value: bytes) -> None:
    body = Reader(m.parameter_status(name, value)).message("S")
    assert (body.string(), body.string()) == (name, value)
    body.end()


@given(TEXTS, TEXTS, st.lists(INT32, max_size=4))
def test_parse(name: bytes, text: bytes, types: list[int]) -> None:
    oids = b"".join(oid.to_bytes(4, "big") for oid in types)
    reader = Reader(m.parse(name, text, len(types).to_bytes(2, "big") + oids))
    assert read_parse(reader) == (name, text, types)
    reader.end()
    assert read_parse(Reader(m.parse(name, text))) == (name, text, [])


@given(st.binary(max_size=40), TEXTS)
def test_password_messages(data: bytes, mechanism: bytes) -> None:
    assert Reader(m.password(data)).message("p").data == data
    body = Reader(m.sasl_initial_response(mechanism, data)).message("p")
    assert (body.string(), body.take(body.integer(32))) == (mechanism, data)
    body.end()


@given(TEXTS)
def test_query(text: bytes) -> None:
    body = Reader(m.query(text)).message("Q")
    assert body.string() == text
    body.end()


@pytest.mark.parametrize("status", [m.IDLE, m.IN_TRANSACTION, m.FAILED_TRANSACTION])
def test_ready_for_query(status: int) -> None:
    assert Reader(m.ready_for_query(status)).message("Z").data == bytes((status,))


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (m.SYNC_MESSAGE, "S"),
        (m.FLUSH_MESSAGE, "H"),
        (m.TERMINATE_MESSAGE, "X"),
        (m.PARSE_COMPLETE_MESSAGE, "1"),
        (m.CLOSE_COMPLETE_MESSAGE, "3"),
    ],
)
def test_messages_without_a_body(message: bytes, kind: str) -> None:
    reader = Reader(message)
    reader.message(kind).end()
    reader.end()


@given(
    st.dictionaries(TEXTS.filter(bool), TEXTS, max_size=5),
    st.integers(0, 0xFFFF),
)
def test_startup_message(parameters: dict[bytes, bytes], minor: int) -> None:
    packet = Reader(m.startup_message(parameters, minor))
    assert packet.integer(32) == len(packet.data)
    assert (packet.integer(16), packet.integer(16)) == (3, minor)
    words = []
    while name := packet.string():
        words += [name, packet.string()]
    packet.end()
    assert dict(zip(words[::2], words[1::2], strict=True)) == parameters


@given(st.binary(max_size=200) | st.lists(st.binary(max_size=8)).map(b"\x00".join))
def test_the_fields_of_any_bytes_are_read_without_an_error(body: bytes) -> None:
    assert all(len(code) == 1 for code in m.error_fields(body))


def test_an_error_cut_off_anywhere_still_gives_the_fields_before() -> None:
    body = m.error_response("42601", "é", detail="x")[5:]
    for end in range(len(body)):
        fields = m.error_fields(body[:end])
        for code, value in {"S": "ERROR", "V": "ERROR", "C": "42601", "M": "é", "D": "x"}.items():
            if body.index(f"{code}{value}\0".encode()) + 1 + len(value.encode()) <= end:
                assert fields[code] == value


@given(TEXTS, st.binary(max_size=10))
def test_a_command_tag_ends_at_the_zero_byte(tag: bytes, rest: bytes) -> None:
    assert m.command_tag(tag + b"\x00" + rest) == tag
    assert m.command_tag(tag) == tag


# libpq as the other side. Non-blocking and in one thread, so that nobody waits for nobody.

Meet = Callable[[str, bytes], tuple[pq.abc.PGconn, socket.socket, bytes]]

WELCOME = (
    m.authentication(m.AUTHENTICATION_OK)
    + m.parameter_status(b"server_version", b"18.1")
    + m.parameter_status(b"client_encoding", b"UTF8")
    + m.parameter_status(b"odd name", "é 'x'".encode())
    + m.backend_key_data(4_194_305, b"key!")
    + m.ready_for_query(m.IDLE)
)


@pytest.fixture
def meet() -> Iterator[Meet]:
    """Connect libpq to a socket of ours, which answers its first packet with the given bytes."""
    listener = socket.create_server(("127.0.0.1", 0))
    opened: list[tuple[pq.abc.PGconn, socket.socket]] = []

    def meet(parameters: str, answer: bytes) -> tuple[pq.abc.PGconn, socket.socket, bytes]:
        fixed = "host=127.0.0.1 sslmode=disable gssencmode=disable client_encoding=utf8"
        conninfo = f"{fixed} port={listener.getsockname()[1]} {parameters}"
        connection = pq.PGconn.connect_start(conninfo.encode())
        peer, _ = listener.accept()
        peer.settimeout(10)
        opened.append((connection, peer))
        first = b""
        while (status := connection.connect_poll()) != pq.PollingStatus.OK:
            assert status != pq.PollingStatus.FAILED, connection.get_error_message()
            if status == pq.PollingStatus.READING and not first:
                first = peer.recv(65536)
                peer.sendall(answer)
            reads, writes = ([connection.socket], []) if first else ([], [connection.socket])
            assert any(select.select(reads, writes, [], 10))
        return connection, peer, first

    yield meet
    for connection, peer in opened:
        connection.finish()
        peer.close()
    listener.close()


def results(connection: pq.abc.PGconn) -> list[pq.abc.PGresult]:
    """Everything up to the end of one query."""
    found: list[pq.abc.PGresult] = []
    while True:
        while connection.is_busy():
            assert select.select([connection.socket], [], [], 10)[0]
            connection.consume_input()
        result = connection.get_result()
        if result is None:
            return found
        found.append(result)


def test_libpq_starts_as_we_do_and_reads_our_welcome(meet: Meet) -> None:
    connection, _, first = meet("user=me dbname='a b' application_name=é", WELCOME)
    parameters = {
        b"user": b"me",
        b"database": b"a b",
        b"application_name": "é".encode(),
        b"client_encoding": b"utf8",
    }
    assert first == m.startup_message(parameters)
    assert connection.backend_pid == 4_194_305
    assert connection.server_version == 180001
    assert connection.parameter_status(b"odd name") == "é 'x'".encode()
    assert connection.transaction_status == pq.TransactionStatus.IDLE


@pytest.mark.skipif(pq.version() < 180000, reason="libpq before 18 speaks protocol 3.0 only")
@pytest.mark.parametrize("minor", [0, 2])
def test_libpq_obeys_our_choice_of_protocol(meet: Meet, minor: int) -> None:
    answer = b"" if minor == 2 else m.negotiate_protocol_version(minor, [])
    key = m.backend_key_data(1, bytes(32 if minor == 2 else 4))
    welcome = WELCOME.replace(m.backend_key_data(4_194_305, b"key!"), key)
    connection, _, first = meet("user=me max_protocol_version=3.2", answer + welcome)
    assert first[4:8] == b"\x00\x03\x00\x02"
    assert connection.full_protocol_version == 30000 + minor


def test_libpq_reads_our_rows(meet: Meet) -> None:
    connection, peer, _ = meet("user=me", WELCOME)
    connection.send_query(b"SHOW STATS")
    peer.sendall(
        m.row_description((b"name", b"value"))
        + m.data_row((b"waits", b"7"))
        + m.command_complete(b"SHOW")
        + m.ready_for_query(m.IDLE)
    )
    [result] = results(connection)
    assert (result.fname(1), result.ftype(1), result.fformat(1)) == (b"value", 25, 0)
    assert [result.get_value(0, column) for column in (0, 1)] == [b"waits", b"7"]
    assert result.command_status == b"SHOW"


def test_libpq_reads_our_errors(meet: Meet) -> None:
    connection, peer, _ = meet("user=me", WELCOME)
    connection.send_query("SELECT 'é'".encode())
    assert peer.recv(65536) == m.query("SELECT 'é'".encode())
    peer.sendall(
        m.error_response("58000", "Nö.", detail="why", hint="what to do")
        + m.ready_for_query(m.FAILED_TRANSACTION)
    )
    [result] = results(connection)
    field = pq.DiagnosticField
    assert [result.error_field(each) for each in (field.SQLSTATE, field.SEVERITY)] == [
        b"58000",
        b"ERROR",
    ]
    assert result.error_field(field.MESSAGE_PRIMARY) == "Nö.".encode()
    assert result.error_field(field.MESSAGE_DETAIL) == b"why"
    assert result.error_field(field.MESSAGE_HINT) == b"what to do"
    assert connection.transaction_status == pq.TransactionStatus.INERROR


def test_libpq_asks_as_we_do(meet: Meet) -> None:
    connection, peer, _ = meet("user=me", WELCOME)
    connection.enter_pipeline_mode()
    connection.send_prepare(b"s", b"SELECT $1", [23])
    connection.send_query_prepared(b"s", [b"1"])
    if pq.version() >= 170000:
        connection.send_close_prepared(b"s")
    connection.pipeline_sync()
    connection.flush()
    sent = peer.recv(65536)
    parse = m.parse(b"s", b"SELECT $1", b"\x00\x01\x00\x00\x00\x17")
    assert sent.startswith(parse)
    assert sent.endswith(m.SYNC_MESSAGE)
    reader = Reader(sent)
    assert read_parse(reader) == (b"s", b"SELECT $1", [23])
    # libpq asks for one format, text, for all results; we leave it at the default, text.
    bind = read_bind(Reader(m.bind(b"", b"s", [b"1"])))
    assert read_bind(reader) == (*bind[:3], [0])
    assert reader.message("D").data == b"P\x00"
    rest = m.execute() + (m.close_statement(b"s") if pq.version() >= 170000 else b"")
    assert sent[reader.position :] == rest + m.SYNC_MESSAGE
    connection.finish()
    assert peer.recv(65536) == m.TERMINATE_MESSAGE
