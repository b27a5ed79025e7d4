"""What a client asks for at start-up is in force for it, and for nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from .conftest import LiveProxy, StartProxy


def test_options_are_in_force_on_every_origin_connection(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    options = "-c search_path=pg_catalog -c work_mem=77MB"
    with (
        proxy.connect(autocommit=True, options=options) as ours,
        proxy.connect(autocommit=True) as other,
    ):
        for _ in range(3):
            assert ours.execute("SHOW search_path").fetchone() == ("pg_catalog",)
            assert ours.execute("SHOW work_mem").fetchone() == ("77MB",)
            assert other.execute("SHOW search_path").fetchone() == ('"$user", public',)
            assert other.execute("SHOW work_mem").fetchone() != ("77MB",)


def test_reported_values_are_the_clients_own(start_proxy: StartProxy) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    with (
        proxy.connect(autocommit=True, options="-c timezone=Asia/Tokyo") as tokyo,
        proxy.connect(autocommit=True, client_encoding="latin1") as latin,
    ):
        for _ in range(2):
            assert tokyo.info.parameter_status("TimeZone") == "Asia/Tokyo"
            assert tokyo.execute("SHOW timezone").fetchone() == ("Asia/Tokyo",)
            assert latin.info.parameter_status("client_encoding") == "LATIN1"
            assert latin.execute("SELECT 'é'").fetchone() == ("é",)
            assert latin.info.parameter_status("TimeZone") != "Asia/Tokyo"


def test_a_change_within_a_transaction_is_reported_and_taken_back(proxy: LiveProxy) -> None:
    with proxy.connect() as connection:
        before = connection.info.parameter_status("TimeZone")
        connection.execute("SET timezone TO 'Asia/Tokyo'")
        assert connection.info.parameter_status("TimeZone") == "Asia/Tokyo"
        connection.rollback()
        assert connection.info.parameter_status("TimeZone") == before
        assert connection.execute("SHOW timezone").fetchone() == (before,)


@pytest.mark.parametrize(
    ("options", "sqlstate"),
    [
        ("-c work_mem=much", "22023"),
        ("-c no_such_setting=1", "42704"),
        ("-Z", "42601"),
    ],
)
def test_a_setting_that_postgresql_refuses_is_refused_with_its_words(
    start_proxy: StartProxy, options: str, sqlstate: str
) -> None:
    proxy = start_proxy(origin_connection_limit=1)
    proxy.connect().close()
    with pytest.raises(psycopg.OperationalError) as caught:
        proxy.connect(options=options)
    # libpq keeps no SQLSTATE of a failed connect; PostgreSQL's words are enough to tell.
    words = {"22023": "invalid value", "42704": "unrecognized", "42601": "invalid command-line"}
    assert words[sqlstate] in str(caught.value)
    with proxy.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_client_names_itself_and_the_origin_sees_hyperdrive(proxy: LiveProxy) -> None:
    with proxy.connect(application_name="my app") as connection:
        assert connection.info.parameter_status("application_name") == "my app"
        assert connection.execute(
            "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        ).fetchone() == ("Cloudflare Hyperdrive",)


def test_the_seed_page_query_identifies_the_connections(proxy: LiveProxy) -> None:
    with proxy.connect() as connection:
        assert connection.execute(
            "SELECT DISTINCT usename, application_name FROM pg_stat_activity "
            "WHERE application_name = 'Cloudflare Hyperdrive' AND datname = current_database()"
        ).fetchall() == [("postgres", "Cloudflare Hyperdrive")]
