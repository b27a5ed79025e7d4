"""The channel binding ``tls-server-end-point``: a hash of the server's certificate.

RFC 5929, section 4.1: the hash is that of the certificate's own signature, with SHA-256 in place
of MD5 and SHA-1. The certificate's layout is RFC 5280's, section 4.1, in DER (X.690).
"""

from __future__ import annotations

import hashlib

# Object identifiers as DER writes them, behind their tag and length.
_RSA = bytes.fromhex("2a864886f70d0101")
_ECDSA = bytes.fromhex("2a8648ce3d04")
_NIST = bytes.fromhex("6086480165030402")
_RSA_PSS = _RSA + b"\x0a"
_HASHES = {
    _RSA + b"\x04": "sha256",  # MD5
    _RSA + b"\x05": "sha256",  # SHA-1
    _RSA + b"\x0b": "sha256",
    _RSA + b"\x0c": "sha384",
    _RSA + b"\x0d": "sha512",
    _RSA + b"\x0e": "sha224",
    _ECDSA + b"\x01": "sha256",  # SHA-1
    _ECDSA + b"\x03\x01": "sha224",
    _ECDSA + b"\x03\x02": "sha256",
    _ECDSA + b"\x03\x03": "sha384",
    _ECDSA + b"\x03\x04": "sha512",
    # The hash functions themselves, as RSA-PSS names them.
    bytes.fromhex("2b0e03021a"): "sha256",  # SHA-1
    _NIST + b"\x01": "sha256",
    _NIST + b"\x02": "sha384",
    _NIST + b"\x03": "sha512",
    _NIST + b"\x04": "sha224",
}

_SEQUENCE = 0x30
_HASH_ALGORITHM = 0xA0


def server_end_point(certificate: bytes) -> bytes | None:
    """The hash of a certificate in DER.

    ``None`` where RFC 5929 defines none (Ed25519, whose signature has no hash of its own), and
    for what is not a certificate.
    """
    try:
        (body,) = _elements(certificate, _SEQUENCE)
        _, algorithm, _ = _split(body)
        name = _hash_name(algorithm[1])
    except (ValueError, IndexError):
        return None
    return None if name is None else hashlib.new(name, certificate).digest()


def _hash_name(algorithm: bytes) -> str | None:
    """The hash in an AlgorithmIdentifier."""
    (_, identifier), *parameters = _split(algorithm)
    if identifier == _RSA_PSS:
        # RFC 4055, section 3.1: the hash is the first of its parameters, SHA-1 if left out.
        chosen = _elements(parameters[0][1], _HASH_ALGORITHM)
        if not chosen:
            return "sha256"
        (inner,) = _elements(chosen[0], _SEQUENCE)
        identifier = _split(inner)[0][1]
    return _HASHES.get(identifier)


def _elements(data: bytes, tag: int) -> list[bytes]:
    return [content for found, content in _split(data) if found == tag]


def _split(data: bytes) -> list[tuple[int, bytes]]:
    """The elements in ``data``: tag and content. ``ValueError`` or ``IndexError`` if cut off."""
    elements = []
    position = 0
    while position < len(data):
        tag, length = data[position], data[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[position : position + size])
            position += size
        end = position + length
        if end > len(data):
            raise ValueError("an element ends behind its container")
        elements.append((tag, data[position:end]))
        position = end
    return elements
