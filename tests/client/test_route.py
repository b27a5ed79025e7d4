from __future__ import annotations

import pytest

from hyperdrive_client import Proxy
from hyperdrive_client.client.route import route


def test_no_encryption_is_asked_of_a_proxy(in_thread: None, postgres_dsn: str) -> None:
    # Each request that the proxy declines is a round trip.
    parameters = route(postgres_dsn, None, None, {}).parameters
    assert parameters["sslmode"] == parameters["gssencmode"] == "disable"


def test_a_proxys_own_url_is_taken_as_it_is(postgres_dsn: str) -> None:
    with Proxy(postgres_dsn, mode="thread") as proxy:
        parameters = route(proxy.connection_string, None, None, {}).parameters
        assert (parameters["host"], parameters["port"]) == (proxy.host, str(proxy.port))
        assert (parameters["user"], parameters["password"]) == (proxy.user, proxy.password)
        assert parameters["sslmode"] == parameters["gssencmode"] == "disable"


def test_gssapi_is_left_to_the_origin(monkeypatch: pytest.MonkeyPatch, postgres_dsn: str) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY", "off")
    assert "gssencmode" not in route(postgres_dsn, None, None, {}).parameters


def test_overrides_go_over_the_origins_own(
    monkeypatch: pytest.MonkeyPatch, postgres_dsn: str
) -> None:
    monkeypatch.setenv("HYPERDRIVE_PROXY", "off")
    target = f"{postgres_dsn}?application_name=origin&connect_timeout=3"
    parameters = route(target, None, None, {"application_name": "mine"}).parameters
    assert (parameters["application_name"], parameters["connect_timeout"]) == ("mine", "3")


class TestReports:
    """Of its waits and pins each connection hears if it asks at start-up."""

    ASK = "-c hyperdrive.report=on"

    def test_a_proxy_is_asked_for_them(self, in_thread: None, postgres_dsn: str) -> None:
        assert route(postgres_dsn, None, None, {}).parameters["options"] == self.ASK

    def test_an_origin_is_not(self, monkeypatch: pytest.MonkeyPatch, postgres_dsn: str) -> None:
        monkeypatch.setenv("HYPERDRIVE_PROXY", "off")
        assert "options" not in route(postgres_dsn, None, None, {}).parameters

    def test_a_proxys_own_url(self, postgres_dsn: str) -> None:
        with Proxy(postgres_dsn, mode="thread") as proxy:
            target = f"{proxy.connection_string}&options=-cjit%3Doff"
            parameters = route(target, None, None, {}).parameters
        assert parameters["options"] == f"{self.ASK} -cjit=off"

    def test_in_front_of_the_callers_options(self, in_thread: None, postgres_dsn: str) -> None:
        given = {"options": "-c jit=off"}
        assert route(postgres_dsn, None, None, given).parameters["options"] == (
            f"{self.ASK} -c jit=off"
        )

    def test_in_front_of_the_environments_options(
        self, in_thread: None, monkeypatch: pytest.MonkeyPatch, postgres_dsn: str
    ) -> None:
        monkeypatch.setenv("PGOPTIONS", "-c jit=off")
        options = route(postgres_dsn, None, None, {}).parameters["options"]
        assert options == f"{self.ASK} -c jit=off"
        assert route(postgres_dsn, None, None, {"options": ""}).parameters["options"] == self.ASK
