"""Settings of one part that follow from those of another."""

from __future__ import annotations

from typing import TypeVar

from nativelink.config.fields import Spec
from nativelink.config.sections import walk_specs
from nativelink.config.specs import Config
from nativelink.config.specs_remote import GrpcStoreSpec, StoreType

__all__ = ["resolve"]

_Spec = TypeVar("_Spec", bound=Spec)


def resolve(config: Config) -> Config:
    """`config` with `experimental_remote_cache_compression` of every upstream decided.

    One place that turns compressed transfers on (a capabilities service, or an upstream CAS) turns
    them on for every upstream CAS that says nothing itself, as in NativeLink v1.6.6.
    """
    upstream = [
        spec
        for store in config.stores
        for _, spec in walk_specs(store.spec, ())
        if isinstance(spec, GrpcStoreSpec)
    ]
    if not upstream:
        return config
    wanted = any(
        entry.remote_cache_compression
        for server in config.servers
        for entry in server.services.capabilities
    ) or any(
        spec.store_type is StoreType.CAS and spec.experimental_remote_cache_compression
        for spec in upstream
    )
    stores = tuple(_decide(store, default=wanted) for store in config.stores)
    return config.model_copy(update={"stores": stores})


def _decide(spec: _Spec, *, default: bool) -> _Spec:
    changed: dict[str, object] = {}
    if isinstance(spec, GrpcStoreSpec):
        chosen = spec.experimental_remote_cache_compression
        on = spec.store_type is StoreType.CAS and (default if chosen is None else chosen)
        changed["experimental_remote_cache_compression"] = on
    for name, value in spec:
        if isinstance(value, Spec):
            changed[name] = _decide(value, default=default)
        elif isinstance(value, tuple) and any(isinstance(item, Spec) for item in value):
            changed[name] = tuple(
                _decide(item, default=default) if isinstance(item, Spec) else item for item in value
            )
    return spec.model_copy(update=changed) if changed else spec
