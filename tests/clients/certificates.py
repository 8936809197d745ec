"""Certificates made for one test session: an authority, a server, a client, a stranger."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

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


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


class _Authority:
    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name(name)
        self.certificate = (
            self._builder(self.name, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def issue(self, folder: Path, name: str, usage: x509.ObjectIdentifier) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        certificate = (
            self._builder(_name(name), key.public_key())
            .add_extension(names, critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        pair = KeyPair(folder / f"{name}.pem", folder / f"{name}.key")
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return pair


def make_certificates(folder: Path) -> Certificates:
    """Make and write all of them."""
    authority, other = _Authority("test authority"), _Authority("another authority")
    path = folder / "authority.pem"
    path.write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    return Certificates(
        authority=path,
        server=authority.issue(folder, "server", ExtendedKeyUsageOID.SERVER_AUTH),
        client=authority.issue(folder, "client", ExtendedKeyUsageOID.CLIENT_AUTH),
        stranger=other.issue(folder, "stranger", ExtendedKeyUsageOID.CLIENT_AUTH),
    )
