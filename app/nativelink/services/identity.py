"""Who sends a request: the W3C Baggage entry `enduser.id`, where a listener insists on one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final
from urllib.parse import unquote

from nativelink.core.errors import failed_precondition
from nativelink.core.rpc import CallContext, Method

__all__ = ["identity", "requiring_identity"]

_KEY: Final = "enduser.id"


def identity(call: CallContext) -> str:
    """The sender's name, percent-decoded; empty if it was not said (W3C Baggage section 3.2)."""
    for name, value in call.metadata:
        if name != b"baggage":
            continue
        for entry in value.decode("ascii", "replace").split(","):
            key, equals, rest = entry.partition("=")
            if equals and key.strip() == _KEY:
                return unquote(rest.partition(";")[0].strip())
    return ""


def requiring_identity(method: Method) -> Method:
    """The method, answering FAILED_PRECONDITION to whoever does not say who they are."""
    handler = method.handler

    async def checked(request: Any, call: CallContext, *sink: Any) -> Any:
        if not identity(call):
            raise failed_precondition(
                f"this server wants to know who sends a request: the header 'baggage' must hold "
                f"{_KEY}=NAME"
            )
        return await handler(request, call, *sink)

    return replace(method, handler=checked)
