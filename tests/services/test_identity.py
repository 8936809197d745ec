"""Who sends a request, by W3C Baggage."""

from typing import Any

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.rpc import CallContext, Method, Peer
from nativelink.services.identity import identity, requiring_identity


def call(*headers: tuple[bytes, bytes]) -> CallContext:
    return CallContext("/s/M", headers, Peer("test:1"))


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ((), ""),
        (((b"baggage", b"enduser.id=alice"),), "alice"),
        (((b"baggage", b"a=b, enduser.id = a%20b ;prop=1"),), "a b"),
        (((b"baggage", b"a=b"), (b"baggage", b"enduser.id=bob")), "bob"),
        (((b"baggage", b"enduser.id"),), ""),
        (((b"baggage", b"xenduser.id=bob"),), ""),
    ],
)
def test_the_identity_is_the_baggage_entry_enduser_id(headers: Any, name: str):
    assert identity(call(*headers)) == name


async def test_a_method_that_requires_an_identity_refuses_who_has_none():
    async def answer(request: bytes, context: CallContext) -> bytes:
        return request

    method = requiring_identity(Method("/s/M", answer))
    assert await method.handler(b"x", call((b"baggage", b"enduser.id=alice"))) == b"x"
    with pytest.raises(NativeLinkError) as refused:
        await method.handler(b"x", call())
    assert refused.value.code is Code.FAILED_PRECONDITION


async def test_streams_reach_the_handler_unchanged():
    seen: list[Any] = []

    async def stream(source: Any, context: CallContext, sink: Any) -> None:
        seen.extend((source, sink))

    method = Method("/s/M", stream, client_streaming=True, server_streaming=True)
    wrapped = requiring_identity(method)
    assert (wrapped.client_streaming, wrapped.server_streaming) == (True, True)
    await wrapped.handler("source", call((b"baggage", b"enduser.id=alice")), "sink")
    assert seen == ["source", "sink"]
