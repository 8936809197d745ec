from __future__ import annotations

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from nativelink.services.capabilities import CapabilitiesInstance, CapabilitiesService
from nativelink.services.limits import MAX_BATCH_TOTAL_SIZE_BYTES
from nativelink.testing.calls import Caller

SHA256, BLAKE3 = pb.DigestFunction.SHA256, pb.DigestFunction.BLAKE3


async def ask(service: CapabilitiesService, instance: str = "") -> pb.ServerCapabilities:
    return await Caller(service.methods()).unary(
        "GetCapabilities",
        pb.GetCapabilitiesRequest(instance_name=instance),
        pb.ServerCapabilities,
    )


async def test_a_cache_says_what_it_can_do() -> None:
    answer = await ask(CapabilitiesService({"": CapabilitiesInstance(action_cache_updates=True)}))
    assert (answer.low_api_version.major, answer.low_api_version.minor) == (2, 0)
    assert (answer.high_api_version.major, answer.high_api_version.minor) == (2, 3)
    assert not answer.HasField("deprecated_api_version")
    assert not answer.HasField("execution_capabilities")
    cache = answer.cache_capabilities
    assert list(cache.digest_functions) == [SHA256, BLAKE3]
    assert cache.action_cache_update_capabilities.update_enabled
    assert cache.max_batch_total_size_bytes == MAX_BATCH_TOTAL_SIZE_BYTES == 4 * 2**20 - 65536
    assert cache.symlink_absolute_path_strategy == pb.SymlinkAbsolutePathStrategy.ALLOWED
    assert not cache.supported_compressors
    assert not cache.split_blob_support


async def test_a_read_only_action_cache_takes_no_updates() -> None:
    service = CapabilitiesService({"": CapabilitiesInstance(action_cache_updates=False)})
    cache = (await ask(service)).cache_capabilities
    assert cache.HasField("action_cache_update_capabilities")
    assert not cache.action_cache_update_capabilities.update_enabled


async def test_a_scheduler_means_execution() -> None:
    known = ["cpu_count", "OSFamily"]
    service = CapabilitiesService(
        {"": CapabilitiesInstance(action_cache_updates=True, platform_properties=known.copy)}
    )
    execution = (await ask(service)).execution_capabilities
    assert execution.exec_enabled
    assert execution.digest_function == SHA256
    assert list(execution.digest_functions) == [SHA256, BLAKE3]
    node_properties = ["mtime", "unix_mode"]
    assert list(execution.supported_node_properties) == [*node_properties, *known]
    (priorities,) = execution.execution_priority_capabilities.priorities
    assert (priorities.min_priority, priorities.max_priority) == (0, 2**31 - 1)
    known.append("gpu")
    execution = (await ask(service)).execution_capabilities
    assert list(execution.supported_node_properties) == [*node_properties, *known]


async def test_the_default_digest_function_comes_first() -> None:
    service = CapabilitiesService(
        {"": CapabilitiesInstance(action_cache_updates=True, platform_properties=list)},
        default_function=DigestFunction.BLAKE3,
        max_batch_total_size_bytes=1234,
    )
    answer = await ask(service)
    assert list(answer.cache_capabilities.digest_functions) == [BLAKE3, SHA256]
    assert answer.execution_capabilities.digest_function == BLAKE3
    assert answer.cache_capabilities.max_batch_total_size_bytes == 1234


async def test_a_mistyped_instance_is_told_the_right_ones() -> None:
    instance = CapabilitiesInstance(action_cache_updates=True)
    service = CapabilitiesService({"main": instance, "ci/linux": instance})
    with pytest.raises(NativeLinkError, match=r"'mian'.*instances: 'ci/linux', 'main'") as raised:
        await ask(service, "mian")
    assert raised.value.code is Code.NOT_FOUND
