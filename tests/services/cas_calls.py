"""Calls of a CAS service that a test has over a store of its own."""

from __future__ import annotations

import pytest

from nativelink.core.digest import Digest, DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.cas import CasInstance, CasService
from nativelink.stores.store import DelegatingStore, write_bytes
from nativelink.testing.calls import Caller
from nativelink.testing.fakes import DictStore

SHA256 = DigestFunction.SHA256


async def stored(store: DictStore, *blobs: bytes) -> list[Digest]:
    digests = [SHA256.digest_of(data) for data in blobs]
    for digest, data in zip(digests, blobs, strict=True):
        await write_bytes(store, digest, data)
    return digests


def caller(store: DictStore | DelegatingStore, **settings: int) -> Caller:
    return Caller(
        CasService({"": CasInstance(store), "a/b": CasInstance(DictStore())}, **settings).methods()
    )


def code_of(raised: pytest.ExceptionInfo[NativeLinkError]) -> Code:
    return raised.value.code
