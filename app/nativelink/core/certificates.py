"""Telling what is wrong with a certificate file and its key.

OpenSSL's own words ("PEM lib") name neither the file nor what is expected of it.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Final, Literal, NamedTuple

__all__ = ["PairFault", "pair_fault"]

_CERTIFICATE: Final = re.compile(rb"-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----")
_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


class PairFault(NamedTuple):
    """Which of the two files it is, under its configuration key, and what is wrong with it."""

    key: Literal["cert_file", "key_file"]
    what: str


def pair_fault(cert_file: Path, key_file: Path) -> PairFault | None:
    """Why a server cannot show a certificate (PEM, RFC 7468) with a private key; None if it can.

    Reads both files at once, which may block.
    """
    fault = _unlike(cert_file, _CERTIFICATE, "certificate")
    if fault is not None:
        return PairFault("cert_file", fault)
    fault = _unlike(key_file, _KEY, "private key")
    if fault is not None:
        return PairFault("key_file", fault)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return PairFault("key_file", f"is not the key of the certificate in {cert_file}")
        return PairFault("cert_file", f"cannot be used with the key in {key_file}: {error}")
    return None


def _unlike(path: Path, wanted: re.Pattern[bytes], name: str) -> str | None:
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if wanted.search(content) is None:
        return f"holds no {name} in PEM"
    if b"ENCRYPTED" in content:
        return "is encrypted, and nobody is asked for its password"
    return None
