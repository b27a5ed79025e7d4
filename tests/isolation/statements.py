"""Single statements, each with its effect on the model.

A tag is in every answer: no two statements of a run have the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from .model import Maker, Result, Session, SqlError, Statement

SETTINGS = {
    "TimeZone": ("Asia/Tokyo", "Europe/Paris", "America/Lima"),
    "DateStyle": ("SQL, DMY", "German, DMY", "Postgres, MDY"),
    "IntervalStyle": ("iso_8601", "sql_standard", "postgres_verbose"),
    "search_path": ("one", "two", "three"),
    "work_mem": ("1MB", "2MB", "3MB"),
    "statement_timeout": ("1h", "2h"),
    "extra_float_digits": ("0", "3"),
    "default_transaction_isolation": ("repeatable read",),
    "app.tag": (),
    "role": ("alice", "bob"),
}
"""By name: values that are nobody's default. ``app.tag`` gets the statement's own tag."""

REPORTED = ("TimeZone", "DateStyle", "IntervalStyle", "search_path")
"""What PostgreSQL 18 tells a client of by itself (ParameterStatus)."""

SCHEMA = """
    CREATE ROLE alice; CREATE ROLE bob;
    CREATE UNLOGGED TABLE work (tag text PRIMARY KEY);
    GRANT ALL ON work TO PUBLIC;
    CREATE VIEW whereami AS SELECT 'public'::text AS name;
    CREATE SCHEMA one; CREATE VIEW one.whereami AS SELECT 'one'::text AS name;
    CREATE SCHEMA two; CREATE VIEW two.whereami AS SELECT 'two'::text AS name;
    CREATE SCHEMA three; CREATE VIEW three.whereami AS SELECT 'three'::text AS name;
    GRANT USAGE ON SCHEMA one, two, three TO PUBLIC;
    GRANT SELECT ON whereami, one.whereami, two.whereami, three.whereami TO PUBLIC;
"""

DEFAULTS = "SELECT coalesce(current_setting(name, true), '') FROM unnest(%s::text[]) AS name"

TABLES = ("scratch", "pad")
CURSORS = ("c", "d")
SQL_NAMES = ("p", "q")
SAVEPOINTS = ("s", "t")


def _rows(*rows: tuple[str, ...]) -> Callable[[Session], Result]:
    return lambda session: Result(list(rows), f"SELECT {len(rows)}")


def _does(tag: str, act: Callable[[Session], object]) -> Callable[[Session], Result]:
    def effect(session: Session) -> Result:
        act(session)
        return Result([], tag)

    return effect


def _fails(sqlstate: str, words: str) -> Callable[[Session], Result]:
    def effect(session: Session) -> Result:
        raise SqlError(sqlstate, words)

    return effect


# Reads: what they show is the tag, and sometimes what the session is.


def read(random: Random, session: Session, tag: str) -> Statement:
    return Statement("SELECT $1::text AS tag", _rows((tag,)), ("tag",), (tag,))


def read_rows(random: Random, session: Session, tag: str) -> Statement:
    count = random.choice((0, 3, 200))
    text = f"SELECT $1::text || n AS tag FROM generate_series(1, {count}) AS n"
    rows = [(f"{tag}{number}",) for number in range(1, count + 1)]
    return Statement(text, _rows(*rows), ("tag",), (tag,))


def read_five(random: Random, session: Session, tag: str) -> Statement:
    text = "SELECT $1::text AS tag FROM generate_series(1, 5)"
    return Statement(text, _rows(*[(tag,)] * 5), ("tag",), (tag,))


def sleep(random: Random, session: Session, tag: str) -> Statement:
    """Long enough to be met by a cancel; the answer's beginning comes before the sleep."""
    seconds = random.choice((0.001, 0.002, 0.05))
    text = (
        f"SELECT $1::text AS tag, CASE n WHEN 1000 THEN pg_sleep({seconds})::text ELSE '' END"
        " AS slept FROM generate_series(1, 1000) AS n"
    )
    return Statement(text, _rows(*[(tag, "")] * 1000), ("tag", "slept"), (tag,))


def nap(random: Random, session: Session, tag: str) -> Statement:
    text = "SELECT $1::text AS tag, pg_sleep(0.002)::text AS slept"
    return Statement(text, _rows((tag, "")), ("tag", "slept"), (tag,))


