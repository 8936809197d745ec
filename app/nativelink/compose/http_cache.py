"""The HTTP cache of a listener: its instances and their stores."""

from __future__ import annotations

from collections.abc import Sequence

from nativelink.compose.environment import Environment
from nativelink.compose.nodes import Node
from nativelink.compose.stores import StoreBuilder
from nativelink.config.specs_services import HttpCacheSpec, ServicesSpec
from nativelink.core.errors import context, invalid_argument
from nativelink.core.rpc import HttpStreamRoute
from nativelink.stores.store import Store

__all__ = ["cache_routes"]


async def cache_routes(
    spec: ServicesSpec, stores: StoreBuilder, env: Environment, *, requires_identity: bool
) -> Sequence[HttpStreamRoute]:
    """The routes of all instances; what a spec leaves out is taken from the gRPC services.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a store that there is not, or that nothing names.
    """
    if not spec.http_cache:
        return ()
    from nativelink.services.http.instance import HttpCacheInstance
    from nativelink.services.http.routes import http_cache_routes
    from nativelink.telemetry.http_cache import HttpCacheRecorder
    from nativelink.transport.status import http_status_of

    cas_names = {each.instance_name: each.cas_store for each in spec.cas}
    action_caches = {each.instance_name: each for each in spec.ac}
    instances: dict[str, HttpCacheInstance] = {}
    for entry in spec.http_cache:
        name = entry.instance_name
        with context(f"services/http_cache/{name or '(no name)'}"):
            if name in instances:
                raise invalid_argument("the instance stands there twice")
            grpc = action_caches.get(name)
            ac_name = entry.ac_store or (None if grpc is None else grpc.ac_store)
            if ac_name is None:
                raise invalid_argument("no ac_store is named, here or by ac for this instance")
            ac = await stores.named(ac_name)
            cas_name = entry.cas_store or cas_names.get(name)
            cas = None if cas_name is None else await stores.named(cas_name)
            instances[name] = HttpCacheInstance(
                name,
                ac.store,
                None if cas is None else _verified(cas, env),
                ac_finder=ac.finder,
                cas_finder=None if cas is None else cas.finder,
                read_only=_read_only(entry, default=grpc is not None and grpc.read_only),
                default_function=env.digest_function,
            )
    recorder = None
    if env.measured:
        recorder = HttpCacheRecorder(env.registry, status_of=http_status_of)
    return http_cache_routes(
        instances,
        requires_identity=requires_identity,
        recorder=recorder,
        monotonic=env.clock.monotonic,
    )


def _read_only(entry: HttpCacheSpec, *, default: bool) -> bool:
    return default if entry.read_only is None else entry.read_only


def _verified(cas: Node, env: Environment) -> Store:
    """The CAS, refusing what does not have the hash of its name, if it does not do so itself."""
    from nativelink.stores.wrap.verify import VerifyStore

    if cas.verified:
        return cas.store
    return VerifyStore(
        cas.store, verify_size=True, verify_hash=True, default_function=env.digest_function
    )
