"""Whatever clients send, each hears what PostgreSQL would have told it alone.

Several clients with random pipelines share one or two origin connections, each with a PostgreSQL of
ours at its end. Every client has a PostgreSQL for itself as well: what it hears through the proxy
must be, message by message, what that one says. Bytes move in random pieces, in random order;
clients may vanish, ask for a cancel, or have their own start-up settings; origins may be lost.

Some differences are allowed. Which ParameterStatus come, and where: what they have said when
ReadyForQuery comes must be the same. In the rest of a pipeline after RESET the origin's value is in
force, not that which the client has started with. BEGIN leaves no portal behind. In a failed
transaction PostgreSQL describes a statement without columns, and tells a portal that is not there
from one that can't be used; here both are 25P02.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperdrive_client.proxy.core import inspection
from hyperdrive_client.proxy.core.read_back import query
from hyperdrive_client.sql.facts import ANYTHING, LOCKS, SETTINGS, STATEMENTS, TEMPORARY

CLIENTS = 3
# % is the client's number: nobody else may ever see it.
TEXTS = (
    "select 1",
    "select 1",
    "select 2",
    "select $1",
    "select $1",
    "select many",
    "select bad",
    "select wrong",
    "select fail",
    "select notice",
    "insert 1",
    "",
    "begin",
    "begin",
    "begin read write",
    "commit",
    "commit",
    "rollback",
    "rollback",
    "copy t from stdin",
    "copy t to stdout",
    "deallocate all",
    "discard all",
    "set taint to ~%",
    "set local taint to ~%",
    "do taint ~%",
    "select set_taint(~%)",
    "reset taint",
    "set timezone to Mars/~%",
    "reset timezone",
    "reset all",
    "create temp t~%",
    "drop temp t~%",
    "select pg_advisory_lock(1)",
    "select pg_advisory_unlock(1)",
    "prepare q as select 3",
    "execute q",
    "select nextval(1)",
    "select currval(1)",
)
NAMES = ("", "a", "b")
READ_BACKS = {query(traces).decode().lower(): traces for traces in range(ANYTHING + 1)}
PORTALS = ("", "", "p")


class PostgresError(Exception):
    """Its text is the SQLSTATE."""


class Session:
    """What a PostgreSQL session has; all of it is shown in every row."""

    def __init__(self) -> None:
        self.settings: dict[str, str] = {}
        """Those that were set and not reset."""
        self.local: dict[str, str] = {}
        """Set until the end of the transaction."""
        self.temporary: set[str] = set()

    def copy(self) -> Session:
        copy = Session()
        copy.settings, copy.temporary = dict(self.settings), set(self.temporary)
        return copy


class FakePostgres:
    """One PostgreSQL session as far as the protocol goes (PostgreSQL, "Message Flow").

    ``zone`` is what it was started with. What a client does to its session shows in every row. Its
    settings and temporary objects are as they were when their transaction fails or is rolled back.
    """

    def __init__(self, wire: SimpleNamespace, zone: str = "GMT") -> None:
        self._wire = wire
        self._default = {"timezone": zone}
        self._reported = zone
        self.session = Session()
        self._before: Session | None = None
        self.locks = 0
        self.advanced = False
        self._input = bytearray()
        self._output: list[str] = []
        self.statements: dict[str, str] = {}
        self.from_sql: dict[str, str] = {}
        self.unnamed: str | None = None
        self._portals: dict[str, list[str]] = {}
        self.status = "I"
        self.ignoring = False
        self.cancelled = False
        """A cancel request has come, for what is run next."""
        self._copying: Iterator[None] | None = None
        self._copied: str | None = None
        self.closed = False

    def value(self, name: str) -> str:
        known = {**self._default, **self.session.settings, **self.session.local}
        return known.get(name, "")

    def feed(self, data: bytes) -> bytes:
        self._input += data
        for kind, body in self._wire.take_messages(self._input):
            if not self.closed:
                self._message(kind, self._wire.decode(kind, body)[2:])
        output, self._output = self._output, []
        return b"".join(map(self._wire.encode_answer, output))

    @property
    def _shown(self) -> str:
        temporary = "+".join(sorted(self.session.temporary))
        return f"@{self.value('timezone')},{self.value('taint')},{temporary},{self.locks}"

    def _message(self, kind: str, rest: str) -> None:
        if self._copying is not None:
            self._while_copying(kind)
        elif kind == "X":
            self.closed = True
        elif kind == "S":
            self.ignoring = False
            self._ready()
        elif self.ignoring or kind in "cdfH":
            pass
        elif kind in "QF":
            self._run(self._query(rest) if kind == "Q" else self._call(rest), extended=False)
        else:
            steps = {"P": self._parse, "B": self._bind, "D": self._describe, "C": self._close}
            self._run(self._execute(rest) if kind == "E" else steps[kind](rest), extended=True)

    def _run(self, work: Iterator[None], *, extended: bool) -> None:
        """Goes on with a request until it wants CopyData, or is done."""
        self._extended = extended
        try:
            for _ in work:
                self._copying = work
                return
            self._copying = None
        except PostgresError as error:
            self._copying = None
            self._output.append(f"E {error}")
            if self.status == "T":
                self.status = "E"
            self._end(commit=False)
            self.ignoring = extended
        if not extended:
            self._ready()

    def _ready(self) -> None:
        if self.status == "I":
            self._portals.clear()
            self._end(commit=True)
        if self.value("timezone") != self._reported:
            self._reported = self.value("timezone")
            self._output.append(f"S TimeZone={self._reported}")
        self._output.append(f"Z {self.status}")

    def _end(self, *, commit: bool) -> None:
        """The transaction, or the part of a pipeline that is one, ends."""
        before, self._before = self._before, None
        if before is not None and not commit:
            self.session = before
        self.session.local.clear()

    def _while_copying(self, kind: str) -> None:
        work = self._copying
        assert work is not None
        if kind == "c" or kind == "f":
            self._copied = kind
            self._run(work, extended=self._extended)
        elif kind not in "dHS":
            self._output += ["E 08P01 unexpected message", "E FATAL 08P01 synchronization lost"]
            self.closed = True

    # Requests: generators, because COPY stops in the middle to wait for data.

    def _query(self, text: str) -> Iterator[None]:
        text = text.lower()
        self.unnamed = None
        self._portals.pop("", None)
        if "bad" in text:
            raise PostgresError("42601")
        self._may_be_cancelled()
        for part in text.split(";") if text else []:
            self._analyse(part)
            if _is_select(part):
                self._output.append("T x")
            yield from self._statement(part, "")
        if not text:
            self._output.append("I")

    def _call(self, oid: str) -> Iterator[None]:
        if self.status == "E":
            raise PostgresError("25P02")
        self._output.append(f"V {oid}")
        yield from ()

    def _parse(self, rest: str) -> Iterator[None]:
        name, _, text = rest.partition(":")
        text = text.strip()
        if not name:
            self.unnamed = None
        if "bad" in text:
            raise PostgresError("42601")
        if text:
            self._analyse(text)
        if name in self.statements or name in self.from_sql:
            raise PostgresError("42P05")
        if name:
            self.statements[name] = text
        else:
            self.unnamed = text
        self._output.append("1")
        yield from ()

    def _analyse(self, text: str) -> None:
        if self.status == "E" and text.lower() not in ("commit", "rollback"):
            raise PostgresError("25P02")
        if "wrong" in text:
            raise PostgresError("42703")

    def _may_be_cancelled(self) -> None:
        if self.cancelled:
            self.cancelled = False
            raise PostgresError("57014")

    def _find(self, name: str) -> str:
        text = self.statements.get(name) if name else self.unnamed
        if text is None:
            raise PostgresError("26000")
        return text

    def _bind(self, rest: str) -> Iterator[None]:
        portal, name, value = re.fullmatch(r"(\S*)<-(\S*) ?(.*)", rest).groups()
        text = self._find(name)
        self._analyse(text or "nothing")
        if portal and portal in self._portals:
            raise PostgresError("42P03")
        rows = [value] if "$1" in text else ["1", "2", "3"] if "many" in text else [text]
        self._portals[portal] = [text, *(rows if _is_select(text) else [])]
        self._output.append("2")
        yield from ()

    def _describe(self, rest: str) -> Iterator[None]:
        name = rest[2:]
        if rest[0] == "S":
            text = self._find(name)
        if self.status == "E":
            raise PostgresError("25P02")
        if rest[0] == "P":
            text = self._portal(name)[0]
        if rest[0] == "S":
            self._output.append("t 25" if "$1" in text else "t")
        self._output.append("T x" if _is_select(text) else "n")
        yield from ()

    def _portal(self, name: str) -> list[str]:
        if name not in self._portals:
            raise PostgresError("25P02" if self.status == "E" else "34000")
        return self._portals[name]

    def _close(self, rest: str) -> Iterator[None]:
        name = rest[2:]
        if rest[0] == "P":
            self._portals.pop(name, None)
        elif name:
            self.statements.pop(name, None)
        else:
            self.unnamed = None
        self._output.append("3")
        yield from ()

    def _execute(self, rest: str) -> Iterator[None]:
        name, _, limit = rest.partition("/")
        text, *rows = self._portal(name)
        self._may_be_cancelled()
        if not text:
            self._output.append("I")
            return
        self._analyse(text)
        count = int(limit or 0)
        if _is_select(text) and 0 < count < len(rows):
            self._output += [f"D {row}{self._shown}" for row in rows[:count]]
            self._output.append("s")
            self._portals[name] = [text, *rows[count:]]
        elif _is_select(text):
            self._portals[name] = [text]
            yield from self._statement(text, "", rows)
        elif rows:
            # PostgreSQL runs a portal of anything but a SELECT once.
            raise PostgresError("55000")
        else:
            self._portals[name] = [text, "done"]
            yield from self._statement(text, name)

    def _statement(self, text: str, portal: str, rows: list[str] | None = None) -> Iterator[None]:
        text = text.lower()
        if self._before is None:
            self._before = self.session.copy()
        if text.startswith("begin"):
            if self.status == "T":
                self._output.append("N 25001 already")
            self.status = "T"
            text = "begin"
            self._portals.pop(portal, None)
        elif text in ("commit", "rollback"):
            if self.status == "I":
                self._output.append("N 25P01 none")
            tag = "ROLLBACK" if self.status == "E" else text.upper()
            self._end(commit=tag == "COMMIT")
            self.status = "I"
            self._portals.clear()
            self._output.append(f"C {tag}")
            return
        elif text == "copy t from stdin":
            self._output.append("G")
            yield
            if self._copied == "f":
                raise PostgresError("57014")
            self._output.append("C COPY 1")
            return
        elif text == "copy t to stdout":
            self._output += ["H", "d one", "d two", "c", "C COPY 2"]
            return
        elif text in READ_BACKS:
            rows = self._state(READ_BACKS[text])
            self._output += [f"D {row}" for row in rows] + ["C SELECT"]
            return
        elif text == inspection.QUERY.decode().strip().lower():
            self._output += ["D isolation\tread committed", "C SELECT"]
            return
        elif "fail" in text:
            raise PostgresError("22012")
        shown = rows if rows is not None else [text]
        self._act(text, shown)
        if _is_select(text):
            self._output += [f"D {row}{self._shown}" for row in shown]
        forgets = text.startswith(("dea", "dis"))
        tag = text.upper() if forgets or text == "begin" else text.split()[0]
        self._output.append(f"C {tag}")

    def _act(self, text: str, rows: list[str]) -> None:
        """What a statement does to the session."""
        session = self.session
        match text.split():
            case ["deallocate", "all"] | ["discard", "all"]:
                if text == "discard all":
                    if self.status == "T":
                        raise PostgresError("25001")
                    self.session = Session()
                    self.locks, self.advanced = 0, False
                self.statements.clear()
                self.from_sql.clear()
            case ["deallocate", name]:
                if name not in self.statements and name not in self.from_sql:
                    raise PostgresError("26000")
                self.statements.pop(name, None)
                self.from_sql.pop(name, None)
            case ["discard", "sequences"]:
                self.advanced = False
            case ["set", "local", name, "to", value]:
                if self.status == "I":
                    self._output.append("N 25P01 no effect")
                session.local[name] = value
            case ["set", name, "to", value]:
                session.settings[name] = value
                session.local.pop(name, None)
            case ["do", "taint", value]:
                session.settings["taint"] = value
                session.local.pop("taint", None)
            case ["reset", "all"]:
                session.settings.clear()
                session.local.clear()
            case ["reset", name]:
                session.settings.pop(name.strip('"'), None)
                session.local.pop(name.strip('"'), None)
            case ["select", "pg_catalog.set_config($1,$2,false)"] if rows:
                name, _, value = rows[0].partition(",")
                session.settings[name] = value
            case ["create", "temp", name]:
                if name in session.temporary:
                    raise PostgresError("42P07")
                session.temporary.add(name)
            case ["drop", "temp", name]:
                if name not in session.temporary:
                    raise PostgresError("42P01")
                session.temporary.remove(name)
            case ["prepare", name, "as", *rest]:
                if name in self.statements or name in self.from_sql:
                    raise PostgresError("42P05")
                self.from_sql[name] = " ".join(rest)
            case ["execute", name]:
                if name not in self.from_sql:
                    raise PostgresError("26000")
            case ["select", "pg_advisory_lock(1)"]:
                self.locks += 1
            case ["select", "pg_advisory_unlock(1)"]:
                self.locks = max(0, self.locks - 1)
            case ["select", "nextval(1)"]:
                self.advanced = True
            case ["select", "currval(1)"] if not self.advanced:
                raise PostgresError("55000")
        if text.startswith("select set_taint("):
            session.settings["taint"] = text[17:-1]
            session.local.pop("taint", None)
        elif "notice" in text:
            self._output.append("N 00000 by the way")

    def _state(self, traces: int) -> list[str]:
        """What the proxy asks for when a transaction has ended."""
        session = self.session
        rows: list[str] = []
        if traces & SETTINGS:
            rows += [f"{name}\t{value}" for name, value in session.settings.items()]
            rows += ["role\tnone", "session_authorization\towner"]
        has = {
            TEMPORARY: bool(session.temporary),
            LOCKS: self.locks > 0,
            STATEMENTS: bool(self.from_sql),
        }
        return rows + [f"{trace}\t" for trace, there in has.items() if there and traces & trace]


def _is_select(text: str) -> bool:
    return text.lower().startswith("select")


# What clients send.

names = st.sampled_from(NAMES)
portals = st.sampled_from(PORTALS)
texts = st.sampled_from(TEXTS)
copy_data = st.sampled_from(
    [("d one", "c"), ("c",), ("d one", "d two", "f no"), ("S", "c"), ("H", "c")]
)


def run(name: str, text: str, value: str) -> list[str]:
    bound = f" {value}" if "$1" in text else ""
    return [f"P {name}: {text}", f"B <-{name}{bound}", "D P", "E"]


steps = st.one_of(
    st.builds(run, names, texts, st.just("#")),
    st.builds(lambda name: [f"B <-{name} #", "E"], names),
    st.builds(lambda name, text: [f"P {name}: {text}"], names, texts),
    st.builds(lambda portal, name: [f"B {portal}<-{name} #"], portals, names),
    st.builds(lambda name: [f"D S {name}"], names),
    st.builds(lambda portal: [f"D P {portal}"], portals),
    st.builds(lambda portal, rows: [f"E {portal}{rows}"], portals, st.sampled_from(["", "/2"])),
    st.builds(lambda kind, name: [f"C {kind} {name}"], st.sampled_from("SP"), names),
)
batches = st.builds(
    lambda parts, end: [*(line for part in parts for line in part), *end],
    st.lists(steps, min_size=1, max_size=3),
    st.sampled_from([("S",), ("S",), ("S",), ("H",), ("Q select 1", "S"), ("S", "S")]),
)
queries = st.one_of(
    texts.map(lambda text: [f"Q {text}"]),
    st.just(["Q begin;select 1;commit"]),
    st.just(["Q begin;select fail;commit"]),
    st.just(["Q deallocate a"]),
    st.just(["F 1"]),
    st.just(["c"]),
    st.just(["H"]),
)
scripts = st.lists(st.one_of(batches, queries), min_size=1, max_size=6)


def with_copy_data(script: list[list[str]], client: int, data: tuple[str, ...]) -> list[str]:
    """One client's lines: its own values, and CopyData wherever a COPY may just have begun."""
    lines: list[str] = []
    copies: set[str] = set()
    for line in (line for batch in script for line in batch):
        line = line.replace("#", f"c{client}.{len(lines)}").replace("%", str(client))
        lines.append(line)
        begins = False
        if "copy t from stdin" in line:
            if line[0] == "P":
                copies.add(line[2:].partition(":")[0])
            begins = line[0] == "Q"
        # Which portal is which is not followed: after any Execute there may be a COPY.
        if begins or (line[0] == "E" and copies):
            lines += data
    return lines


