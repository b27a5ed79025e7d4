"""Whatever clients send, each hears what PostgreSQL would have told it alone.

Several clients with random pipelines share one or two origin connections, each with a PostgreSQL of
ours at its end. Every client has a PostgreSQL for itself as well: what it hears through the proxy
must be, message by message, what that one says. Bytes move in random pieces, in random order;
clients may vanish, ask for a cancel, or have their own start-up settings; origins may be lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CLIENTS = 3
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
    "commit",
    "commit",
    "rollback",
    "rollback",
    "copy t from stdin",
    "copy t to stdout",
    "deallocate all",
    "discard all",
    "set taint",
)
NAMES = ("", "a", "b")
PORTALS = ("", "", "p")


class PostgresError(Exception):
    """Its text is the SQLSTATE."""


class FakePostgres:
    """One PostgreSQL session as far as the protocol goes (PostgreSQL, "Message Flow").

    ``zone``, which a client may ask for at start-up, and ``taint``, which it may set, are its
    session state: they show in every row until DISCARD ALL.
    """

    def __init__(self, wire: SimpleNamespace, zone: str = "") -> None:
        self._wire = wire
        self.zone = zone
        self._input = bytearray()
        self._output: list[str] = []
        self.statements: dict[str, str] = {}
        self.unnamed: str | None = None
        self._portals: dict[str, list[str]] = {}
        self.status = "I"
        self.ignoring = False
        self._copying: Iterator[None] | None = None
        self._copied: str | None = None
        self.taint = ""
        self.closed = False

    def feed(self, data: bytes) -> bytes:
        self._input += data
        for kind, body in self._wire.take_messages(self._input):
            if not self.closed:
                self._message(kind, self._wire.decode(kind, body)[2:])
        output, self._output = self._output, []
        return b"".join(map(self._wire.encode_answer, output))

    @property
    def _shown(self) -> str:
        return f"@{self.zone}{self.taint}"

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
            self.ignoring = extended
        if not extended:
            self._ready()

    def _ready(self) -> None:
        if self.status == "I":
            self._portals.clear()
        self._output.append(f"Z {self.status}")

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
        if name in self.statements:
            raise PostgresError("42P05")
        if name:
            self.statements[name] = text
        else:
            self.unnamed = text
        self._output.append("1")
        yield from ()

    def _analyse(self, text: str) -> None:
        if self.status == "E" and text not in ("commit", "rollback"):
            raise PostgresError("25P02")
        if "wrong" in text:
            raise PostgresError("42703")

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
        elif name in self._portals:
            text = self._portals[name][0]
        else:
            raise PostgresError("34000")
        if _is_select(text) and self.status == "E":
            raise PostgresError("25P02")
        if rest[0] == "S":
            self._output.append("t 25" if "$1" in text else "t")
        self._output.append("T x" if _is_select(text) else "n")
        yield from ()

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
        if name not in self._portals:
            raise PostgresError("34000")
        text, *rows = self._portals[name]
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
        else:
            yield from self._statement(text, name)

    def _statement(self, text: str, portal: str, rows: list[str] | None = None) -> Iterator[None]:
        text = text.lower()
        if text == "begin":
            if self.status == "T":
                self._output.append("N 25001 already")
            self.status = "T"
        elif text in ("commit", "rollback"):
            if self.status == "I":
                self._output.append("N 25P01 none")
            tag = "ROLLBACK" if self.status == "E" else text.upper()
            self.status = "I"
            self._portals.clear()
            self._output.append(f"C {tag}")
            return
        elif "fail" in text:
            raise PostgresError("22012")
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
        elif text in ("deallocate all", "discard all"):
            if text == "discard all" and self.status == "T":
                raise PostgresError("25001")
            self.statements.clear()
            if text == "discard all":
                self.taint = self.zone = ""
        elif text.startswith("deallocate"):
            if text.split()[1] not in self.statements:
                raise PostgresError("26000")
            del self.statements[text.split()[1]]
        elif "set_config" in text:
            self.zone = (rows or [""])[0].partition(",")[2]
        elif text.startswith("set taint"):
            self.taint = "~" + text.removeprefix("set taint ")
        elif "notice" in text:
            self._output.append("N 00000 by the way")
        if _is_select(text):
            shown = rows if rows is not None else [text]
            self._output += [f"D {row}{self._shown}" for row in shown]
        self._output.append(f"C {text.upper() if text[:1] in 'bd' else text.split()[0]}")


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
        line = line.replace("#", f"c{client}.{len(lines)}").replace("taint", f"taint {client}")
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
        **limits: int,
    ) -> None:
        self.wire = wire
        self.random = random
        self.accidents = accidents
        self.proxy = wire.Proxy(wire.settings(**limits), "whole")
        self.postgres: dict[Any, FakePostgres] = {}
        self.answers: dict[Any, bytearray] = {}
        self.clients = [self.proxy.connect() for _ in scripts]
        self.unsent: list[bytes] = []
        self.expected: list[list[str]] = []
        self.direct: list[FakePostgres] = []
        self.heard: list[list[str]] = [[] for _ in scripts]
        self.hurt: set[int] = set()
        """Clients that vanished, or lost their origin connection."""
        for client, script in zip(self.clients, scripts, strict=True):
            # DISCARD ALL would bring back what PostgreSQL, not the client, starts with.
            zone = "" if "discard all" in str(script) else random.choice(("", "UTC"))
            self.enter(client, zone)
            data = b"".join(map(wire.encode, script))
            self.unsent.append(data)
            postgres = FakePostgres(wire, zone)
            answer = bytearray(postgres.feed(data))
            self.direct.append(postgres)
            self.expected.append([wire.decode_answer(*each) for each in wire.take_messages(answer)])

    def enter(self, client: Any, zone: str) -> None:
        client.asks_in(**({"TimeZone": zone} if zone else {}))
        while client.state == "joining":
            self.perform(*self.random.choice(self.moves_of_origins()))
        client.is_welcomed()

    # What could happen next, and what does.

    def moves(self) -> list[tuple[str, Any]]:
        moves = self.moves_of_origins()
        for index, client in enumerate(self.clients):
            if client.closed:
                continue
            if self.unsent[index]:
                if not client.paused:
                    moves.append(("send", index))
            elif len(self.heard[index]) >= len(self.expected[index]):
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
                piece, self.unsent[whom] = self.piece(self.unsent[whom])
                self.clients[whom].sends_bytes(piece)
            case "end":
                self.compare_statements(whom)
                self.clients[whom].sends("X")
            case "vanish":
                self.hurt.add(whom)
                self.clients[whom].vanishes()
            case "cancel":
                self.clients[whom].cancel_request()
            case "connect":
                whom.starts()
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
                whom.closes()
            case "cancelled":
                whom.cancel_is_done()

    def piece(self, data: bytes) -> tuple[bytes, bytes]:
        size = self.random.choice((len(data), len(data), self.random.randint(1, len(data))))
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
        return self.expected[index][len(self.heard[index]) :]

    def listen(self, index: int) -> None:
        for line in self.clients[index].hears():
            if line.startswith(("E 08006", "E FATAL 08006")):
                assert self.accidents
                self.hurt.add(index)
                self.expected[index] = self.heard[index][:]
                self.unsent[index] = b""
            elif index not in self.hurt:
                self.heard[index].append(line)
        heard = [line.partition("~") for line in self.heard[index]]
        taints = {taint for _, _, taint in heard}
        assert taints <= {"", str(index)}, f"client {index} sees another's session state"
        lines = [line for line, _, _ in heard]
        expected = [line.partition("~")[0] for line in self.expected[index][: len(lines)]]
        assert lines == expected, f"client {index} hears what PostgreSQL would not say"

    def compare_statements(self, index: int) -> None:
        """What the proxy thinks the client has is what it would have."""
        if index not in self.hurt:
            statements = self.clients[index].session.statements
            known = {name.decode(): each.text.decode() for name, each in statements.items()}
            assert known == self.direct[index].statements

    def compare_books(self, server: Any) -> None:
        """What the proxy thinks is at the origin is there."""
        origin, postgres = server.session, self.postgres[server]
        books = {each.server_name.decode(): each.text.decode() for each in origin.statements}
        assert books == postgres.statements
        if origin.unnamed is not None:
            assert origin.unnamed.text.decode() == postgres.unnamed
        assert dict(origin.settings).get(b"timezone", b"").decode() == postgres.zone
        assert (postgres.status, postgres.taint, postgres.ignoring) == ("I", "", False)


worlds = given(
    given_scripts=st.lists(scripts, min_size=1, max_size=CLIENTS),
    data=copy_data,
    random=st.randoms(use_true_random=False),
    origins=st.integers(1, 2),
    statements=st.integers(1, 3),
)


def play(wire, given_scripts, data, random, origins, statements, *, accidents) -> None:
    lines = [with_copy_data(script, index, data) for index, script in enumerate(given_scripts)]
    limits = {"origin_connection_limit": origins, "prepared_statements": statements}
    World(wire, lines, random, accidents=accidents, **limits).play()


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=HealthCheck)
@worlds
def test_every_client_hears_what_postgresql_would_say(wire, **world):
    play(wire, **world, accidents=False)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=HealthCheck)
@worlds
def test_accidents_hurt_nobody_else(wire, **world):
    play(wire, **world, accidents=True)
