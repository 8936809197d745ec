"""What a Redis server answers when it cannot do what it was asked."""

from __future__ import annotations

from typing import Any, Final

from nativelink.core.errors import Code, NativeLinkError

__all__ = [
    "MOVING",
    "TEMPORARY",
    "RefusedReplies",
    "ReplyError",
    "SilentServerError",
    "as_error",
    "refusal",
]

#: First words of answers that another node can do what this one cannot (Redis cluster
#: specification, "Redirection and resharding").
MOVING: Final = frozenset({"MOVED", "ASK"})
#: First words of answers that pass by themselves: a start, a failover, a resharding.
TEMPORARY: Final = frozenset(
    {
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOREPLICAS",
        "READONLY",
        "TRYAGAIN",
        "UNBLOCKED",
    }
)
_CODES: Final = {
    **dict.fromkeys(MOVING | TEMPORARY, Code.UNAVAILABLE),
    "NOAUTH": Code.PERMISSION_DENIED,
    "NOPERM": Code.PERMISSION_DENIED,
    "WRONGPASS": Code.PERMISSION_DENIED,
    "OOM": Code.RESOURCE_EXHAUSTED,
}


class ReplyError(Exception):
    """One answer that is an error.

    Attributes:
        kind: its first word, such as `MOVED` or `ERR`.
        rest: what follows.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.kind, _, self.rest = text.partition(" ")


class SilentServerError(NativeLinkError):
    """UNAVAILABLE: nobody answered for as long as may be waited; another try takes as long."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNAVAILABLE, message)

    def copy(self) -> NativeLinkError:
        other = SilentServerError(self.message)
        other.__cause__ = self
        return other


class RefusedReplies(list[Any]):
    """Answers to commands that were sent together, at least one of them a `ReplyError`."""


def refusal(replies: RefusedReplies) -> NativeLinkError:
    """The first error among answers."""
    return as_error(next(reply for reply in replies if isinstance(reply, ReplyError)))


def as_error(reply: ReplyError, *, who: object = "") -> NativeLinkError:
    """The error that a client gets; `who` says where the server is."""
    if "max number of clients" in reply.rest:
        code = Code.UNAVAILABLE
    else:
        code = _CODES.get(reply.kind, Code.INTERNAL)
    where = f" at {who}" if who else ""
    return NativeLinkError(code, f"Redis{where} answered: {reply}")