class World:
    """Clients, the proxy, origins, and the bytes that are under way between them."""

    def __init__(
        self,
        wire: SimpleNamespace,
        scripts: list[list[str]],
        random: Random,
        *,
        accidents: bool = False,
        primary: bool = False,
        pin_sequences: bool = False,
        **limits: int,
    ) -> None:
        self.wire = wire
        self.random = random
        self.accidents = accidents
        settings = replace(wire.settings(**limits), pin_sequences=pin_sequences)
        self.proxy = wire.Proxy(settings, "whole")
        self.reported = {"TimeZone": "GMT", **({"in_hot_standby": "off"} if primary else {})}
        self.postgres: dict[Any, FakePostgres] = {}
        self.answers: dict[Any, bytearray] = {}
        self.clients = [self.proxy.connect() for _ in scripts]
        self.unsent: list[bytes] = []
        self.expected: list[list[str]] = []
        self.direct: list[FakePostgres] = []
        self.heard: list[list[str]] = [[] for _ in scripts]
        self.zones: list[str] = []
        """What each started with."""
        self.hurt: set[int] = set()
        """Clients that vanished, cancelled, or lost their origin connection."""
        for client, script in zip(self.clients, scripts, strict=True):
            zone = "" if resets_in_pipeline(script) else random.choice(("", "UTC", "GMT"))
            self.zones.append(zone or "GMT")
            self.enter(client, zone)
            data = b"".join(map(wire.encode, script))
            self.unsent.append(data)
            postgres = FakePostgres(wire, self.zones[-1])
            answer = bytearray(postgres.feed(data))
            self.direct.append(postgres)
            self.expected.append([wire.decode_answer(*each) for each in wire.take_messages(answer)])

    def enter(self, client: Any, zone: str) -> None:
        client.asks_in(**({"TimeZone": zone} if zone else {}))
        while client.state == "joining":
            self.perform(*self.random.choice(self.moves_of_origins()))
        client.is_welcomed(TimeZone=zone or "GMT")

    # What could happen next, and what does.

    def moves(self) -> list[tuple[str, Any]]:
        moves = self.moves_of_origins()
        for index, client in enumerate(self.clients):
            if client.closed:
                continue
            if self.unsent[index]:
                if not client.paused:
                    moves.append(("send", index))
            elif index in self.hurt or not self.missing(index):
                moves.append(("end", index))
        if moves and self.accidents and self.random.random() < 0.03:
            return self.possible_accidents() or moves
        return moves

    def moves_of_origins(self) -> list[tuple[str, Any]]:
        moves: list[tuple[str, Any]] = []
        for server in self.proxy.servers:
            postgres = self.postgres.get(server)
            if server.state == "connecting":
                moves.append(("connect", server))
            elif server.aborted or (postgres and postgres.closed and not self.answers[server]):
                if server.state != "closed":
                    moves.append(("closed", server))
            else:
                moves += [("to origin", server)] if server.data else []
                moves += [("from origin", server)] if self.answers[server] else []
            if server.cancels:
                moves.append(("cancelled", server))
        return moves

    def possible_accidents(self) -> list[tuple[str, Any]]:
        accidents: list[tuple[str, Any]] = []
        for index, client in enumerate(self.clients):
            if not client.closed:
                accidents.append(("vanish", index))
                if client.state in ("linked", "stalled"):
                    accidents.append(("cancel", index))
        open_ = [each for each in self.proxy.servers if each.state not in ("connecting", "closed")]
        return accidents + [("closed", server) for server in open_]

    def perform(self, what: str, whom: Any) -> None:
        match what:
            case "send":
                unsent = self.unsent[whom]
                piece, self.unsent[whom] = self.piece(unsent, first_request(unsent))
                self.clients[whom].sends_bytes(piece)
            case "end":
                self.compare_statements(whom)
                self.clients[whom].sends("X")
            case "vanish":
                self.hurt.add(whom)
                self.clients[whom].vanishes()
            case "cancel":
                self.hurt.add(whom)
                self.clients[whom].cancel_request()
            case "connect":
                whom.starts(**self.reported)
                self.postgres[whom], self.answers[whom] = FakePostgres(self.wire), bytearray()
            case "to origin":
                piece, rest = self.piece(whom.hears_bytes())
                whom.data += rest
                self.answers[whom] += self.postgres[whom].feed(piece)
            case "from origin":
                piece, rest = self.piece(bytes(self.answers[whom]))
                self.answers[whom][:] = rest
                whom.sends_bytes(piece)
            case "closed":
                # Who was at rest there hears of it with the next answer.
                for index, client in enumerate(self.clients):
                    if client.session.origin is whom.session:
                        self.hurt.add(index)
                whom.closes()
            case "cancelled":
                if whom in self.postgres and whom.data and not whom.aborted:
                    # It hits what is running, or nothing.
                    self.postgres[whom].cancelled = True
                    self.perform("to origin", whom)
                    self.postgres[whom].cancelled = False
                whom.cancel_is_done()

    def piece(self, data: bytes, likely: int = 0) -> tuple[bytes, bytes]:
        likely = likely or len(data)
        size = self.random.choice((len(data), likely, likely, self.random.randint(1, len(data))))
        return data[:size], data[size:]

    def play(self) -> None:
        while moves := self.moves():
            self.perform(*self.random.choice(moves))
            for index in range(len(self.clients)):
                self.listen(index)
        for index, client in enumerate(self.clients):
            assert client.closed, f"client {index} waits for ever for {self.missing(index)}"
        for server in self.proxy.servers:
            assert server.state in ("idle", "closed"), f"{server.session} has not come to rest"
            if server.state == "idle":
                self.compare_books(server)

    # What must be true.

    def missing(self, index: int) -> list[str]:
        heard, expected = self.compared(index)
        return expected[len(heard) :]

    def compared(self, index: int) -> tuple[list[str], list[str]]:
        lines = (self.heard[index], self.expected[index])
        heard, expected = (without_reports(each, self.zones[index]) for each in lines)
        return heard, expected

    def listen(self, index: int) -> None:
        for line in self.clients[index].hears():
            numbers = set(re.findall(r"~(\d)", line))
            assert numbers <= {str(index)}, f"client {index} sees another's session state: {line}"
            if line.startswith(("E 08006", "E 08007", "E FATAL 08006")):
                assert self.accidents, line
                self.hurt.add(index)
            if index not in self.hurt:
                self.heard[index].append(line)
        if index not in self.hurt:
            heard, expected = self.compared(index)
            assert heard == expected[: len(heard)], (
                f"client {index} hears what PostgreSQL would not"
            )

    def compare_statements(self, index: int) -> None:
        """What the proxy thinks the client has is what it would have."""
        if index not in self.hurt:
            statements = self.clients[index].session.statements
            known = {name.decode(): each.text.decode() for name, each in statements.items()}
            assert known == self.direct[index].statements, (
                f"{known} {self.direct[index].statements}"
            )
            if self.clients[index].state == "idle":
                session = dict(self.clients[index].session.settings)
                expected = self.direct[index].session.settings
                assert session.get(b"taint", b"").decode() == expected.get("taint", "")

    def compare_books(self, server: Any) -> None:
        """What the proxy thinks is at the origin is there."""
        origin, postgres = server.session, self.postgres[server]
        books = {
            each.server_name.decode(): each.text.decode().strip() for each in origin.statements
        }
        assert books == postgres.statements, f"{books} {postgres.statements}"
        if origin.unnamed is not None:
            assert origin.unnamed.text.decode() == postgres.unnamed
        for name in ("timezone", "taint"):
            default = FakePostgres(self.wire).value(name)
            known = dict(origin.settings).get(name.encode(), default.encode()).decode()
            assert known == postgres.value(name)
        left = (postgres.session.temporary, postgres.locks, postgres.from_sql)
        assert left == (set(), 0, {}), "something is left for the next client"
        assert (postgres.status, postgres.ignoring) == ("I", False)


