"""What the console says to one client."""

from __future__ import annotations

import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin
from hyperdrive_client.errors import ClientProtocolError
from hyperdrive_client.protocol import messages as m
from hyperdrive_client.protocol.framing import origin_framer
from hyperdrive_client.proxy.admin.console import Console
from hyperdrive_client.proxy.cache.store import Entry, Key
from hyperdrive_client.proxy.core.core import Core
from hyperdrive_client.proxy.settings import Settings

ORIGIN = Origin((Address("127.0.0.1", 5432),), "owner", "app", "secret")
COMMANDS = (
    "SHOW STATS, SHOW SESSIONS, SHOW PINS, SHOW POOL, SHOW CACHE, SHOW HELP, PURGE, "
    "PURGE TABLE schema.name"
)
READY = m.ready_for_query(m.IDLE)
OPEN = m.ready_for_query(m.IN_TRANSACTION)


@pytest.fixture
def core() -> Core:
    return Core(Settings(ORIGIN, "visitor", "entry"), Console)


@pytest.fixture
def console(core: Core) -> Console:
    return Console(core)


def asks(console: Console, text: str) -> bytes:
    return console.answer(m.QUERY, text.encode() + b"\x00")


def kinds(answer: bytes) -> str:
    """The types of the listed messages; DataRows are not among them."""
    _, messages, end = origin_framer().feed(answer)
    assert end == len(answer)
    return "".join(chr(kind) for kind, _, _ in messages)


def fields(answer: bytes) -> dict[str, str]:
    return m.error_fields(answer[5:])


@pytest.mark.parametrize("name", ["stats", "sessions", "pins", "pool", "cache", "help"])
@pytest.mark.parametrize("text", ["SHOW {};", " show\n\t{} ", "Show {}"])
def test_each_command_is_answered_with_rows(console: Console, name: str, text: str) -> None:
    answer = asks(console, text.format(name))
    assert kinds(answer) == "TCZ"
    assert answer.endswith(m.command_complete(b"SHOW") + READY)


def test_the_name_may_be_that_of_any_other_database(console: Console) -> None:
    assert asks(console, "SHOW hyperdrive.stats") == asks(console, "SHOW STATS")


def test_values_are_text(console: Console, core: Core) -> None:
    core.counters.waits = 7
    core.counters.wait_seconds = 0.5
    answer = asks(console, "SHOW STATS")
    assert m.row_description((b"name", b"value")) in answer
    assert m.data_row((b"waits", b"7")) in answer
    assert m.data_row((b"wait_seconds", b"0.500")) in answer


def test_pins_are_told_by_their_reason(console: Console, core: Core) -> None:
    core.counters.pins["LISTEN"] = 3
    assert m.data_row((b"LISTEN", b"0", b"3")) in asks(console, "SHOW PINS")


def test_help_names_all_that_there_is(console: Console) -> None:
    answer = asks(console, "SHOW HELP")
    for command in COMMANDS.split(", "):
        assert command.encode() in answer


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "SHOW",
        "SHOW nothing",
        "SHOW STATS SHOW PINS",
        "x'",
        "PURGE public.a",
        "PURGE TABLE",
    ],
)
def test_anything_else_is_an_error_that_lists_what_there_is(console: Console, text: str) -> None:
    answer = asks(console, text)
    assert kinds(answer) == "EZ"
    assert fields(answer)["C"] == "42601"
    assert COMMANDS in fields(answer)["M"]


def test_the_cache_by_its_mode_and_what_it_holds(console: Console, core: Core) -> None:
    core.cache.decide("wal", "")
    core.counters.cache["hit"] = 3
    answer = asks(console, "SHOW CACHE")
    for row in ((b"mode", b"wal"), (b"entries", b"0"), (b"bytes", b"0"), (b"hit", b"3")):
        assert m.data_row(row) in answer
    assert m.data_row((b"mode_reason", b"the catalogue was not read yet")) in answer
    assert m.data_row((b"cache.hit", b"3")) in asks(console, "SHOW STATS")


def test_a_cache_whose_guard_is_broken_says_so(console: Console, core: Core) -> None:
    core.cache.decide("wal", "")
    core.cache.catalogue_loaded(Tables(), float("inf"))  # type: ignore[arg-type]
    core.cache.guard.lost("the stream has ended")
    row = m.data_row((b"mode_reason", b"the stream has ended"))
    assert row in asks(console, "SHOW CACHE")


