"""Conversations with the core, without sockets.

A message is written, and compared, as one line: its type letter and the fields that matter.

from a client   ``Q text`` · ``P name: text [oid,oid]`` · ``B portal<-statement value,value`` ·
                ``D S name`` · ``C P name`` · ``E portal/rows`` · ``F oid`` · ``d data`` ·
                ``f reason`` · ``p data`` · ``S`` ``H`` ``X`` ``c``
from an origin  ``T column`` · ``D value`` (columns with a tab between them) · ``C tag`` · ``Z I`` ·
                ``t oid,oid`` · ``E code text`` · ``E FATAL code text`` · ``N code text`` ·
                ``A pid channel payload`` ·
                ``S name=value`` · ``R 0`` · ``K pid`` · ``V value`` · ``G`` ``H`` · ``d data`` ·
                ``1`` ``2`` ``3`` ``n`` ``s`` ``I`` ``c``

An expected error may leave out its text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.scram import ScramClient, ScramCredentials
from hyperdrive_client.proxy.admin.console import Console
from hyperdrive_client.proxy.core import effects as do
from hyperdrive_client.proxy.core import inspection
from hyperdrive_client.proxy.core.client_session import ClientSession
from hyperdrive_client.proxy.core.client_startup import ClientTls
from hyperdrive_client.proxy.core.core import Core
from hyperdrive_client.proxy.core.expected import Action
from hyperdrive_client.proxy.core.origin_session import OriginSession
from hyperdrive_client.proxy.core.origin_startup import ConnectFailure
from hyperdrive_client.proxy.core.read_back import PATIENCE, query
from hyperdrive_client.proxy.core.refresher import Refresher
from hyperdrive_client.proxy.core.session_variables import replay
from hyperdrive_client.proxy.core.siblings import Siblings
from hyperdrive_client.proxy.core.states import ClientState, OriginState
from hyperdrive_client.proxy.settings import Caching, Limits, Settings
from hyperdrive_client.sql.facts import ANYTHING

ADDRESS = Address("127.0.0.1", 5432)
REPORTED = {"client_encoding": "UTF8", "server_version": "18.0"}

_ORIGIN_DOES_NOTHING = (OriginState.CLOSING, OriginState.CLOSED)


def encode(line: str) -> bytes:
    """One line from a client as bytes."""
    kind, _, rest = line.partition(" ")
    text = rest.encode()
    if kind == "Q":
        return m.query(text)
    if kind == "P":
        name, statement, types = re.fullmatch(rb"(\S*?): ?(.*?)(?: \[([\d,]+)\])?", text).groups()
        oids = [int(oid) for oid in types.split(b",")] if types else []
        packed = m.INT16.pack(len(oids)) + b"".join(map(m.INT32.pack, oids))
        return m.parse(name, statement, packed)
    if kind == "B":
        portal, name, values = re.fullmatch(rb"(\S*)<-(\S*)(?: (.*))?", text).groups()
        return m.bind(portal, name, values.split(b",") if values is not None else [])
    if kind in "DC":
        return m.message(ord(kind), text[:1] + text[2:] + b"\x00")
    if kind == "E":
        portal, _, rows = text.partition(b"/")
        return m.execute(portal, int(rows or 0))
    if kind == "F":
        return m.message(m.FUNCTION_CALL, m.INT32.pack(int(text)) + b"\x00\x00\x00\x00\x00\x00")
    if kind == "f":
        return m.message(m.COPY_FAIL, text + b"\x00")
    assert kind in ("S", "H", "X", "c", "d", "p"), line
    return m.message(ord(kind), text)


def decode(kind: str, body: bytes) -> str:
    """One message to the origin as a line."""
    if kind == "P":
        name, text, types = body.split(b"\x00", 2)
        oids = [str(*m.INT32.unpack_from(types, at)) for at in range(2, len(types), 4)]
        line = f"P {name.decode()}: {text.decode()}".rstrip()
        return line + (f" [{','.join(oids)}]" if oids else "")
    if kind == "B":
        portal, name, rest = body.split(b"\x00", 2)
        return f"B {portal.decode()}<-{name.decode()}{_values(rest)}"
    if kind in "DC":
        return f"{kind} {chr(body[0])} {body[1:-1].decode()}".rstrip()
    if kind == "E":
        portal, rows = body[:-5], m.INT32.unpack(body[-4:])[0]
        return f"E {portal.decode()}{f'/{rows}' if rows else ''}".rstrip()
    if kind == "F":
        return f"F {m.INT32.unpack_from(body)[0]}"
    return f"{kind} {body.removesuffix(b'%c' % 0).decode('latin-1')}".rstrip()


def _values(bound: bytes) -> str:
    values, at = [], 4
    for _ in range(m.INT16.unpack_from(bound, 2)[0]):
        length = m.INT32.unpack_from(bound, at)[0]
        values.append(bound[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return f" {','.join(values)}" if values else ""


def encode_answer(line: str) -> bytes:
    """One line from an origin as bytes."""
    kind, _, rest = line.partition(" ")
    text = rest.encode()
    if kind == "T":
        body = b"\x00\x01" + text + b"\x00" + bytes(6) + m.INT32.pack(25) + bytes(8)
    elif kind == "D":
        columns = text.split(b"\t")
        values = b"".join(m.INT32.pack(len(column)) + column for column in columns)
        body = m.INT16.pack(len(columns)) + values
    elif kind in ("E", "N"):
        fatal = rest.startswith("FATAL ")
        sqlstate, _, words = rest.removeprefix("FATAL ").partition(" ")
        error = m.error_response(sqlstate, words, severity="FATAL" if fatal else "ERROR")
        return kind.encode() + error[1:]
    elif kind == "S":
        name, _, value = text.partition(b"=")
        return m.parameter_status(name, value)
    elif kind == "t":
        oids = [int(oid) for oid in text.split(b",")] if text else []
        body = m.INT16.pack(len(oids)) + b"".join(map(m.INT32.pack, oids))
    elif kind == "R":
        return m.authentication(int(text))
    elif kind == "K":
        body = m.INT32.pack(int(text)) + b"key!"
    elif kind == "V":
        body = m.INT32.pack(len(text)) + text
    elif kind == "A":
        pid, channel, payload = text.split(b" ")
        body = m.INT32.pack(int(pid)) + channel + b"\x00" + payload + b"\x00"
    elif kind in ("G", "H"):
        body = b"\x00\x00\x01\x00\x00"
    elif kind == "C":
        body = text + b"\x00"
    else:
        assert kind in ("1", "2", "3", "n", "s", "I", "c", "Z", "d"), line
        body = text
    return m.message(ord(kind), body)


def decode_answer(kind: str, body: bytes) -> str:
    """One message to a client as a line."""
    if kind == "T":
        return f"T {body[2 : body.index(0, 2)].decode()}"
    if kind == "D":
        columns, at = [], 2
        for _ in range(m.INT16.unpack_from(body)[0]):
            stop = at + 4 + m.INT32.unpack_from(body, at)[0]
            columns.append(body[at + 4 : stop].decode())
            at = stop
        return f"D {chr(9).join(columns)}"
    if kind in ("E", "N"):
        fields = m.error_fields(body)
        severity = "FATAL " if fields.get("V") == "FATAL" else ""
        return f"{kind} {severity}{fields.get('C')} {fields.get('M')}".rstrip()
    if kind == "S":
        return f"S {body[:-1].replace(bytes(1), b'=').decode()}"
    if kind == "t":
        oids = [str(*m.INT32.unpack_from(body, at)) for at in range(2, len(body), 4)]
        return f"t {','.join(oids)}".rstrip()
    if kind in ("R", "K"):
        return f"{kind} {m.INT32.unpack_from(body)[0]}"
    if kind == "V":
        return f"V {body[4:].decode()}"
    if kind == "A":
        channel, payload, _ = body[4:].split(b"\x00")
        return f"A {m.INT32.unpack_from(body)[0]} {channel.decode()} {payload.decode()}"
    if kind in ("G", "H"):
        return kind
    if kind == "v":
        options = body[8:-1].replace(b"\x00", b",").decode()
        return f"v {m.INT32.unpack_from(body)[0] & 0xFFFF} {options}".rstrip()
    return f"{kind} {body.removesuffix(b'%c' % 0).decode('latin-1')}".rstrip()


def take_messages(data: bytearray) -> Iterator[tuple[str, bytes]]:
    """The complete messages at the front of ``data``, which loses them."""
    while len(data) >= 5:
        stop = 1 + m.INT32.unpack_from(data, 1)[0]
        if len(data) < stop:
            return
        yield chr(data[0]), bytes(data[5:stop])
        del data[:stop]


class Peer:
    """What both ends have: bytes that came, seen as lines."""

    def __init__(self, proxy: Proxy, show: Callable[[str, bytes], str]) -> None:
        self.proxy = proxy
        self.data = bytearray()
        self._show = show

    def hears(self) -> list[str]:
        """All that came since the last question, as lines; half a message stays."""
        return [self._show(kind, body) for kind, body in take_messages(self.data)]

    def hears_bytes(self) -> bytes:
        data = bytes(self.data)
        self.data.clear()
        return data

    def receives(self, *lines: str) -> None:
        """Since the last question exactly these lines came."""
        heard = self.hears()
        for index, line in enumerate(lines[: len(heard)]):
            if line.startswith("E ") and heard[index].startswith(line + " "):
                heard[index] = line
        assert heard == list(lines)
        assert not self.data, "half a message came"


class Client(Peer):
    """A client and its connection to the proxy."""

    def __init__(self, proxy: Proxy, tls: ClientTls | None = None) -> None:
        super().__init__(proxy, decode_answer)
        self.session: ClientSession = proxy.core.client_connected(proxy.now, tls)
        self.session.handle = self
        self.closed = False
        """The proxy has closed the connection."""
        self.paused = False
        self.process_id = 0
        self.secret_key = b""

    def sends(self, *lines: str) -> None:
        """All in one write."""
        self.sends_bytes(b"".join(map(encode, lines)))

    def sends_bytes(self, data: bytes) -> None:
        def receive(part: bytes) -> None:
            if not self.closed:
                self.proxy.core.client_received(self.session, part, self.proxy.now)

        self.proxy.feed(receive, data)

    def asks_in(self, minor: int = 0, **parameters: str) -> None:
        """Sends a StartupMessage; the user and database are the right ones unless given."""
        given = {"user": "visitor", "database": "app", **parameters}
        pairs = {name.encode(): value.encode() for name, value in given.items()}
        self.sends_bytes(m.startup_message(pairs, minor))

    def proves(self, password: str = "entry", channel_binding: bytes | None = None) -> None:
        """The whole SCRAM exchange, up to where the proxy says yes or no."""
        ((kind, body),) = take_messages(self.data)
        assert (kind, body[:4]) == ("R", m.INT32.pack(m.AUTHENTICATION_SASL))
        scram = ScramClient(
            ScramCredentials(password),
            body[4:].rstrip(b"\x00").split(b"\x00"),
            channel_binding=channel_binding,
        )
        self.sends_bytes(m.sasl_initial_response(scram.mechanism, scram.first()))
        if chr(self.data[0]) == "E":
            return
        ((kind, body),) = take_messages(self.data)
        assert (kind, body[:4]) == ("R", m.INT32.pack(m.AUTHENTICATION_SASL_CONTINUE))
        self.sends_bytes(m.password(scram.final(body[4:])))
        final = m.HEADER.unpack_from(self.data)[1] + 1
        if chr(self.data[0]) == "R":
            scram.verify(bytes(self.data[9:final]))
            del self.data[:final]

    def is_welcomed(self, **expected: str) -> None:
        """Everything up to the first ReadyForQuery came, with these values among the reported."""
        lines = []
        for kind, body in take_messages(self.data):
            lines.append(decode_answer(kind, body))
            if kind == "K":
                self.process_id, self.secret_key = m.INT32.unpack_from(body)[0], body[4:]
        statuses = [line for line in lines if line[0] == "S"]
        begin = lines[: -len(statuses) - 2]
        assert begin in ([], ["R 0"]), lines
        assert lines == [*begin, *statuses, f"K {self.process_id}", "Z I"]
        assert expected.items() <= dict(line[2:].split("=", 1) for line in statuses).items()

    def vanishes(self) -> None:
        """The connection breaks."""
        self.closed = True
        self.proxy.core.client_lost(self.session, self.proxy.now)
        self.proxy.perform()

    def cancel_request(self, secret_key: bytes | None = None, process_id: int = 0) -> Client:
        """A new connection that asks to cancel what this client does."""
        canceller = self.proxy.connect()
        code = m.INT32.pack(1234 << 16 | 5678)
        key = self.secret_key if secret_key is None else secret_key
        body = code + m.INT32.pack(process_id or self.process_id) + key
        canceller.sends_bytes(m.INT32.pack(len(body) + 4) + body)
        return canceller

    @property
    def state(self) -> str:
        return self.session.state.value


class Server(Peer):
    """An origin at the other end of an origin connection; the test says what it answers."""

    def __init__(self, proxy: Proxy, session: OriginSession) -> None:
        super().__init__(proxy, decode)
        self.session = session
        session.handle = self
        self.minor = 0
        """Of protocol 3, as asked for in the StartupMessage."""
        self.startup: dict[bytes, bytes] = {}
        self.cancels = 0
        """Cancel requests that the proxy has to deliver."""
        self.requesters: list[ClientSession | None] = []
        """Who asked for them, first come first."""
        self.aborted = False
        self.closing = False
        self.read_back_names = ""
        """The custom settings that the last read-back asked for."""

    def sends(self, *lines: str) -> None:
        """All in one write."""
        self.sends_bytes(b"".join(map(encode_answer, lines)))

    def sends_bytes(self, data: bytes) -> None:
        def receive(part: bytes) -> None:
            if not self.aborted:
                self.proxy.core.origin_received(self.session, part, self.proxy.now)

        self.proxy.feed(receive, data)

    def connects(
        self,
        address: Address = ADDRESS,
        *,
        encrypted: bool = False,
        certificate: bytes | None = None,
    ) -> None:
        """The connection is open; takes the StartupMessage."""
        self.proxy.core.origin_connected(
            self.session, address, encrypted=encrypted, certificate=certificate
        )
        self.proxy.perform()
        data = self.hears_bytes()
        if data:
            self.minor = m.INT32.unpack_from(data, 4)[0] & 0xFFFF
            words = data[8:-2].split(b"\x00")
            self.startup = dict(zip(words[::2], words[1::2], strict=True))

    def starts(self, pid: int = 77, *, address: Address = ADDRESS, **reported: str) -> None:
        """Connects, lets the proxy in, and is ready."""
        self.connects(address)
        status = {**REPORTED, **reported}
        self.sends("R 0", *(f"S {key}={status[key]}" for key in status), f"K {pid}", "Z I")

    def cannot_be_reached(
        self, reason: str = "connection_refused", *, transient: bool = True
    ) -> None:
        text = f"Server connection attempt failed: {reason}"
        failure = ConnectFailure("58000", text, transient)
        self.proxy.core.origin_connect_failed(self.session, failure, self.proxy.now)
        self.proxy.perform()

    def closes(self) -> None:
        """The connection is closed, by whomever."""
        self.aborted = True
        self.proxy.core.origin_lost(self.session, self.proxy.now)
        self.proxy.perform()

    def cancel_is_done(self, which: int = 0) -> None:
        self.cancels -= 1
        requester = self.requesters.pop(which)
        self.proxy.core.cancel_done(self.session, self.proxy.now, requester)
        self.proxy.perform()

    def obliges(self, status: str = "I") -> list[str]:
        """Does what it is asked without complaint, all that has come; that."""
        asked = []
        while heard := self.hears():
            asked += heard
            done = ("C SELECT 1", f"Z {status}")
            answers = {"P": ["1"], "B": ["2"], "C": ["3"], "E": done[:1], "S": done[1:], "Q": done}
            self.sends(*(answer for line in heard for answer in answers.get(line[0], ())))
        return asked

    def is_asked(self, *lines: str) -> None:
        """Since the last question exactly these lines came, with # for a name of ours."""
        heard = [re.sub(r"hyperdrive_[0-9a-f]{16}_\d+", "#", line) for line in self.hears()]
        inspect = inspection.QUERY.decode()
        assert [line.replace(inspect, "<inspection>") for line in heard] == list(lines)
        assert not self.data, "half a message came"

    def is_set(self, *steps: str, reports: Iterable[str] = ()) -> None:
        """Is told to change settings, ``name=value`` or ``name`` to reset it, and does."""
        messages, _ = replay(
            [
                (name.encode(), value.encode() if equals else None)
                for name, equals, value in (step.partition("=") for step in steps)
            ]
        )
        heard = self.hears()
        assert heard == [*(decode(*each) for each in take_messages(bytearray(messages))), "S"]
        answers = {"P": "1", "B": "2", "E": "C SELECT 1", "C": "3"}
        statuses = [f"S {each}" for each in reports]
        self.sends(*(answers[line[0]] for line in heard[:-1]), *statuses, "Z I")

    def is_read_back(self, *rows: str, patiently: bool = False) -> int:
        """Is asked what the session has, and answers; what it was asked for.

        Each of ``rows`` is ``name=value`` for a setting, or the number of what was found.
        """
        traces, answers = self.reads_back(*rows, patiently=patiently)
        self.sends(*answers)
        return traces

    def reads_back(self, *rows: str, patiently: bool = False) -> tuple[int, list[str]]:
        """What the proxy asks for, and the answers that would be given."""
        heard = self.hears()
        texts = {each.server_name: each.text for each in self.session.statements}
        bound = [line[4:].split() for line in heard if line.startswith("B <-")]
        asked = [texts[name.encode()] for name, *_ in bound]
        assert asked[:-1] == ([PATIENCE] if patiently else [])
        (traces,) = (traces for traces in range(ANYTHING + 1) if query(traces) == asked[-1])
        parts = "".join(line[0] for line in heard)
        assert re.fullmatch("P?BE" * len(bound) + "C*S", parts), heard
        self.read_back_names = bound[-1][1]
        data = [f"D {row.replace('=', chr(9), 1) if '=' in row else row + chr(9)}" for row in rows]
        answers: list[str] = []
        left = len(bound)
        for part in parts[:-1]:
            if part == "E":
                left -= 1
                answers += data if not left else [f"D {chr(9)}"]
            answers.append({"P": "1", "B": "2", "E": "C SELECT", "C": "3"}[part])
        return traces, [*answers, "Z I"]

    def is_cleaned(self, *, rollback: bool = False) -> None:
        """Is told to forget the client, and does."""
        if rollback:
            self.receives("Q ROLLBACK", "Q DISCARD ALL")
            self.sends("C ROLLBACK", "Z I")
        else:
            self.receives("Q DISCARD ALL")
        self.sends("C DISCARD ALL", "Z I")

    @property
    def state(self) -> str:
        return self.session.state.value


