"""Redis specs to stores."""

from __future__ import annotations

from collections.abc import Sequence

from nativelink.compose.channels import retry_of
from nativelink.config.specs_remote import RedisMode, RedisSpec
from nativelink.core.errors import invalid_argument
from nativelink.stores.remote.redis import RedisStore
from nativelink.stores.remote.redis_address import RedisAddress, parse_address
from nativelink.stores.remote.redis_client import RedisClient, StandardClient
from nativelink.stores.remote.redis_node import Dialing, NodeRecorder

__all__ = ["redis_client", "redis_store"]


def redis_store(spec: RedisSpec, recorder: NodeRecorder | None = None) -> RedisStore:
    """A store that connects when it is first needed; the caller enters and leaves it.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for addresses that are none, or do not fit the mode.
    """
    return RedisStore(
        redis_client(spec, recorder),
        key_prefix=spec.key_prefix,
        channel=spec.experimental_pub_sub_channel,
        read_chunk_size=spec.read_chunk_size,
        max_chunk_uploads=spec.max_chunk_uploads_per_update,
        key_ttl_s=spec.key_ttl_s,
        health_check_timeout_s=spec.health_check_timeout_ms / 1000,
    )


def redis_client(spec: RedisSpec, recorder: NodeRecorder | None = None) -> RedisClient:
    """The connections of a redis_store."""
    addresses = [parse_address(each) for each in spec.addresses]
    first = addresses[0]
    dialing = Dialing(
        first.login,
        connect_timeout_s=spec.connection_timeout_ms / 1000,
        command_timeout_s=spec.command_timeout_ms / 1000,
        connections=spec.connection_pool_size,
        recorder=recorder,
    )
    retry = retry_of(spec.retry)
    permits = spec.max_client_permits
    if spec.mode is RedisMode.SENTINEL:
        from nativelink.stores.remote.redis_sentinel import SentinelClient

        if first.sentinels is None:
            raise invalid_argument(
                "addresses/0: in sentinel mode, an address begins with redis+sentinel://"
            )
        return SentinelClient(
            [each.endpoint for each in addresses],
            dialing,
            sentinel_login=first.sentinels.login,
            service=first.sentinels.service,
            retry=retry,
            max_in_flight=permits,
        )
    _no_sentinels(addresses)
    endpoints = [each.endpoint for each in addresses]
    if spec.mode is RedisMode.CLUSTER:
        from nativelink.stores.remote.redis_cluster import ClusterClient

        if first.login.database:
            raise invalid_argument("addresses/0: a cluster has database 0 only")
        return ClusterClient(endpoints, dialing, retry=retry, max_in_flight=permits)
    if len(endpoints) != 1:
        raise invalid_argument(
            f"addresses: {len(endpoints)} addresses, but mode standard takes exactly one"
        )
    return StandardClient(endpoints[0], dialing, retry=retry, max_in_flight=permits)


def _no_sentinels(addresses: Sequence[RedisAddress]) -> None:
    for index, each in enumerate(addresses):
        if each.sentinels is not None:
            raise invalid_argument(f"addresses/{index}: a sentinel's address needs mode sentinel")