def large_read(random: Random, session: Session, tag: str) -> Statement:
    """More than the proxy keeps back of a message before it passes it on."""
    text = f"SELECT '{tag}' AS tag /* {'x' * 2_000_000} */"
    return Statement(text, _rows((tag,)), ("tag",))


def read_path(random: Random, session: Session, tag: str) -> Statement:
    """The same text means another view with every search_path."""

    def effect(session: Session) -> Result:
        path = session.show("search_path")
        return Result([(tag, "public" if "public" in path else path)], "SELECT 1")

    return Statement("SELECT $1::text AS tag, name FROM whereami", effect, ("tag", "name"), (tag,))


def read_user(random: Random, session: Session, tag: str) -> Statement:
    def effect(session: Session) -> Result:
        role = session.show("role")
        return Result([(tag, "postgres" if role == "none" else role)], "SELECT 1")

    text = "SELECT $1::text AS tag, current_user::text AS who"
    return Statement(text, effect, ("tag", "who"), (tag,))


def literal_read(random: Random, session: Session, tag: str) -> Statement:
    return Statement(f"/* {tag} */ SELECT '{tag}' AS tag", _rows((tag,)), ("tag",))


def census(random: Random, session: Session, tag: str) -> Statement:
    """All that the session holds, and nothing of anybody else's."""
    text = (
        "SELECT $1::text AS tag,"
        " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())"
        " AS locks,"
        " (SELECT coalesce(string_agg(relname, ',' ORDER BY relname), '') FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = pg_my_temp_schema()) AS tables,"
        " (SELECT coalesce(string_agg(c, ',' ORDER BY c), '') FROM pg_listening_channels() AS c)"
        " AS channels,"
        " (SELECT coalesce(string_agg(name, ',' ORDER BY name), '') FROM pg_cursors"
        " WHERE is_holdable) AS held"
    )

    def effect(session: Session) -> Result:
        state = session.state
        names = (sorted(state.tables), sorted(session.listening), sorted(state.held))
        held = (",".join(each) for each in names)
        return Result([(tag, str(len(session.locks)), *held)], "SELECT 1")

    return Statement(text, effect, ("tag", "locks", "tables", "channels", "held"), (tag,))


# Settings.


def show(random: Random, session: Session, tag: str) -> Statement:
    name = random.choice([name for name in SETTINGS if name != "app.tag"])
    return Statement(
        f"SHOW {name} /* {tag} */",
        lambda session: Result([(session.show(name),)], "SHOW"),
        (name,),
    )


def current_setting(random: Random, session: Session, tag: str) -> Statement:
    name = random.choice(list(SETTINGS))
    text = "SELECT $1::text AS tag, coalesce(current_setting($2, true), '') AS value"
    return Statement(
        text,
        lambda session: Result([(tag, session.show(name))], "SELECT 1"),
        ("tag", "value"),
        (tag, name),
    )


def _value(random: Random, name: str, tag: str) -> str:
    return random.choice(SETTINGS[name] or (tag,))


def set_session(random: Random, session: Session, tag: str) -> Statement:
    name = random.choice(list(SETTINGS))
    value = _value(random, name, tag)
    form = random.choice(("SET {} = '{}'", "SET SESSION {} TO '{}'", "set {}='{}'"))
    if name == "search_path":
        form = "SET {} = {}"
    elif name == "role":
        form = "SET ROLE {1}"
    elif name == "TimeZone" and random.random() < 0.3:
        form = "SET TIME ZONE '{1}'"
    return Statement(form.format(name, value), _does("SET", lambda s: s.set(name, value)))


def set_local(random: Random, session: Session, tag: str) -> Statement:
    name = random.choice(list(SETTINGS))
    value = _value(random, name, tag)
    form = "SET LOCAL ROLE {1}" if name == "role" else "SET LOCAL {} = '{}'"
    effect = _does("SET", lambda s: s.set(name, value, local=True))
    return Statement(form.format(name, value), effect)


def set_config(random: Random, session: Session, tag: str) -> Statement:
    name = random.choice(list(SETTINGS))
    value = _value(random, name, tag)
    local = random.random() < 0.3

    def effect(session: Session) -> Result:
        session.set(name, value, local=local)
        return Result([(tag, value)], "SELECT 1")

    text = f"SELECT $1::text AS tag, set_config($2, $3, {str(local).lower()}) AS value"
    return Statement(text, effect, ("tag", "value"), (tag, name, value))


