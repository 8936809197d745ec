"""TLS of a listener: contexts from PEM files, read again when the files change."""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from nativelink.core.certificates import pair_fault
from nativelink.core.errors import NativeLinkError, invalid_argument
from nativelink.transport.handshakes import FailedHandshakes
from nativelink.transport.settings import TlsSettings

__all__ = ["TlsContexts", "peer_identity"]

_log = logging.getLogger(__name__)

#: How often the files are looked at, in seconds: a few stat calls.
_POLL_S: Final = 3.0

_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)

_Stamp = tuple[int, int, int]


class TlsContexts:
    """The listener's current `ssl.SSLContext`.

    A new context is made whenever a file changed; new connections get it, old ones keep theirs.
    Files that cannot be used leave the context as it is and log an error, once per change.

    Attributes:
        failed: the handshakes that failed with any of them.
        expires: when the files in use expire, by configuration key: seconds since the epoch, of
            the first of several certificates or lists in a file. A list without `nextUpdate`
            (RFC 5280 section 5.1.2.5) never does, and is absent.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._stamps: dict[Path, _Stamp | None] = {}
        self._polled_at = 0.0
        self._context: ssl.SSLContext | None = None
        self.failed = FailedHandshakes()
        self.expires: dict[str, float] = {}

    @property
    def context(self) -> ssl.SSLContext:
        """The context for new connections."""
        assert self._context is not None
        return self._context

    def load(self, now: float) -> None:
        """Read all files.

        Raises:
            NativeLinkError: INVALID_ARGUMENT naming what cannot be used.
        """
        self._polled_at = now
        # Looked at before they are read: a file that changes in between is read again.
        self._stamps = self._look()
        context = _context(self._settings)
        self.failed.watch(context)
        self._context = context
        self.expires = dict(_expiries(self._settings))

    def changed(self, now: float) -> bool:
        """Whether there is a new context since the last call; cheap unless a poll is due."""
        if now - self._polled_at < _POLL_S:
            return False
        self._polled_at = now
        stamps = self._look()
        if stamps == self._stamps:
            return False
        try:
            self.load(now)
        except NativeLinkError as error:
            self._stamps = stamps
            _log.error("changed TLS files are not used, the old ones stay: %s", error)
            return False
        _log.info("TLS files changed and are in use: %s", self._settings.cert_file)
        return True

    def _look(self) -> dict[Path, _Stamp | None]:
        settings = self._settings
        paths = (
            settings.cert_file,
            settings.key_file,
            settings.client_ca_file,
            settings.client_crl_file,
        )
        return {path: _stamp(path) for path in paths if path is not None}


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _context(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["h2", "http/1.1"])
    _load_certificate(context, settings.cert_file, settings.key_file)
    if settings.client_ca_file is not None:
        required = settings.verify_client is not False
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        _load_trust(context, settings.client_ca_file, "client_ca_file")
    if settings.client_crl_file is not None:
        _load_trust(context, settings.client_crl_file, "client_crl_file")
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


def _load_certificate(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> None:
    # Asked before OpenSSL is, which would ask the terminal for an encrypted key's password.
    fault = pair_fault(cert_file, key_file)
    if fault is not None:
        path = cert_file if fault.key == "cert_file" else key_file
        raise invalid_argument(f"tls: {fault.key} {path} {fault.what}")
    try:
        context.load_cert_chain(cert_file, key_file)
    except (OSError, ssl.SSLError) as error:
        # They were changed in between.
        raise invalid_argument(
            f"tls: cert_file {cert_file} and key_file {key_file} cannot be used: {error}"
        ) from error


def _load_trust(context: ssl.SSLContext, path: Path, key: str) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise invalid_argument(f"tls: {key} {path} cannot be used: {error}") from error


def _expiries(settings: TlsSettings) -> Iterator[tuple[str, float]]:
    """What OpenSSL just took, read once more: it does not say when what it holds expires."""
    for key, path in (
        ("cert_file", settings.cert_file),
        ("client_ca_file", settings.client_ca_file),
        ("client_crl_file", settings.client_crl_file),
    ):
        if path is None:
            continue
        try:
            content = path.read_bytes()
            ends = _ends_of_lists(content) if key == "client_crl_file" else _ends(content)
        except (OSError, ValueError) as error:
            # Gone again, or a format that only OpenSSL knows: served all the same.
            _log.warning("tls: when %s %s expires cannot be told: %s", key, path, error)
            continue
        if ends:
            yield key, min(ends).timestamp()


# `cryptography` is imported with the first certificate: no start without TLS waits for it.


def _ends(content: bytes) -> list[datetime]:
    from cryptography import x509

    return [item.not_valid_after_utc for item in x509.load_pem_x509_certificates(content)]


def _ends_of_lists(content: bytes) -> list[datetime]:
    from cryptography import x509

    updates = [x509.load_pem_x509_crl(item).next_update_utc for item in _CRL.findall(content)]
    return [update for update in updates if update is not None]


def peer_identity(ssl_object: Any) -> tuple[str, tuple[str, ...]]:
    """Subject (RFC 4514) and subject alternative names of a verified client certificate."""
    der = None if ssl_object is None else ssl_object.getpeercert(binary_form=True)
    if not der:
        return "", ()
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(der)
    sans: list[str] = []
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = None
    for name in names or ():
        match name:
            case x509.DNSName():
                sans.append(f"DNS:{name.value}")
            case x509.UniformResourceIdentifier():
                sans.append(f"URI:{name.value}")
            case x509.IPAddress():
                sans.append(f"IP:{name.value}")
            case x509.RFC822Name():
                sans.append(f"email:{name.value}")
            case _:
                pass
    return certificate.subject.rfc4514_string(), tuple(sans)
