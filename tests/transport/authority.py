"""A certificate authority for tests: it signs, and it revokes."""

from __future__ import annotations

import datetime
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM
_NOW = datetime.datetime.now(datetime.UTC)
_HOUR = datetime.timedelta(hours=1)
#: How long everything here is valid, unless a test says otherwise.
_DAY = 24 * _HOUR


def _name(text: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Builders"),
            x509.NameAttribute(NameOID.COMMON_NAME, text),
        ]
    )


class Authority:
    """Writes `NAME.crt` and `NAME.key` into a folder, its own certificate first."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self.name = _name(name)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.crt"
        certificate = (
            self._builder(self.name, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.file.write_bytes(certificate.public_bytes(_PEM))
        self.issued: dict[str, x509.Certificate] = {}

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, valid: datetime.timedelta = _DAY
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOW - _HOUR)
            .not_valid_after(_NOW + valid)
        )

    @staticmethod
    def end(valid: datetime.timedelta = _DAY) -> int:
        """When something that is valid so long ends, seconds since the epoch."""
        return int((_NOW + valid).timestamp())

    def issue(
        self,
        name: str,
        valid: datetime.timedelta = _DAY,
        usage: x509.ObjectIdentifier | None = None,
    ) -> tuple[Path, Path]:
        """A certificate for localhost, for `usage` only if given; again replaces it."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [
            x509.DNSName("localhost"),
            x509.IPAddress(ip_address("127.0.0.1")),
            x509.UniformResourceIdentifier(f"spiffe://test/{name}"),
            x509.RFC822Name("builder@test.example"),
        ]
        builder = self._builder(_name(name), key.public_key(), valid).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        self.issued[name] = certificate
        paths = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(_PEM))
        paths[1].write_bytes(
            key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return paths

    def revoke(self, *names: str, valid: datetime.timedelta = _DAY) -> Path:
        """A revocation list with the certificates of `names`."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(_NOW - _HOUR)
            .next_update(_NOW + valid)
        )
        for name in names:
            revoked = (
                x509.RevokedCertificateBuilder()
                .serial_number(self.issued[name].serial_number)
                .revocation_date(_NOW - _HOUR)
                .build()
            )
            builder = builder.add_revoked_certificate(revoked)
        path = self.folder / "revoked.crl"
        path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(_PEM))
        return path