def reset(random: Random, session: Session, tag: str) -> Statement:
    name = random.choice(list(SETTINGS))
    if name == "role":
        text = random.choice(("RESET ROLE", "SET ROLE NONE"))
        value = "none"
    else:
        text = random.choice((f"RESET {name}", f"SET {name} = DEFAULT", f"SET {name} TO DEFAULT"))
        value = session.defaults[name]
    tag = "RESET" if text.startswith("RESET") else "SET"
    # In the same text or batch the origin's own value would be in force: docs/limits.md.
    return Statement(text, _does(tag, lambda s: s.set(name, value)), alone=True)


def set_to(session: Session, name: str, value: str, tag: str) -> Result:
    session.set(name, value)
    return Result([], tag)


def reset_all(random: Random, session: Session, tag: str) -> Statement:
    return Statement("RESET ALL", _does("RESET", lambda s: s.reset_all()), alone=True)


def set_badly(random: Random, session: Session, tag: str) -> Statement:
    return Statement(f"SET work_mem = '{tag}'", _fails("22023", tag))


# Errors, each with its tag.


def fail_when_parsed(random: Random, session: Session, tag: str) -> Statement:
    text = f"SELECT '{tag}'::int4 AS tag"
    return Statement(text, _rows(), ("tag",), parse_error=SqlError("22P02", tag))


def fail_when_run(random: Random, session: Session, tag: str) -> Statement:
    text = "SELECT (random()::text || $1::text)::int4 AS tag"
    return Statement(text, _fails("22P02", tag), ("tag",), (tag,))


# The table that all share.


def insert(random: Random, session: Session, tag: str) -> Statement:
    def effect(session: Session) -> Result:
        session.change(rows=session.state.rows | {tag})
        return Result([(tag,)], "INSERT 0 1")

    text = "INSERT INTO public.work VALUES ($1::text) RETURNING tag"
    return Statement(text, effect, ("tag",), (tag,))


def delete(random: Random, session: Session, tag: str) -> Statement | None:
    if not session.state.rows:
        return None
    row = random.choice(sorted(session.state.rows))

    def effect(session: Session) -> Result:
        session.change(rows=session.state.rows - {row})
        return Result([(row,)], "DELETE 1")

    text = "DELETE FROM public.work WHERE tag = $1::text RETURNING tag"
    return Statement(text, effect, ("tag",), (row,))


def read_work(random: Random, session: Session, tag: str) -> Statement:
    """All that this client has there, by the first part of its tags."""
    owner = tag.partition(".")[0]

    def effect(session: Session) -> Result:
        return Result([(tag, ",".join(sorted(session.state.rows)))], "SELECT 1")

    text = (
        "SELECT $1::text AS tag, coalesce(string_agg(w.tag, ',' ORDER BY w.tag COLLATE \"C\"), '')"
        " AS tags FROM public.work AS w WHERE w.tag >= $2::text AND w.tag < $3::text"
    )
    return Statement(text, effect, ("tag", "tags"), (tag, f"{owner}.", f"{owner}/"))


def copy_out(random: Random, session: Session, tag: str) -> Statement:
    count = random.choice((1, 3, 500))
    text = f"COPY (SELECT '{tag}' FROM generate_series(1, {count})) TO STDOUT"
    effect = lambda session: Result([(tag,)] * count, f"COPY {count}")  # noqa: E731
    return Statement(text, effect, copy="out")


def copy_in(random: Random, session: Session, tag: str) -> Statement:
    def effect(session: Session) -> Result:
        session.change(rows=session.state.rows | {tag})
        return Result([(tag,)], "COPY 1")

    return Statement("COPY public.work FROM STDIN", effect, copy="in")


def copy_in_badly(random: Random, session: Session, tag: str) -> Statement:
    return Statement("COPY public.work FROM STDIN", _fails("57014", tag), copy="in")


# Transactions.


def begin(random: Random, session: Session, tag: str) -> Statement | None:
    if session.status != "I":
        return None
    text = random.choice(
        ("BEGIN", "begin", "START TRANSACTION", "BEGIN ISOLATION LEVEL READ COMMITTED")
    )
    tag = "START TRANSACTION" if text.startswith("START") else "BEGIN"
    return Statement(text, lambda session: session.begin()._replace(tag=tag))


def end(random: Random, session: Session, tag: str) -> Statement | None:
    if session.status == "I":
        return None
    commit = random.random() < 0.6
    text = random.choice(("COMMIT", "END") if commit else ("ROLLBACK", "ABORT"))
    effect = lambda session: session.end(commit=commit)  # noqa: E731
    return Statement(text, effect, ends_failed=True)


