"""Which TLS context an origin gets, and when a new one is made."""

from __future__ import annotations

import os
import ssl
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hyperdrive_client.bindings.connection_string import Address, Origin
from hyperdrive_client.errors import ConfigurationError
from hyperdrive_client.proxy.net.tls import origin_context

if TYPE_CHECKING:
    from ...conftest import Certificates

ORIGIN = Origin((Address("db.example.com"),), "someone", "somewhere")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where libpq's default files are looked for."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".postgresql"
    folder.mkdir()
    return folder


@pytest.fixture
def verifying(certificates: Certificates, tmp_path: Path) -> Origin:
    """An origin whose roots are a file of the test's own."""
    roots = tmp_path / "roots.pem"
    roots.write_bytes(certificates.ca.read_bytes())
    return replace(ORIGIN, sslmode="verify-full", sslrootcert=str(roots))


@pytest.mark.parametrize(
    ("sslmode", "with_roots", "verifies", "checks_name"),
    [
        ("prefer", False, False, False),
        ("require", False, False, False),
        ("require", True, True, False),
        ("verify-ca", True, True, False),
        ("verify-full", True, True, True),
    ],
)
def test_what_is_checked(
    verifying: Origin, sslmode: str, with_roots: bool, verifies: bool, checks_name: bool
) -> None:
    roots = verifying.sslrootcert if with_roots else None
    context = origin_context(replace(verifying, sslmode=sslmode, sslrootcert=roots))  # type: ignore[arg-type]
    assert (context.verify_mode == ssl.CERT_REQUIRED) == verifies
    assert context.check_hostname == checks_name
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_the_systems_roots_are_read_by_name() -> None:
    context = origin_context(replace(ORIGIN, sslmode="verify-full", sslrootcert="system"))
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("sslmode", ["verify-ca", "verify-full"])
def test_roots_that_are_needed_and_missing_are_named(home: Path, sslmode: str) -> None:
    with pytest.raises(ConfigurationError, match=str(home / "root.crt")):
        origin_context(replace(ORIGIN, sslmode=sslmode))  # type: ignore[arg-type]


def test_a_context_is_kept_as_long_as_its_files_are_the_same(verifying: Origin) -> None:
    assert origin_context(verifying) is origin_context(replace(verifying, user="else"))
    assert origin_context(verifying) is not origin_context(replace(verifying, sslmode="verify-ca"))


def test_a_file_that_is_replaced_makes_a_new_context(
    verifying: Origin, certificates: Certificates, tmp_path: Path
) -> None:
    before = origin_context(verifying)
    new = tmp_path / "new.pem"
    new.write_bytes(certificates.ca.read_bytes())
    os.replace(new, str(verifying.sslrootcert))
    after = origin_context(verifying)
    assert after is not before
    assert origin_context(verifying) is after


def test_a_file_that_was_wrong_is_tried_again(
    verifying: Origin, certificates: Certificates
) -> None:
    roots = Path(str(verifying.sslrootcert))
    roots.write_text("not a certificate")
    with pytest.raises(ConfigurationError, match="can't be used"):
        origin_context(verifying)
    roots.write_bytes(certificates.ca.read_bytes())
    assert origin_context(verifying).verify_mode == ssl.CERT_REQUIRED