class Proxy:
    """The core, with a clock, and the two sides that the network layer would give it.

    ``feeding`` says how bytes arrive: ``whole``, or ``byte by byte``. The core's own books are
    checked after each event.
    """

    def __init__(self, settings: Settings, feeding: str, siblings: Siblings | None = None) -> None:
        self.core = Core(settings, Console, siblings)
        self.said: list[list[Any]] = []
        """What the supervisor of several workers was told."""
        self.now = 1000.0
        self.feeding = feeding
        self.servers: list[Server] = []

    # Verbs.

    def connect(self, tls: ClientTls | None = None) -> Client:
        client = Client(self, tls)
        self.perform()
        return client

    def client(self, **parameters: str) -> Client:
        """A client that is in; where trust is enough, and some origin connection was made."""
        client = self.connect()
        client.asks_in(**parameters)
        client.is_welcomed()
        return client

    def pair(self, **parameters: str) -> tuple[Client, Server]:
        """The first client, and the first origin connection, idle."""
        client = self.connect()
        client.asks_in(**parameters)
        server = self.servers[-1]
        server.starts()
        client.is_welcomed()
        return client, server

    def linked(self, status: str = "T") -> tuple[Client, Server]:
        """A client whose transaction is open (or failed) at the origin; all is answered."""
        client, server = self.pair()
        client.sends("Q begin read write")
        server.receives("Q begin read write")
        server.sends("C BEGIN", f"Z {status}")
        client.receives("C BEGIN", f"Z {status}")
        return client, server

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)
        self.perform()

    # What the network layer does.

    def feed(self, receive: Callable[[bytes], None], data: bytes) -> None:
        step = 1 if self.feeding == "byte by byte" else max(1, len(data))
        for at in range(0, len(data), step):
            receive(data[at : at + step])
            self.perform()

    def perform(self) -> None:
        effects = self.core.effects
        for effect in effects:
            match effect:
                case do.SendToClient(Refresher()) | do.CloseClient(Refresher()):
                    """Nobody is there to hear it."""
                case do.SendToClient(session, data):
                    assert not session.handle.closed, f"{data!r} to a closed client"
                    session.handle.data += data
                case do.SendToOrigin(session, data):
                    assert not session.handle.aborted, f"{data!r} to a closed origin connection"
                    session.handle.data += data
                case do.CloseClient(session):
                    session.handle.closed = True
                case do.PauseClient(session):
                    session.handle.paused = True
                case do.ResumeClient(session):
                    session.handle.paused = False
                case do.ConnectOrigin(session):
                    self.servers.append(Server(self, session))
                case do.CloseOrigin(session):
                    session.handle.closing = True
                case do.AbortOrigin(session):
                    session.handle.aborted = True
                case do.CancelOrigin(session, requester):
                    session.handle.cancels += 1
                    session.handle.requesters.append(requester)
                case do.TellSupervisor(message):
                    self.said.append(message)
        effects.clear()
        self.check()

    def check(self) -> None:
        """The books agree with each other."""
        pool = self.core.pool
        assert len(pool.origins) <= pool.settings.limits.origin_connection_limit
        assert len(pool.idle) == len(set(pool.idle))
        assert set(pool.idle) == {o for o in pool.origins if o.state is OriginState.IDLE}
        assert not (pool.idle and any(client.wanted is None for client in pool.waiting))
        for origin in pool.origins:
            lent = origin.state in (OriginState.LINKED, OriginState.REPLAYING)
            assert lent == (origin.client is not None), origin
            assert origin.client is None or origin.client.origin is origin
            if origin.state is OriginState.IDLE:
                assert (origin.status, list(origin.expected), origin.cancels) == (m.IDLE, [], 0)
                left = (origin.dirty, origin.batch_open, origin.skipping, origin.copying_in)
                assert (left, origin.framer.remaining) == ((False,) * 4, 0)
            elif origin.state not in _ORIGIN_DOES_NOTHING and origin.expected:
                assert origin.expected[0].action is not Action.FAKE, list(origin.expected)
        for client in self.core.clients:
            assert client.state is not ClientState.CLOSED
            waits = client.state in (ClientState.WAITING, ClientState.JOINING)
            if client.state in (ClientState.LINKED, ClientState.STALLED):
                assert client.origin is not None
                assert client.origin.state is OriginState.LINKED
            elif waits:
                waited_for = (client in pool.waiting, client.origin, client.joins)
                assert sum(map(bool, waited_for)) == 1, (client, waited_for)
            else:
                assert client.origin is None
            assert waits or client not in pool.waiting
            assert client.joins is None or client.joins in pool.flights.values()
        store = self.core.cache.store
        assert store.bytes == sum(entry.size for entry in store) <= store.budget


