"""Certificates made for one test session: an authority, a server, a client, a stranger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.transport.authority import Authority

__all__ = ["Certificates", "KeyPair", "make_certificates"]


@dataclass(frozen=True)
class KeyPair:
    """A PEM certificate and its PKCS #8 key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """Files of one session.

    Attributes:
        authority: signs `server` and `client`.
        stranger: a client certificate of another authority.
    """

    authority: Path
    server: KeyPair
    client: KeyPair
    stranger: KeyPair


def make_certificates(folder: Path) -> Certificates:
    """Make and write all of them."""
    authority, other = Authority(folder), Authority(folder, "another authority")
    return Certificates(
        authority=authority.file,
        server=KeyPair(*authority.issue("server", usage=ExtendedKeyUsageOID.SERVER_AUTH)),
        client=KeyPair(*authority.issue("client", usage=ExtendedKeyUsageOID.CLIENT_AUTH)),
        stranger=KeyPair(*other.issue("stranger", usage=ExtendedKeyUsageOID.CLIENT_AUTH)),
    )
