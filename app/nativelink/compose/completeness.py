"""What a completeness_checking store may remember, by what its CAS is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from nativelink.config.sections import walk_specs
from nativelink.config.specs_cloud import ObjectStoreSpec, OntapExistenceCacheSpec
from nativelink.config.specs_remote import RedisSpec
from nativelink.config.specs_stores import (
    CompletenessCheckingSpec,
    FilesystemSpec,
    MemorySpec,
    RefSpec,
    StoreSpec,
)
from nativelink.telemetry.meter import Observation, Registry
from nativelink.telemetry.metrics import STORE_COMPLETENESS_CHECKS

if TYPE_CHECKING:
    from nativelink.stores.wrap.verdicts import Verdicts

__all__ = ["checked_names", "observe_verdicts", "remembered_s"]

#: How long a result that was complete is taken to be so. A build asks for a result once; the
#: builds of colleagues, of CI and of the next edit follow within this time. What deletes blobs
#: without telling us (a bucket's lifecycle rule, another server's eviction) takes the oldest.
_REMEMBERED_S: Final = 60.0


def remembered_s(cas: StoreSpec, stores: Mapping[str, StoreSpec]) -> float:
    """Seconds for which a result counts as complete: well below the life of anything in the CAS.

    Args:
        cas: the spec of the CAS.
        stores: what references in it mean.
    """
    return min([_REMEMBERED_S, *(life / 4 for life in _lives(cas, stores) if life)])


def checked_names(stores: Mapping[str, StoreSpec]) -> set[str]:
    """Names of the stores that a completeness_checking store looks into."""
    return {
        spec.cas_store.name
        for store in stores.values()
        for _, spec in walk_specs(store, ())
        if isinstance(spec, CompletenessCheckingSpec) and isinstance(spec.cas_store, RefSpec)
    }


def observe_verdicts(registry: Registry, path: str, verdicts: Verdicts) -> None:
    """Let it be seen what remembering is worth."""

    def checks() -> Iterator[Observation]:
        now = verdicts.statistics()
        yield (path, "remembered"), now.confirmed
        yield (path, "checked"), now.checked
        yield (path, "revoked"), now.revoked

    registry.observe(STORE_COMPLETENESS_CHECKS, checks)


def _lives(store: StoreSpec, stores: Mapping[str, StoreSpec]) -> Iterator[int]:
    """After how many seconds blobs leave the parts of a store because of their age; 0: never."""
    for _, spec in walk_specs(store, ()):
        match spec:
            case MemorySpec() | FilesystemSpec():
                if spec.eviction_policy is not None:
                    yield spec.eviction_policy.max_seconds
            case ObjectStoreSpec():
                yield spec.consider_expired_after_s
            case OntapExistenceCacheSpec():
                yield spec.backend.consider_expired_after_s
            case RedisSpec():
                yield spec.key_ttl_s
            case RefSpec() if spec.name in stores:
                yield from _lives(stores[spec.name], stores)
            case _:
                pass