class Tables:
    """A catalogue that has some tables."""

    session: dict[str, str] = {}  # noqa: RUF012

    def oid_of(self, name: bytes) -> int | None:
        return {b"public.a": 1, b"public.b": 2}.get(name)


def keep(core: Core, text: bytes, *tables: int) -> None:
    slots = core.cache.epochs.slots(tables)
    core.cache.keep(
        Entry(
            Key((), text, b"", b"", b"Q"),
            b"answer",
            request=b"",
            tables=tables,
            slots=slots,
            vector=core.cache.epochs.vector(slots),
            sent=0.0,
            arrived=0.0,
        )
    )


@pytest.fixture
def full_core(core: Core) -> Core:
    """Its cache holds answers from table 1, from tables 1 and 2, and from none."""
    core.cache.decide("writes", "")
    core.cache.catalogue_loaded(Tables(), float("inf"))  # type: ignore[arg-type]
    keep(core, b"one", 1)
    keep(core, b"both", 1, 2)
    keep(core, b"none")
    return core


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("PURGE", 3),
        ("purge;", 3),
        ("PURGE TABLE public.b", 1),
        ("purge table\n public.a ;", 2),
        ("PURGE TABLE public.b, public.a", 2),
    ],
)
def test_a_purge_says_how_many_answers_it_has_forgotten(
    console: Console, full_core: Core, text: str, answers: int
) -> None:
    assert asks(console, text) == m.command_complete(b"PURGE %d" % answers) + READY
    assert len(full_core.cache.store) == 3 - answers
    assert asks(console, text) == m.command_complete(b"PURGE 0") + READY


@pytest.mark.parametrize(
    "text", ["PURGE TABLE public.c", "PURGE TABLE public.a, c", "PURGE TABLE PUBLIC.A"]
)
def test_a_purge_of_a_table_that_is_not_there_purges_nothing(
    console: Console, full_core: Core, text: str
) -> None:
    answer = asks(console, text)
    assert (kinds(answer), fields(answer)["C"]) == ("EZ", "42P01")
    assert len(full_core.cache.store) == 3


def test_a_purge_of_a_table_while_none_is_known(console: Console, core: Core) -> None:
    answer = asks(console, "PURGE TABLE public.a")
    assert fields(answer)["C"] == "55000"
    assert "the origin was not looked at yet" in fields(answer)["M"]


@pytest.mark.parametrize("text", ["", ";", " \n; "])
def test_nothing_is_answered_with_nothing(console: Console, text: str) -> None:
    assert asks(console, text) == m.message(m.EMPTY_QUERY_RESPONSE, b"") + READY


@pytest.mark.parametrize("end", ["COMMIT", "END", "ROLLBACK", "ABORT WORK"])
@pytest.mark.parametrize("begin", ["BEGIN", "begin read only", "START TRANSACTION;"])
def test_what_drivers_put_around_a_query_does_no_harm(
    console: Console, begin: str, end: str
) -> None:
    assert asks(console, begin) == m.command_complete(b"BEGIN") + OPEN
    assert asks(console, "SHOW HELP").endswith(OPEN)
    tag = b"COMMIT" if end in ("COMMIT", "END") else b"ROLLBACK"
    assert asks(console, end) == m.command_complete(tag) + READY


@pytest.mark.parametrize(
    "message",
    [m.parse(b"", b"SHOW STATS"), m.bind(b"", b"", ()), m.close_portal(b""), m.execute()],
)
def test_the_extended_protocol_is_refused_up_to_its_sync(console: Console, message: bytes) -> None:
    refused = console.answer(message[0], message[5:])
    assert fields(refused)["C"] == "0A000"
    assert fields(refused)["M"] == "the console understands simple queries only"
    for kind in (m.BIND, m.DESCRIBE, m.EXECUTE, m.QUERY, m.FLUSH):
        assert console.answer(kind, b"\x00") == b""
    assert console.answer(m.SYNC, b"") == READY
    assert kinds(asks(console, "SHOW HELP")) == "TCZ"


def test_a_function_call_is_refused(console: Console) -> None:
    assert kinds(console.answer(m.FUNCTION_CALL, b"")) == "EZ"


@pytest.mark.parametrize("kind", [m.FLUSH, m.COPY_DATA, m.COPY_DONE, m.COPY_FAIL])
def test_what_asks_for_nothing_is_ignored(console: Console, kind: int) -> None:
    assert console.answer(kind, b"") == b""


def test_a_message_that_there_is_not(console: Console) -> None:
    with pytest.raises(ClientProtocolError, match="invalid frontend message type"):
        console.answer(ord("?"), b"")
