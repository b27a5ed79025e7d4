"""Settings that could not work are refused where they are made."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin
from hyperdrive_client.errors import ConfigurationError
from hyperdrive_client.proxy.settings import Limits, Settings

ORIGIN = Origin((Address("db.example.com"),), "app", "shop", "origin secret")
SETTINGS = Settings(ORIGIN, "client", "client secret")
TIMES = [field.name for field in fields(Limits) if field.type == "float"]
COUNTS = [field.name for field in fields(Limits) if field.type == "int"]


def test_the_limits_are_hyperdrives_but_for_the_statement_timeout() -> None:
    limits = Limits()
    assert (limits.origin_connection_limit, limits.prepared_statements) == (20, 200)
    assert (limits.pool_timeout, limits.connect_timeout, limits.login_timeout) == (15, 15, 15)
    assert (limits.idle_timeout, limits.statement_timeout) == (600, 0)


def test_nothing_ends_a_clients_work_unasked() -> None:
    limits = Limits()
    assert (limits.transaction_timeout, limits.idle_transaction_timeout) == (0, 0)
    assert limits.client_idle_timeout == 0


@pytest.mark.parametrize("name", TIMES)
def test_a_time_is_a_finite_number_of_seconds(name: str) -> None:
    for seconds in (0, 0.5, 3600, 999_999_999):
        assert getattr(Limits(**{name: seconds}), name) == seconds  # type: ignore[arg-type]
    for seconds in (-1, -0.001, 1e9, math.inf, -math.inf, math.nan):
        with pytest.raises(ConfigurationError, match=f"^{name} is {seconds}"):
            Limits(**{name: seconds})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_at_least_one(name: str) -> None:
    assert getattr(Limits(**{name: 1}), name) == 1
    for count in (0, -1):
        with pytest.raises(ConfigurationError, match=f"^{name} is {count}: at least 1"):
            Limits(**{name: count})


def test_every_limit_is_one_of_these() -> None:
    assert {field.name for field in fields(Limits)} == {*TIMES, *COUNTS}
    assert "idle_timeout" in TIMES


@pytest.mark.parametrize("port", [0, 1, 65535])
def test_a_port_is_accepted(port: int) -> None:
    assert replace(SETTINGS, port=port).port == port


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(ConfigurationError, match=f"port is {port}: expected 0 to 65535"):
        replace(SETTINGS, port=port)


@pytest.mark.parametrize("auth", ["", "md5", "SCRAM", None])
def test_another_way_to_authenticate_is_refused(auth: str) -> None:
    with pytest.raises(ConfigurationError, match="expected 'scram', 'trust' or 'peer'"):
        replace(SETTINGS, auth=auth)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "db.example.com", "localhost."])
def test_nobody_is_trusted_from_elsewhere(host: str) -> None:
    assert replace(SETTINGS, host=host).auth == "scram"
    with pytest.raises(ConfigurationError, match="trust"):
        replace(SETTINGS, host=host, auth="trust")
    with pytest.raises(ConfigurationError, match="trust"):
        replace(SETTINGS, host=host, auth="trust", unix_socket="/run/x/.s.PGSQL.5432")
    replace(SETTINGS, host=None, auth="trust", unix_socket="/run/x/.s.PGSQL.5432")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_may_be_trusted(host: str) -> None:
    assert replace(SETTINGS, host=host, auth="trust").auth == "trust"


TLS = replace(SETTINGS, ssl="require", ssl_cert_file="server.pem", ssl_ca_file="ca.pem")


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (SETTINGS, {"ssl": "on"}, "ssl is 'on': expected 'off', 'allow' or 'require'"),
        (SETTINGS, {"ssl": "allow"}, "ssl is 'allow', which needs ssl_cert_file"),
        (SETTINGS, {"ssl_cert_file": "server.pem"}, "ssl is 'off', so no certificates are used"),
        (SETTINGS, {"ssl_key_file": "server.key"}, "ssl is 'off', so no certificates are used"),
        (SETTINGS, {"ssl_ca_file": "ca.pem"}, "ssl is 'off', so no certificates are used"),
        (SETTINGS, {"clientcert": "verify-ca"}, "ssl is 'off', so no certificates are used"),
        (TLS, {"clientcert": "verify"}, "clientcert is 'verify': expected 'no', 'verify-ca' or"),
        (TLS, {"clientcert": "verify-ca", "ssl_ca_file": None}, "which needs ssl_ca_file and ssl"),
        (TLS, {"clientcert": "verify-full", "ssl": "allow"}, "which needs ssl_ca_file and ssl"),
        (TLS, {"host": None, "unix_socket": "/run/.s.PGSQL.5432"}, "a Unix socket has no TLS"),
    ],
)
def test_tls_that_could_not_be_is_refused(
    settings: Settings, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        replace(settings, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("clientcert", ["no", "verify-ca", "verify-full"])
def test_tls_that_can_be_is_accepted(clientcert: str) -> None:
    assert replace(TLS, clientcert=clientcert).clientcert == clientcert  # type: ignore[arg-type]
    assert replace(TLS, ssl="allow", ssl_ca_file=None).ssl == "allow"


def test_a_database_with_the_name_of_the_console_is_refused() -> None:
    origin = replace(SETTINGS.origin, database="hyperdrive.console")
    with pytest.raises(ConfigurationError, match=r"hyperdrive\.console can't be had"):
        replace(SETTINGS, origin=origin)


def test_no_password_is_shown() -> None:
    assert "secret" not in repr(SETTINGS)
    with pytest.raises(ConfigurationError) as caught:
        replace(SETTINGS, port=-1)
    assert "secret" not in str(caught.value)


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        SETTINGS.port = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        SETTINGS.limits.pool_timeout = 1  # type: ignore[misc]