def roll_back(random: Random, session: Session, tag: str) -> Statement:
    return Statement("ROLLBACK", lambda session: session.end(commit=False), ends_failed=True)


def savepoint(random: Random, session: Session, tag: str) -> Statement | None:
    if session.status != "T":
        return None
    name = random.choice(SAVEPOINTS)
    return Statement(f"SAVEPOINT {name}", lambda session: session.savepoint(name))


def roll_back_to(random: Random, session: Session, tag: str) -> Statement | None:
    if session.status == "I" or not session.savepoints:
        return None
    name = random.choice(session.savepoints)
    effect = lambda session: session.roll_back_to(name)  # noqa: E731
    return Statement(f"ROLLBACK TO {name}", effect, ends_failed=True)


def release(random: Random, session: Session, tag: str) -> Statement | None:
    if session.status != "T" or not session.savepoints:
        return None
    name = random.choice(session.savepoints)
    return Statement(f"RELEASE {name}", lambda session: session.release(name))


def cursor(random: Random, session: Session, tag: str) -> Statement | None:
    """DECLARE, FETCH or CLOSE."""
    open_ = session.state.cursors
    name = random.choice(CURSORS)
    if name in open_:
        value = open_[name]
        if random.random() < 0.3:
            return _close(name)
        effect = lambda session: Result([(value,)], "FETCH 1")  # noqa: E731
        return Statement(f"FETCH 1 FROM {name}", effect, ("tag",))
    if session.status != "T":
        return None
    text = f"DECLARE {name} CURSOR FOR SELECT '{tag}' AS tag FROM generate_series(1, 1000)"
    opened = {**open_, name: tag}
    return Statement(text, _does("DECLARE CURSOR", lambda s: s.change(cursors=opened)))


def _close(name: str) -> Statement:
    return Statement(f"CLOSE {name}", _does("CLOSE CURSOR", lambda s: s.close_cursor(name)))


# What pins.


def hold(random: Random, session: Session, tag: str) -> Statement | None:
    """A cursor WITH HOLD."""
    free = [name for name in CURSORS if name not in session.state.cursors]
    if session.status == "E" or not free:
        return None
    name = random.choice(free)

    def act(session: Session) -> None:
        state = session.state
        session.change(cursors={**state.cursors, name: tag}, held=state.held | {name})

    text = (
        f"DECLARE {name} CURSOR WITH HOLD FOR SELECT '{tag}' AS tag FROM generate_series(1, 1000)"
    )
    return Statement(text, _does("DECLARE CURSOR", act))


def temp_table(random: Random, session: Session, tag: str) -> Statement | None:
    """CREATE, INSERT, SELECT or DROP; by the owner, who is the session's user."""
    if session.show("role") != "none":
        return None
    name = random.choice(TABLES)
    tables = session.state.tables
    if name not in tables:
        effect = _does("CREATE TABLE", lambda s: s.change(tables={**tables, name: ()}))
        return Statement(f"CREATE TEMP TABLE {name} (tag text)", effect)
    rows = tables[name]
    match random.randrange(4):
        case 0:
            return _drop(name)
        case 1:
            more = {**tables, name: (*rows, tag)}
            text = f"INSERT INTO pg_temp.{name} VALUES ($1::text)"
            effect = _does("INSERT 0 1", lambda s: s.change(tables=more))
            return Statement(text, effect, values=(tag,))
    effect = lambda session: Result([(row,) for row in rows], f"SELECT {len(rows)}")  # noqa: E731
    return Statement(f"SELECT tag FROM {name}", effect, ("tag",))


def _drop(name: str) -> Statement:
    def act(session: Session) -> None:
        left = {each: rows for each, rows in session.state.tables.items() if each != name}
        session.change(tables=left)

    return Statement(f"DROP TABLE pg_temp.{name}", _does("DROP TABLE", act))


def lock(random: Random, session: Session, tag: str) -> Statement:
    """A session lock of this client's own."""
    key = int(tag.replace("c", "").replace(".", "0"))

    def effect(session: Session) -> Result:
        session.locks |= {key}
        return Result([(tag, "t")], "SELECT 1")

    text = f"SELECT $1::text AS tag, pg_try_advisory_lock({key}) AS done"
    return Statement(text, effect, ("tag", "done"), (tag,))


