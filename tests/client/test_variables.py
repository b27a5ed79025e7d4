from __future__ import annotations

import pytest

from hyperdrive_client import ConfigurationError
from hyperdrive_client.client import variables


def test_a_shared_proxy_stays_for_five_minutes_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYPERDRIVE_PROXY_IDLE_TIMEOUT")
    assert variables.proxy_idle_timeout() == 300
    for text, seconds in (("0", 0), ("2.5", 2.5)):
        monkeypatch.setenv("HYPERDRIVE_PROXY_IDLE_TIMEOUT", text)
        assert variables.proxy_idle_timeout() == seconds


def test_where_proxies_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert variables.where() == "on"
    for text in ("", "ON", "shared", "process", "Thread", "off"):
        monkeypatch.setenv("HYPERDRIVE_PROXY", text)
        assert variables.where() == (text.lower() or "on")
    monkeypatch.setenv("HYPERDRIVE_PROXY", "yes")
    with pytest.raises(ConfigurationError, match="HYPERDRIVE_PROXY is 'yes'"):
        variables.where()


def test_the_limit_of_origin_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    assert variables.origin_connection_limit() is None
    monkeypatch.setenv("HYPERDRIVE_ORIGIN_CONNECTION_LIMIT", "5")
    assert variables.origin_connection_limit() == 5
    for text in ("0", "-1", "five", "\u0665"):
        monkeypatch.setenv("HYPERDRIVE_ORIGIN_CONNECTION_LIMIT", text)
        with pytest.raises(ConfigurationError, match="expected a whole number from 1 on"):
            variables.origin_connection_limit()
