"""What a store can do besides keeping blobs, and through what that can be had."""

from __future__ import annotations

import asyncio

import json5
import pytest

from nativelink.compose.environment import Environment
from nativelink.compose.stores import StoreBuilder
from nativelink.config import Config
from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.stores.store import write_bytes

#: Nobody listens there, and nobody is asked.
GRPC = 'grpc: { store_type: "cas", endpoints: [{ address: "grpc://127.0.0.1:1" }] }'
MEMORY = "memory: {}"
VERIFY = "verify: {{ verify_size: true, verify_hash: true, backend: {{ {} }} }}"


def builder(spec: str, environment: Environment) -> StoreBuilder:
    text = f"""{{
      stores: [{{ name: "CAS", {spec} }}, {{ name: "ALIAS", ref_store: {{ name: "CAS" }} }}],
      servers: [],
    }}"""
    return StoreBuilder(Config.model_validate(json5.loads(text)).stores, environment)


@pytest.mark.parametrize(
    ("spec", "splits"),
    [
        (GRPC, True),
        (GRPC.replace('"cas"', '"ac"'), False),
        (MEMORY, False),
        (VERIFY.format(GRPC), True),
        (f"existence_cache: {{ backend: {{ {GRPC} }} }}", True),
        (f'cache_metrics: {{ cache_type: "cas", backend: {{ {GRPC} }} }}', True),
        (f"fast_slow: {{ fast: {{ {MEMORY} }}, slow: {{ {GRPC} }} }}", True),
        (f"fast_slow: {{ fast: {{ {GRPC} }}, slow: {{ {MEMORY} }} }}", False),
        # What is put there stays in the fast side, and the slow one does not know it.
        (
            f"fast_slow: {{ fast: {{ {MEMORY} }}, slow: {{ {GRPC} }}, slow_direction: 'get' }}",
            False,
        ),
        # There, other things than blobs have the blobs' names.
        (
            f"compression: {{ compression_algorithm: {{ lz4: {{}} }}, backend: {{ {GRPC} }} }}",
            False,
        ),
        (f"dedup: {{ index_store: {{ {GRPC} }}, content_store: {{ {GRPC} }} }}", False),
        # A blob and its chunks are in different places.
        (f"shard: {{ stores: [{{ store: {{ {GRPC} }} }}] }}", False),
        (
            f"size_partitioning: {{ size: 9, lower_store: {{{GRPC}}}, upper_store: {{{GRPC}}} }}",
            False,
        ),
    ],
)
async def test_an_upstream_splits_where_it_has_blobs_and_chunks(
    environment: Environment, spec: str, splits: bool
) -> None:
    async with environment.lifetimes:
        node = await builder(spec, environment).named("ALIAS")
        assert (node.splitter is not None) is splits


@pytest.mark.parametrize(
    ("spec", "verified"),
    [
        (VERIFY.format(MEMORY), True),
        (VERIFY.format(MEMORY).replace("verify_hash: true, ", ""), False),
        (f"existence_cache: {{ backend: {{ {VERIFY.format(MEMORY)} }} }}", True),
        (f'cache_metrics: {{ cache_type: "cas", backend: {{ {VERIFY.format(MEMORY)} }} }}', True),
        (f"existence_cache: {{ backend: {{ {MEMORY} }} }}", False),
        # Only one of the sides looks.
        (f"fast_slow: {{ fast: {{ {MEMORY} }}, slow: {{ {VERIFY.format(MEMORY)} }} }}", False),
    ],
)
async def test_what_is_checked_below_is_not_checked_twice(
    environment: Environment, spec: str, verified: bool
) -> None:
    assert (await builder(spec, environment).named("ALIAS")).verified is verified


async def test_all_who_transfer_over_a_store_share_its_room(environment: Environment) -> None:
    limited = GRPC.replace("endpoints", "max_concurrent_requests: 3, endpoints")
    stores = builder(f"fast_slow: {{ fast: {{ {limited} }}, slow: {{ {GRPC} }} }}", environment)
    (room,) = stores.rooms("CAS")
    assert stores.rooms("ALIAS") == [room]
    # One of the three requests is left to those that the others wait for.
    async with room, room:
        assert room.locked()
    assert isinstance(room, asyncio.Semaphore)


async def test_a_store_that_takes_one_request_has_no_room(environment: Environment) -> None:
    limited = GRPC.replace("endpoints", "max_concurrent_requests: 1, endpoints")
    stores = builder(VERIFY.format(limited), environment)
    with pytest.raises(NativeLinkError, match="stores/CAS/backend/grpc takes 1 request") as caught:
        stores.rooms("ALIAS")
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_trees_that_were_there_are_forgotten_with_their_parts(
    environment: Environment,
) -> None:
    stores = builder("memory: { eviction_policy: { max_count: 1 } }", environment)
    trees = await stores.trees("CAS")
    assert await stores.trees("CAS") is trees
    root, part, other = (DigestFunction.SHA256.digest_of(data) for data in (b"r", b"p", b"o"))
    cas = (await stores.named("CAS")).store
    await write_bytes(cas, part, b"p")
    with trees.checking(root, b"") as check:
        check.add((part,))
    assert trees.confirms(root, b"")
    await write_bytes(cas, other, b"o")
    assert not trees.confirms(root, b"")
