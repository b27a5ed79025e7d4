"""What a text says before it is sent; where it is in doubt, the safe side."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdrive_client.sql.facts import (
    ANYTHING,
    BEGIN,
    CHANNELS,
    COMMIT,
    LOCKS,
    OTHER,
    ROLLBACK,
    SETTINGS,
    STATEMENTS,
    TEMPORARY,
    UNSEEN,
    custom_names,
    facts_of,
    reset_names,
)


class TestCommands:
    @pytest.mark.parametrize(
        ("text", "command"),
        [
            (b"begin", BEGIN),
            (b" BEGIN WORK ;", BEGIN),
            (b"start transaction", BEGIN),
            (b"/* app */ begin", OTHER),
            (b"begin -- now", OTHER),
            (b"begin read only, isolation level repeatable read", BEGIN),
            (b"commit", COMMIT),
            (b"END TRANSACTION", COMMIT),
            (b"commit and no chain", COMMIT),
            (b"rollback", ROLLBACK),
            (b"abort work", ROLLBACK),
            (b"commit and chain", OTHER),
            (b"rollback to a", OTHER),
            (b"rollback to savepoint a", OTHER),
            (b"rollback prepared 'x'", OTHER),
            (b"commit prepared 'x'", OTHER),
            (b"begin; select 1", OTHER),
            (b"begin; commit", OTHER),
            (b"start", OTHER),
            (b"begins", OTHER),
            (b"begin isolation level nonsense", OTHER),
            (b"begin 'x'", OTHER),
            (b"prepare transaction 'x'", OTHER),
            (b"savepoint a", OTHER),
            (b"", OTHER),
        ],
    )
    def test_what_a_transaction_begins_and_ends_with_alone_in_its_text(self, text, command):
        assert facts_of(text).command == command

    @pytest.mark.parametrize(
        ("text", "isolation"),
        [
            (b"begin", b""),
            (b"begin isolation level serializable", b"serializable"),
            (b"BEGIN ISOLATION LEVEL READ\nCOMMITTED, READ ONLY", b"read committed"),
            (b"begin isolation level repeatable   read", b"repeatable read"),
            (b"begin read only", b""),
        ],
    )
    def test_the_isolation_level_that_begin_asks_for(self, text, isolation):
        assert facts_of(text).isolation == isolation

    @pytest.mark.parametrize(
        ("text", "refused"),
        [
            (b"begin", False),
            (b"begin read only", False),
            (b"begin read write", True),
            (b"begin isolation level serializable read only", True),
            (b"begin isolation level repeatable read", False),
        ],
    )
    def test_a_begin_that_a_hot_standby_refuses(self, text, refused):
        assert facts_of(text).needs_primary == refused

    @pytest.mark.parametrize(
        ("text", "commits"),
        [
            (b"commit", True),
            (b"end", True),
            (b"rollback", False),
            (b"insert into t values (1); commit", True),
            (b"commit and chain", True),
            (b"prepare transaction 'x'", True),
            (b"select 1", False),
            (b"select 'commit'", False),
            (b"do $$ begin commit; end $$", True),
        ],
    )
    def test_what_may_commit(self, text, commits):
        assert facts_of(text).commits == commits


class TestReads:
    @pytest.mark.parametrize(
        "text",
        [
            b"select 1",
            b"SELECT a, count(*) FROM t WHERE b = $1 GROUP BY a ORDER BY 2 LIMIT 10",
            b"with a as (select 1) select * from a",
            b"values (1), (2)",
            b"table t",
            b"show timezone",
            b"select now(), current_setting('timezone')",
            b"select 1; select 2",
            b"select 'insert into t'",
            b'select "for" from t',
        ],
    )
    def test_only_reads_that_call_nothing_but_the_allowed(self, text):
        assert facts_of(text).reads

    @pytest.mark.parametrize(
        "text",
        [
            b"select f()",
            b"select s.now()",
            b"select nextval('s')",
            b"select currval('s')",
            b"select set_config('a', 'b', true)",
            b"select pg_advisory_lock(1)",
            b"select pg_advisory_xact_lock(1)",
            b"select txid_current()",
            b"select 1 for update",
            b"select 1 for no key update",
            b"select 1 into t",
            b"select * from t tablesample system (1)",
            b"select * from pg_settings",
            b"with d as (delete from t returning 1) select * from d",
            b"insert into t values (1)",
            b"update t set a = 1",
            b"lock table t",
            b"declare c cursor for select 1",
            b"fetch 1 from c",
            b"explain analyze delete from t",
            b"execute s",
            b"call p()",
            b"select 1; insert into t values (1)",
            b"select pg_notify('a', 'b')",
            b"select E'a\\'b'",
            b"select $$ x $$",
            b"set local a to b",
            b"savepoint a",
            b"",
            b";",
            b"select dblink('a', 'b')",
            b"select query_to_xml('delete from t', true, true, '')",
        ],
    )
    def test_nothing_else_is_a_read(self, text):
        assert not facts_of(text).reads

    def test_a_text_too_long_to_be_looked_at_is_none(self):
        assert not facts_of(b"select " + b"1," * 40_000 + b"1").reads


class TestTraces:
    @pytest.mark.parametrize(
        ("text", "traces"),
        [
            (b"select 1", 0),
            (b"insert into t values (1)", 0),
            (b"set a to b", SETTINGS),
            (b"set session authorization x", SETTINGS),
            (b"set session characteristics as transaction read only", SETTINGS),
            (b"set local a to b", 0),
            (b"set transaction isolation level serializable", 0),
            (b"set constraints all deferred", 0),
            (b"set local.a to b", SETTINGS),
            (b"reset all", SETTINGS),
            (b"select set_config('a', 'b', false)", SETTINGS),
            (b"select set_config($1, $2, true)", SETTINGS),
            (b"update pg_settings set setting = 'x'", SETTINGS),
            (b"listen a", CHANNELS),
            (b"unlisten *", CHANNELS),
            (b"notify a", 0),
            (b"select pg_advisory_lock(1)", LOCKS),
            (b"select pg_advisory_unlock_all()", LOCKS),
            (b"select pg_advisory_xact_lock(1)", 0),
            (b"prepare s as select 1", STATEMENTS),
            (b"deallocate s", STATEMENTS),
            (b"prepare transaction 'x'", 0),
            (b"select 1 into temp t", TEMPORARY),
            (b"select f()", ANYTHING),
            (b"do $$ begin end $$", ANYTHING),
            (b"call f()", ANYTHING),
            (b"create temp table t (i int)", ANYTHING),
            (b"create table t (i int)", ANYTHING),
            (b"declare c cursor with hold for select 1", ANYTHING),
            (b"execute s", ANYTHING),
            (b"nonsense", ANYTHING),
            (b"select E'\\''", ANYTHING),
            (b"load 'x'", UNSEEN),
            (b"select nextval('s')", 0),
            (b"select currval('s')", 0),
            (b"select set_config('a', 'b', false), pg_advisory_lock(1)", SETTINGS | LOCKS),
            (b"listen a; set a to b", SETTINGS | CHANNELS),
        ],
    )
    def test_what_a_text_may_leave_in_its_session(self, text, traces):
        assert facts_of(text).traces == traces

    @pytest.mark.parametrize(
        "text",
        [
            b"select setseed(0.5)",
            b"select dblink_connect('x')",
            b"select set_limit(0.5)",
            b"load 'auto_explain'",
            b"do $$ begin perform setseed(0.1); end $$",
            b"select pg_backup_start('x')",
            b"select pg_replication_origin_session_setup('x')",
            b"select pg_create_physical_replication_slot('x', true, true)",
            b"select pg_copy_logical_replication_slot('x', 'y', true)",
        ],
    )
    def test_what_no_query_shows(self, text):
        assert facts_of(text).traces & UNSEEN

    def test_a_text_too_long_to_be_looked_at_may_leave_anything(self):
        facts = facts_of(b"insert into t values (" + b"1," * 40_000 + b"1)")
        assert facts.traces == ANYTHING

    @pytest.mark.parametrize(
        ("text", "alters"),
        [
            (b"set local a to b", True),
            (b"set a to b", True),
            (b"select set_config('a', 'b', true)", True),
            (b"call f()", True),
            (b"select 1", False),
            (b"listen a", False),
            (b"select pg_advisory_lock(1)", False),
        ],
    )
    def test_what_changes_settings_for_its_transaction(self, text, alters):
        assert facts_of(text).alters == alters


class TestLocks:
    @pytest.mark.parametrize(
        "text",
        [
            b"drop table t",
            b"alter table t add c int",
            b"truncate t",
            b"lock table t",
            b"vacuum full t",
            b"create index on t (a)",
            b"reindex table t",
            b"refresh materialized view v",
            b"cluster t",
            b"do $$ begin end $$",
            b"call f()",
            b"select 1; drop table t",
        ],
    )
    def test_what_wants_locks_that_conflict_with_a_reads(self, text):
        assert facts_of(text).takes_locks

    @pytest.mark.parametrize(
        "text", [b"select 1", b"insert into t values (1)", b"update t set a = 1", b"delete from t"]
    )
    def test_what_does_not(self, text):
        assert not facts_of(text).takes_locks


class TestSequences:
    @pytest.mark.parametrize(
        "text",
        [
            b"select nextval('s')",
            b"select setval('s', 1)",
            b"insert into t values (1)",
            b"with a as (insert into t values (1) returning 1) select * from a",
            b"copy t from stdin",
            b"merge into t using u on a = b when not matched then insert values (1)",
            b"call f()",
            b"select f()",
        ],
    )
    def test_what_may_advance_one_be_it_by_a_default(self, text):
        assert facts_of(text).advances

    @pytest.mark.parametrize("text", [b"select 1", b"update t set a = 1", b"select currval('s')"])
    def test_what_does_not(self, text):
        assert not facts_of(text).advances

    @pytest.mark.parametrize(
        ("text", "recalls"),
        [
            (b"select currval('s')", True),
            (b"SELECT LastVal()", True),
            (b"insert into t values (lastval())", True),
            (b"select 'currval'", False),
            (b"select nextval('s')", False),
        ],
    )
    def test_currval_and_lastval(self, text, recalls):
        assert facts_of(text).recalls == recalls


class TestResets:
    @pytest.mark.parametrize(
        ("text", "names"),
        [
            (b"reset timezone", {b"timezone"}),
            (b"RESET TIME ZONE", {b"timezone"}),
            (b'reset "TimeZone"', {b"timezone"}),
            (b"set timezone to default", {b"timezone"}),
            (b"set session timezone = default", {b"timezone"}),
            (b"set time zone local", {b"timezone"}),
            (b"set time zone default", {b"timezone"}),
            (b"reset session authorization", {b"session_authorization"}),
            (b"set session authorization default", {b"session_authorization"}),
            (b"reset role; reset work_mem", {b"role", b"work_mem"}),
            (b"set a to b", set()),
        ],
    )
    def test_the_names_that_are_reset(self, text, names):
        assert reset_names(text) == names
        assert facts_of(text).resets == bool(names)

    @pytest.mark.parametrize("text", [b"reset all", b"DISCARD ALL", b"reset a; reset all"])
    def test_all_of_them(self, text):
        assert reset_names(text) is None
        assert facts_of(text).resets

    def test_set_role_none_resets_no_more_than_it_says(self):
        assert reset_names(b"set role none") in (set(), {b"role"})


class TestCustomNames:
    def test_words_with_a_dot(self):
        assert custom_names(b"set App.User to 'x.y'; select set_config('a.b.c', t.d, false)") == {
            b"app.user",
            b"x.y",
            b"a.b.c",
            b"t.d",
        }

    def test_none_in_numbers(self):
        assert custom_names(b"select 1.5, 2.e3") == frozenset()

    def test_not_those_that_are_no_setting_for_their_length(self):
        assert custom_names(b"a." + b"b" * 300) == frozenset()


class TestOthers:
    @pytest.mark.parametrize(
        ("text", "forgets"),
        [
            (b"deallocate s", True),
            (b"discard all", True),
            (b"discard plans", True),
            (b"select 'discard'", False),
        ],
    )
    def test_deallocate_and_discard(self, text, forgets):
        assert facts_of(text).forgets == forgets

    @pytest.mark.parametrize(
        ("text", "notifies"),
        [(b"notify a", True), (b"select pg_notify('a', '')", True), (b"select 'notify'", False)],
    )
    def test_notify(self, text, notifies):
        assert facts_of(text).notifies == notifies

    @pytest.mark.parametrize(
        ("text", "concerns"),
        [
            (b"select pg_backend_pid()", True),
            (b"select pg_terminate_backend(1)", True),
            (b"show hyperdrive.pool", True),
            (b"show timezone", False),
            (b"select 'pg_backend_pid()'", False),
        ],
    )
    def test_what_concerns_us(self, text, concerns):
        assert facts_of(text).concerns_us == concerns


WORDS = st.sampled_from(
    b"select insert set reset listen discard all begin commit from t where nextval ( ) ; ' \" -- /*"
    b" */ $$ 1 22 a.b , = default into temp for update pg_advisory_lock do call lock".split()
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=12), st.sampled_from([b" ", b"\n", b"\t "]))
def test_gaps_make_no_difference(words, gap):
    assert facts_of(b" ".join(words)) == facts_of(gap.join(words)) or b"--" in words


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=8), st.lists(WORDS, max_size=8))
def test_more_in_a_text_never_makes_it_safer(first, second):
    one, two = b" ".join(first), b" ".join(second)
    both = facts_of(one + b" ; " + two)
    if both.traces == ANYTHING or b"'" in one or b"/*" in one or b"--" in one or b"$$" in one:
        return
    if b'"' in one:
        return
    for part in (facts_of(one), facts_of(two)):
        assert part.traces | both.traces == both.traces
        assert both.takes_locks >= part.takes_locks
        assert both.advances >= part.advances


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=10), st.integers(0, 10**9))
def test_a_number_never_makes_a_text_plainer(words, number):
    text = b" ".join(words)
    changed = text.replace(b"22", b"%d" % number)
    assert facts_of(changed).plain == facts_of(text).plain


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_have_facts(text):
    facts = facts_of(text)
    assert not (facts.plain and facts.traces)
