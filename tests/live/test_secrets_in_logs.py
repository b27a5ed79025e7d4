"""No password is in a log, an error or a notice, at any level."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from hyperdrive_client.bindings.connection_string import parse_connection_string

if TYPE_CHECKING:
    from .conftest import StartProxy

WRONG = "wrong hush"
ORIGINS_WRONG = "origin hush"
NEW = "new hush"


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def test_failed_logins_and_a_changed_password_log_no_password(
    start_proxy: StartProxy, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = start_proxy()
    with pytest.raises(psycopg.OperationalError) as caught:
        proxy.connect(password=WRONG)
    assert "hush" not in str(caught.value)
    with proxy.connect() as connection:
        connection.execute("CREATE ROLE hush_role")
        connection.execute(f"ALTER ROLE hush_role PASSWORD '{NEW}'")
        connection.rollback()
    origin = replace(parse_connection_string(database), password=ORIGINS_WRONG)
    with pytest.raises(psycopg.OperationalError) as caught:
        start_proxy(origin).connect()
    assert "hush" not in str(caught.value)
    logging.getLogger("hyperdrive_client.test").debug("the capture works")
    assert "the capture works" in caplog.text
    for password in ("hush", proxy.settings.password, str(proxy.settings.origin.password)):
        assert password not in caplog.text
