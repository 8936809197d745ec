"""Why a server cannot be reached: the way to it once more, step by step.

What grpcio says of a connection that failed is meant for its makers, and a refused certificate
reads there as a server that is down. This goes the same way with the standard library, which knows
where it ends: at the name, at TCP, at TLS, or at HTTP/2.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from nativelink.transport.endpoints import ClientTls, Endpoint
from nativelink.transport.frames import PREFACE, SETTINGS, settings_frame

__all__ = ["Fault", "Obstacle", "client_context", "find_obstacle"]

#: Of each step. Whoever waits has waited for grpcio before.
_TIMEOUT_S: Final = 3.0
#: RFC 9113 section 4.1: three octets of length, then the type, in a head of nine.
_FRAME_HEAD: Final = 9
_TYPE: Final = 3
#: The first octet of a TLS alert (RFC 8446 section 5.1), which plain text is answered with.
_ALERT: Final = b"\x15"
#: OpenSSL's numbers: X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH and
#: _IP_ADDRESS_MISMATCH.
_OUT_OF_DATE: Final = frozenset({9, 10})
_OTHER_NAME: Final = frozenset({62, 64})
#: Alerts that servers answer to a client certificate, or to none, as OpenSSL calls them.
_OF_CLIENTS: Final = frozenset(
    {
        "access denied",
        "bad certificate",
        "certificate expired",
        "certificate required",
        "certificate revoked",
        "certificate unknown",
        "decrypt error",
        "handshake failure",
        "unknown ca",
        "unsupported certificate",
    }
)


class Fault(Enum):
    """Where the way ends."""

    #: The name cannot be looked up.
    NAME = auto()
    #: What is to be trusted or shown is no certificate.
    FILES = auto()
    #: Nobody takes the connection.
    CLOSED = auto()
    #: Nobody answers.
    SILENT = auto()
    #: TLS is asked for, and plain text is spoken.
    PLAIN = auto()
    #: Plain text is asked for, and TLS is spoken.
    TLS = auto()
    #: The server's certificate is of no authority that is trusted.
    UNTRUSTED = auto()
    #: The server's certificate is not valid yet, or no more.
    OUT_OF_DATE = auto()
    #: The server's certificate is for other names.
    OTHER_NAME = auto()
    #: The server does not take the client's certificate, or that it shows none.
    CLIENT = auto()
    #: The server speaks TLS, but refuses this handshake.
    HANDSHAKE = auto()
    #: The server speaks something else than HTTP/2.
    STRANGE = auto()


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands in the way.

    Attributes:
        fault: what a remedy depends on.
        what: the fact as a sentence about the server, without its address.
    """

    fault: Fault
    what: str