@pytest.fixture(params=["whole", "byte by byte"])
def feeding(request: pytest.FixtureRequest) -> str:
    """How bytes arrive; ``@pytest.mark.parametrize("feeding", ["whole"])`` picks one."""
    return request.param


def make_settings(
    auth: str = "trust",
    origin: dict[str, Any] | None = None,
    tls: dict[str, Any] | None = None,
    caching: Caching | None = None,
    **limits: Any,
) -> Any:
    known = {"user": "owner", "database": "app", "password": "secret", "sslmode": "disable"}
    return Settings(
        origin=Origin(**({"addresses": (ADDRESS,)} | known | (origin or {}))),
        user="visitor",
        password="entry",
        auth=auth,
        limits=Limits(**limits),
        caching=caching or Caching(),
        **(tls or {}),
    )


@pytest.fixture
def start(feeding: str) -> Callable[..., Proxy]:
    """Makes a proxy: ``start(auth=, origin=, tls=, caching=, <limits>)``."""
    return lambda siblings=None, **options: Proxy(make_settings(**options), feeding, siblings)


@pytest.fixture
def proxy(start: Callable[..., Proxy]) -> Proxy:
    """A proxy with trust and the default limits."""
    return start()


@pytest.fixture(scope="session")
def wire() -> SimpleNamespace:
    """The harness itself, for tests that drive the core in another way."""
    return SimpleNamespace(
        Proxy=Proxy,
        settings=make_settings,
        encode=encode,
        decode=decode,
        encode_answer=encode_answer,
        decode_answer=decode_answer,
        take_messages=take_messages,
    )
