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


def test_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = dict.fromkeys(("mode", "max_age", "stale_while_revalidate", "memory"))
    assert variables.caching() == nothing
    monkeypatch.setenv("HYPERDRIVE_CACHE", "Writes")
    monkeypatch.setenv("HYPERDRIVE_MAX_AGE", "2.5")
    monkeypatch.setenv("HYPERDRIVE_SWR", "0")
    monkeypatch.setenv("HYPERDRIVE_CACHE_MEMORY", "1 GB")
    assert variables.caching() == {
        "mode": "writes",
        "max_age": 2.5,
        "stale_while_revalidate": 0,
        "memory": 1 << 30,
    }


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("HYPERDRIVE_CACHE", "on", "expected auto, wal, writes, ttl or off"),
        ("HYPERDRIVE_MAX_AGE", "3601", "expected seconds from 0 to 3600"),
        ("HYPERDRIVE_MAX_AGE", "a minute", "expected seconds from 0 to 3600"),
        ("HYPERDRIVE_SWR", "-1", "expected seconds from 0 to 3600"),
        ("HYPERDRIVE_SWR", "nan", "expected seconds from 0 to 3600"),
        ("HYPERDRIVE_CACHE_MEMORY", "64M", "expected a size such as 64MB"),
        ("HYPERDRIVE_CACHE_MEMORY", "-1", "expected a size such as 64MB"),
    ],
)
def test_a_cache_that_can_t_be(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: str
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigurationError, match=f"{name} is '{text}': {expected}"):
        variables.caching()


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("3B", 3), ("1kB", 1024), ("64MB", 64 << 20), ("2 gb", 2 << 30)],
)
def test_sizes_are_written_as_in_postgresql(text: str, size: int) -> None:
    assert variables.bytes_of(text) == size