def find_obstacle(endpoint: Endpoint, *, timeout_s: float = _TIMEOUT_S) -> Obstacle | None:
    """What stands in the way of a connection to a server; None if nothing does, by now.

    Blocks, for a few times `timeout_s` at most.
    """
    parts = urlsplit(f"//{endpoint.address}")
    way = _Way(parts.hostname or "", parts.port or 0, endpoint.tls, timeout_s)
    try:
        return way.obstacle()
    except (socket.gaierror, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return Obstacle(Fault.NAME, f"the name {way.host!r} cannot be looked up: {why}")
    except TimeoutError:
        return Obstacle(Fault.SILENT, f"nothing answers within {timeout_s:g} s")
    except ConnectionRefusedError:
        return Obstacle(Fault.CLOSED, "nothing listens there")
    except OSError as error:
        return Obstacle(Fault.CLOSED, error.strerror or str(error))


def client_context(tls: ClientTls) -> ssl.SSLContext:
    """TLS as a client of the standard library speaks it, trusting whom the channels do.

    Raises:
        OSError: a file cannot be used; channels say beforehand which.
    """
    trusted = None if tls.use_native_roots or tls.ca_file is None else tls.ca_file
    context = ssl.create_default_context(cafile=trusted)
    # From 3.13 on Python asks more of authorities than grpcio and browsers do.
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


@dataclass(frozen=True, slots=True)
class _Way:
    host: str
    port: int
    tls: ClientTls | None
    timeout_s: float

    def obstacle(self) -> Obstacle | None:
        """See `find_obstacle`.

        Raises:
            OSError: no TCP connection can be had.
        """
        with self._connection() as connection:
            if self.tls is None:
                return self._of_plain_text(connection)
            return self._of_tls(connection, self.tls)

    def _connection(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), self.timeout_s)

    def _of_plain_text(self, connection: socket.socket) -> Obstacle | None:
        try:
            said = _greeting(connection)
        except TimeoutError:
            # Some servers of TLS wait for the rest of what looks like no handshake to them.
            if self._speaks_tls():
                return Obstacle(Fault.TLS, "it speaks TLS")
            raise
        if _is_http2(said):
            return None
        if said.startswith(_ALERT) or (not said and self._speaks_tls()):
            return Obstacle(Fault.TLS, "it speaks TLS")
        return Obstacle(Fault.STRANGE, _strange(said))

    def _of_tls(self, connection: socket.socket, tls: ClientTls) -> Obstacle | None:
        try:
            context = client_context(tls)
        except OSError as error:
            files = " and ".join(str(each) for each in (tls.ca_file, tls.cert_file) if each)
            return Obstacle(Fault.FILES, f"{files} cannot be used: {error}")
        context.set_alpn_protocols(["h2"])
        done = False
        try:
            with context.wrap_socket(connection, server_hostname=self.host) as secure:
                done = True
                if secure.selected_alpn_protocol() != "h2":
                    return Obstacle(Fault.STRANGE, "it speaks TLS, but no HTTP/2 (ALPN)")
                said = _greeting(secure)
        except ssl.SSLCertVerificationError as error:
            return self._of_certificate(error)
        except ssl.SSLError as error:
            if "ALERT" in (error.reason or ""):
                return self._of_alert(error.reason or "", tls)
            said = b""
        except ConnectionError:
            said = b""
        if _is_http2(said):
            return None
        if not done:
            return self._of_no_handshake()
        if said:
            return Obstacle(Fault.STRANGE, _strange(said))
        # TLS 1.3 tells clients only after their handshake, and the alert may be lost.
        return Obstacle(Fault.CLIENT, "it ends the connection after the TLS handshake")

    def _of_no_handshake(self) -> Obstacle:
        with self._connection() as plain, contextlib.suppress(OSError):
            if _is_http2(_greeting(plain)):
                return Obstacle(Fault.PLAIN, "it speaks plain text, not TLS")
        return Obstacle(Fault.STRANGE, "it does not speak TLS")

    def _of_certificate(self, error: ssl.SSLCertVerificationError) -> Obstacle:
        if error.verify_code in _OTHER_NAME:
            names = ", ".join(self._names()) or "no name at all (subjectAltName)"
            return Obstacle(
                Fault.OTHER_NAME, f"its certificate is for {names}, and not for {self.host}"
            )
        if error.verify_code in _OUT_OF_DATE:
            return Obstacle(
                Fault.OUT_OF_DATE, f"its certificate cannot be used: {error.verify_message}"
            )
        return Obstacle(Fault.UNTRUSTED, f"its certificate is not trusted: {error.verify_message}")

    def _of_alert(self, reason: str, tls: ClientTls) -> Obstacle:
        alert = reason.partition("ALERT_")[2].lower().replace("_", " ")
        if alert not in _OF_CLIENTS:
            return Obstacle(Fault.HANDSHAKE, f"it refuses the TLS handshake ({alert})")
        if tls.cert_file is None:
            return Obstacle(Fault.CLIENT, f"it asks for a client certificate ({alert})")
        return Obstacle(
            Fault.CLIENT, f"it refuses the client certificate {tls.cert_file} ({alert})"
        )

    def _unverified(self) -> ssl.SSLContext:
        """Only to look at a server; nothing is said to it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    def _speaks_tls(self) -> bool:
        try:
            with self._connection() as plain:
                self._unverified().wrap_socket(plain, server_hostname=self.host).close()
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")
        except OSError:
            return False
        return True

    def _names(self) -> list[str]:
        """Whom the server's certificate is for."""
        try:
            with (
                self._connection() as plain,
                self._unverified().wrap_socket(plain, server_hostname=self.host) as secure,
            ):
                der = secure.getpeercert(binary_form=True)
            extensions = x509.load_der_x509_certificate(der or b"").extensions
            names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, x509.ExtensionNotFound):
            # A certificate of another kind, or none without one of ours (TLS 1.2).
            return []
        addresses = names.get_values_for_type(x509.IPAddress)
        return [*names.get_values_for_type(x509.DNSName), *map(str, addresses)]


def _greeting(connection: socket.socket) -> bytes:
    """The first octets of a server that is greeted as HTTP/2 greets (RFC 9113 section 3.4)."""
    # Who has hung up already may have said why before.
    with contextlib.suppress(OSError):
        connection.sendall(PREFACE + settings_frame({}))
    said = b""
    with contextlib.suppress(ConnectionError):
        while len(said) < _FRAME_HEAD:
            more = connection.recv(_FRAME_HEAD - len(said))
            if not more:
                break
            said += more
    return said


def _is_http2(said: bytes) -> bool:
    """Whether a server began as it must: with its settings."""
    return len(said) == _FRAME_HEAD and said[_TYPE] == SETTINGS


def _strange(said: bytes) -> str:
    if said.startswith(b"HTTP/1"):
        return "it speaks HTTP/1, and gRPC needs HTTP/2"
    return "it does not speak HTTP/2" if said else "it ends the connection at once"
