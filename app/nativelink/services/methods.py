"""Methods of services, named by their descriptors, so that no path or flag can be misspelt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from nativelink.core.rpc import Method, Parse

__all__ = ["method", "service"]


def service(file: FileDescriptor, name: str) -> ServiceDescriptor:
    """The service `name` of a generated module's `DESCRIPTOR`."""
    found: ServiceDescriptor = file.services_by_name[name]
    return found


def method(
    of: ServiceDescriptor,
    name: str,
    handler: Callable[..., Awaitable[Any]],
    *,
    parse: Parse | None = None,
    min_message_bytes: int = 0,
) -> Method:
    """A method as its service's descriptor declares it.

    Args:
        of: the service.
        name: the method's name in it.
        handler: in the shape that the method's streaming flags ask for.
        parse: for the request's bytes; by default the request message's own parser, and for
            streamed requests none.
        min_message_bytes: see `Method`.

    Raises:
        KeyError: the service has no such method.
    """
    declared = of.methods_by_name[name]
    if parse is None:
        parse = (
            bytes if declared.client_streaming else GetMessageClass(declared.input_type).FromString
        )
    return Method(
        path=f"/{of.full_name}/{name}",
        handler=handler,
        parse=parse,
        client_streaming=declared.client_streaming,
        server_streaming=declared.server_streaming,
        min_message_bytes=min_message_bytes,
    )
