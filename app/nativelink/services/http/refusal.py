"""Answers of HTTP that no gRPC code stands for."""

from __future__ import annotations

from nativelink.core.rpc import HttpResponse

__all__ = ["RefusedError", "not_allowed"]


class RefusedError(Exception):
    """Ends a request with an HTTP status of its own.

    Args:
        status: an HTTP status.
        message: what was wrong, and what is allowed, in one line.
        headers: further fields of the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.response = HttpResponse(status, f"{message}\n".encode(), headers=headers or {})


def not_allowed(method: str, allowed: str) -> RefusedError:
    """405: the method is none of those that this path takes."""
    return RefusedError(
        405, f"method {method[:20]} is not allowed here; {allowed} are", {"allow": allowed}
    )
