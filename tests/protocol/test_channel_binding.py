"""Which hash of a certificate a SCRAM exchange is bound to."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperdrive_client.protocol.channel_binding import server_end_point

RSA = ("-newkey", "rsa:2048")
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
PSS = ("-sigopt", "rsa_padding_mode:pss")


def make_certificate(folder: Path, *options: str) -> bytes:
    """A self-signed certificate in DER, by the openssl command."""
    if shutil.which("openssl") is None:
        pytest.skip("no certificates: the openssl command is not installed")
    configuration = folder / "openssl.cnf"
    configuration.write_text("[req]\ndistinguished_name=subject\n[subject]\n")
    command = ["openssl", "req", "-x509", "-config", configuration.name, "-subj", "/CN=localhost"]
    command += ["-nodes", "-keyout", "key.pem", "-out", "certificate.pem", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ssl.PEM_cert_to_DER_cert((folder / "certificate.pem").read_text())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((*RSA, "-md5"), "sha256"),
        ((*RSA, "-sha1"), "sha256"),
        ((*RSA, "-sha224"), "sha224"),
        ((*RSA, "-sha256"), "sha256"),
        ((*RSA, "-sha384"), "sha384"),
        ((*RSA, "-sha512"), "sha512"),
        ((*EC, "-sha1"), "sha256"),
        ((*EC, "-sha224"), "sha224"),
        ((*EC, "-sha256"), "sha256"),
        ((*EC, "-sha384"), "sha384"),
        ((*EC, "-sha512"), "sha512"),
        ((*RSA, *PSS, "-sha1"), "sha256"),
        ((*RSA, *PSS, "-sha224"), "sha224"),
        ((*RSA, *PSS, "-sha256"), "sha256"),
        ((*RSA, *PSS, "-sha384"), "sha384"),
        ((*RSA, *PSS, "-sha512"), "sha512"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else each,
)
def test_the_hash_is_that_of_the_signature(
    tmp_path: Path, options: tuple[str, ...], name: str
) -> None:
    certificate = make_certificate(tmp_path, *options)
    assert server_end_point(certificate) == hashlib.new(name, certificate).digest()


def test_ed25519_has_no_hash(tmp_path: Path) -> None:
    assert server_end_point(make_certificate(tmp_path, "-newkey", "ed25519")) is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_certificate(tmp_path_factory.mktemp("certificate"), *RSA, *PSS, "-sha384")


def test_a_certificate_cut_anywhere_is_none(certificate: bytes) -> None:
    for end in range(len(certificate)):
        assert server_end_point(certificate[:end]) is None


def test_a_byte_changed_anywhere_raises_nothing(certificate: bytes) -> None:
    for position in range(len(certificate)):
        for byte in (0x00, 0x30, 0x7F, 0x80, 0xFF):
            server_end_point(certificate[:position] + bytes((byte,)) + certificate[position + 1 :])


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda rest: b"\x30" + rest))
@example(b"")
@example(b"\x30\x00")
@example(b"\x30\x80")
@example(b"\x30\xff" + b"\xff" * 127)
@example(b"\x30\x06" + b"\x30\x00" * 3)
def test_other_bytes_are_none(data: bytes) -> None:
    assert server_end_point(data) is None
