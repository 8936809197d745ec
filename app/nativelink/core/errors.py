"""The one error of this program, its codes, and context that reads as a path.

Every failure that may reach a client is a `NativeLinkError` with a gRPC status code; the
transport turns it into `grpc-status`, `grpc-message` and `grpc-status-details-bin` in one place.
Foreign exceptions become ours in the module that calls the library.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from nativelink.core.digest import Digest

__all__ = [
    "BadField",
    "Code",
    "Detail",
    "MissingBlob",
    "NativeLinkError",
    "already_exists",
    "context",
    "failed_precondition",
    "internal",
    "invalid_argument",
    "missing_blob",
    "not_found",
    "out_of_range",
    "permission_denied",
    "resource_exhausted",
    "unavailable",
    "unimplemented",
]


class Code(IntEnum):
    """gRPC status codes (google.rpc.Code)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_TEMPORARY: Final = frozenset({Code.UNAVAILABLE, Code.ABORTED, Code.RESOURCE_EXHAUSTED})


class MissingBlob(NamedTuple):
    """A blob that a call needs and the CAS lacks.

    Becomes a `google.rpc.PreconditionFailure` violation of type MISSING with the subject
    `blobs/{segment}{hash}/{size}` (REAPI v2, Execution.Execute) where the code is
    FAILED_PRECONDITION.

    Attributes:
        digest: its name.
        segment: `DigestFunction.segment` of the function that made it, as far as that is known.
    """

    digest: Digest
    segment: str = ""


class BadField(NamedTuple):
    """A part of a request that is wrong.

    Becomes a `google.rpc.BadRequest` violation where the code is INVALID_ARGUMENT.

    Attributes:
        field: its path in the request, such as `qualifiers.name`.
        description: what is wrong with it.
    """

    field: str
    description: str


#: Typed details; a union, so that a type checker finds who does not know all of them.
Detail: TypeAlias = MissingBlob | BadField


class NativeLinkError(Exception):
    """A failure with a gRPC code.

    Args:
        code: what the client is told.
        message: what failed, the value got, what is allowed; never parsed by anyone.
        details: typed facts for `grpc-status-details-bin`.
        retryable: whether the same call may succeed later; by default decided by the code.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        details: Sequence[Detail] = (),
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = tuple(details)
        self.retryable = code in _TEMPORARY if retryable is None else retryable

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"NativeLinkError({self.code.name}, {self.message!r})"

    def copy(self) -> NativeLinkError:
        """The same failure for somebody else who waited for it.

        `context` changes the error that passes through it, so no two callers may share one.
        """
        other = NativeLinkError(
            self.code, self.message, details=self.details, retryable=self.retryable
        )
        other.__cause__ = self
        return other


@contextmanager
def context(what: str) -> Generator[None, None, None]:
    """Prefix the message of an error that passes through; the code stays.

    Not for hot paths: there, catch `NativeLinkError` where it is to be named.
    """
    try:
        yield
    except NativeLinkError as error:
        error.message = f"{what}: {error.message}"
        raise


def invalid_argument(message: str, *, details: Sequence[Detail] = ()) -> NativeLinkError:
    """The request is wrong whatever the server's state."""
    return NativeLinkError(Code.INVALID_ARGUMENT, message, details=details)


def not_found(message: str) -> NativeLinkError:
    """The named thing does not exist."""
    return NativeLinkError(Code.NOT_FOUND, message)


class _MissingBlobError(NativeLinkError):
    """NOT_FOUND of a blob.

    Half of a cache's answers may be this, and most are caught on the way (by the other tier, by
    the action cache), so its text and its detail are made when somebody reads them.
    """

    code = Code.NOT_FOUND
    retryable = False

    def __init__(self, digest: Digest) -> None:
        # The base's constructors are not called: each costs as much as all of this.
        self._digest = digest
        self._message: str | None = None
        self._details: tuple[Detail, ...] | None = None

    @property
    def message(self) -> str:
        if self._message is None:
            self._message = f"blob {self._digest} not found"
        return self._message

    @message.setter
    def message(self, text: str) -> None:
        self._message = text

    @property
    def details(self) -> tuple[Detail, ...]:
        if self._details is None:
            self._details = (MissingBlob(self._digest),)
        return self._details

    @details.setter
    def details(self, details: tuple[Detail, ...]) -> None:
        self._details = details


def missing_blob(digest: Digest) -> NativeLinkError:
    """NOT_FOUND of a blob, with the digest as a typed detail."""
    return _MissingBlobError(digest)


def already_exists(message: str) -> NativeLinkError:
    """A name is taken."""
    return NativeLinkError(Code.ALREADY_EXISTS, message)


def permission_denied(message: str) -> NativeLinkError:
    """The caller may not do this."""
    return NativeLinkError(Code.PERMISSION_DENIED, message)


def resource_exhausted(message: str) -> NativeLinkError:
    """A quota or the disk is used up."""
    return NativeLinkError(Code.RESOURCE_EXHAUSTED, message)


def failed_precondition(message: str, *, details: Sequence[Detail] = ()) -> NativeLinkError:
    """The system is not in the state that the call needs."""
    return NativeLinkError(Code.FAILED_PRECONDITION, message, details=details)


def out_of_range(message: str) -> NativeLinkError:
    """A position beyond the end of a blob."""
    return NativeLinkError(Code.OUT_OF_RANGE, message)


def unimplemented(message: str) -> NativeLinkError:
    """A method or option that this server does not have."""
    return NativeLinkError(Code.UNIMPLEMENTED, message)


def internal(message: str) -> NativeLinkError:
    """A defect of ours."""
    return NativeLinkError(Code.INTERNAL, message)


def unavailable(message: str) -> NativeLinkError:
    """Try again later, perhaps elsewhere."""
    return NativeLinkError(Code.UNAVAILABLE, message)