def first_request(data: bytes) -> int:
    """How long what is up to the first Sync or Query is; 0 if the rest of a message is first."""
    stop = 0
    while data[stop : stop + 1] and data[stop] in b"PBDECHS":
        stop += 1 + int.from_bytes(data[stop + 1 : stop + 5])
        if data[stop - 5 : stop] == b"S\x00\x00\x00\x04":
            return min(stop, len(data))
    if data[stop : stop + 1] == b"Q":
        return min(stop + 1 + int.from_bytes(data[stop + 1 : stop + 5]), len(data))
    return 0


def without_reports(lines: list[str], zone: str) -> list[str]:
    """Lines without ParameterStatus, of which each ReadyForQuery says what they have come to."""
    kept = []
    for line in lines:
        if line.startswith("S TimeZone="):
            zone = line[11:]
        else:
            kept.append(f"{line} {zone}" if line[0] == "Z" else line)
    return kept


def resets_in_pipeline(script: list[str]) -> bool:
    resets = re.compile(r"(Q|P \w*:) (reset (timezone|all)|discard all)")
    is_open = False
    for line in script:
        if resets.match(line) and (is_open or line[0] == "P"):
            return True
        # In COPY the Sync is ignored, after an error the Query.
        ends = line[0] == "S" and not any("copy t from" in each for each in script)
        is_open = line[0] in "PBDEC" or (is_open and not ends)
    return False


worlds = given(
    given_scripts=st.lists(scripts, min_size=1, max_size=CLIENTS),
    data=copy_data,
    random=st.randoms(use_true_random=False),
    origins=st.integers(1, 2),
    statements=st.integers(1, 3),
    primary=st.booleans(),
)


def play(wire, given_scripts, data, random, origins, statements, primary, *, accidents) -> None:
    lines = [with_copy_data(script, index, data) for index, script in enumerate(given_scripts)]
    limits = {"origin_connection_limit": origins, "prepared_statements": statements}
    # Without it, currval is a known exception.
    sequences = "currval" in str(given_scripts)
    World(
        wire,
        lines,
        random,
        accidents=accidents,
        primary=primary,
        pin_sequences=sequences,
        **limits,
    ).play()


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=HealthCheck)
@worlds
def test_every_client_hears_what_postgresql_would_say(wire, **world):
    play(wire, **world, accidents=False)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=HealthCheck)
@worlds
def test_accidents_hurt_nobody_else(wire, **world):
    play(wire, **world, accidents=True)