def unlock(random: Random, session: Session, tag: str) -> Statement | None:
    if not session.locks:
        return None
    return _unlock(random.choice(sorted(session.locks)), tag)


def _unlock(key: int, tag: str) -> Statement:
    def effect(session: Session) -> Result:
        session.locks -= {key}
        return Result([(tag, "t")], "SELECT 1")

    text = f"SELECT $1::text AS tag, pg_advisory_unlock({key}) AS done"
    return Statement(text, effect, ("tag", "done"), (tag,))


def listen(random: Random, session: Session, tag: str) -> Statement | None:
    """LISTEN to this client's own channel, or to everybody's."""
    if session.status != "I":
        return None
    channel = random.choice((tag.partition(".")[0], "everybody"))
    act = lambda s: s.change(listening=s.state.listening | {channel})  # noqa: E731
    return Statement(f"LISTEN {channel}", _does("LISTEN", act), alone=True)


def unlisten(random: Random, session: Session, tag: str) -> Statement | None:
    if session.status != "I" or not session.listening:
        return None
    channel = random.choice(sorted(session.listening))
    act = lambda s: s.change(listening=s.state.listening - {channel})  # noqa: E731
    return Statement(f"UNLISTEN {channel}", _does("UNLISTEN", act), alone=True)


def notify(random: Random, session: Session, tag: str) -> Statement:
    channel = random.choice((tag.partition(".")[0], "everybody"))
    act = lambda s: s.change(notified=(*s.state.notified, (channel, tag)))  # noqa: E731
    if random.random() < 0.5:
        return Statement(f"NOTIFY {channel}, '{tag}'", _does("NOTIFY", act))

    def effect(session: Session) -> Result:
        act(session)
        return Result([("",)], "SELECT 1")

    return Statement(f"SELECT pg_notify('{channel}', $1) AS done", effect, ("done",), (tag,))


def prepare(random: Random, session: Session, tag: str) -> Statement | None:
    """SQL's PREPARE, which no ROLLBACK takes back, and EXECUTE, which must not find another's."""
    name = random.choice(SQL_NAMES)
    value = session.prepared.get(name)
    if value is None:
        if random.random() < 0.2:
            return Statement(f"EXECUTE {name}", _fails("26000", name), simple=True)
        act = lambda s: s.prepared.update({name: tag})  # noqa: E731
        text = f"PREPARE {name} AS SELECT '{tag}' AS tag"
        return Statement(text, _does("PREPARE", act))
    if random.random() < 0.3:
        return _deallocate(name)
    return Statement(f"EXECUTE {name}", _rows((value,)), ("tag",))


def _deallocate(name: str) -> Statement:
    return Statement(f"DEALLOCATE {name}", _does("DEALLOCATE", lambda s: s.prepared.pop(name)))


def discard_all(random: Random, session: Session, tag: str) -> Statement | None:
    if session.status != "I":
        return None
    return Statement("DISCARD ALL", _does("DISCARD ALL", lambda s: s.discard_all()), alone=True)


def let_go(session: Session, tag: str) -> Iterator[Statement]:
    """What ends all that the session holds, outside a transaction."""
    yield from map(_drop, sorted(session.state.tables))
    yield from map(_close, sorted(session.state.held))
    yield from map(_deallocate, sorted(session.prepared))
    yield from (_unlock(key, tag) for key in sorted(session.locks))
    if session.listening:
        act = lambda s: s.change(listening=frozenset())  # noqa: E731
        yield Statement("UNLISTEN *", _does("UNLISTEN", act), alone=True)


PREPARABLE = (read, read_path, read_user, current_setting, insert, read_work, census)
"""Those with the same text every time."""

FAMILIES: dict[str, tuple[Maker, ...]] = {
    "reads": (read, read, read, read_rows, read_path, read_user, literal_read, nap),
    "census": (census,),
    "checks": (show, current_setting, current_setting),
    "settings": (set_session, set_session, set_config, reset, reset_all, set_badly),
    "local": (set_local,),
    "errors": (fail_when_parsed, fail_when_run),
    "work": (insert, insert, delete, read_work),
    "transactions": (savepoint, roll_back_to, release, cursor),
    "hold": (hold,),
    "tables": (temp_table, temp_table),
    "locks": (lock, unlock),
    "listen": (listen, unlisten, notify),
    "prepare": (prepare, prepare),
}
"""What ``--without`` can leave out."""
