"""Checks of the HTTP cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from nativelink.config.check_stores import reached
from nativelink.config.problems import Problem, error, warning
from nativelink.config.sections import Sections, Service
from nativelink.config.specs_remote import GrpcStoreSpec
from nativelink.config.specs_services import (
    AcServiceSpec,
    AdminSpec,
    ByteStreamServiceSpec,
    CasServiceSpec,
    HealthSpec,
    HttpCacheSpec,
)
from nativelink.config.specs_stores import SizePartitioningSpec, VerifySpec

__all__ = ["check_http_cache"]

#: What the cache serves below an instance's prefix.
_PATHS: Final = ("/ac", "/cas", "/cache", "/v8/artifacts")


def check_http_cache(sections: Sections) -> Iterator[Problem]:
    """Findings about stores that are missing or one, and about paths that meet other pages."""
    for service in sections.services:
        if isinstance(service.spec, HttpCacheSpec):
            yield from _ac_store(service, service.spec, sections)
            yield from _entries(service, service.spec, sections)
            yield from _paths(service, service.spec, sections)


def _ac_of(service: Service, spec: HttpCacheSpec, sections: Sections) -> str | None:
    """The store of entries; that of the action cache of the same name where none is named."""
    if spec.ac_store is not None:
        return spec.ac_store
    for other in sections.services:
        if (
            isinstance(other.spec, AcServiceSpec)
            and other.server == service.server
            and other.spec.instance_name == spec.instance_name
        ):
            return other.spec.ac_store
    return None


def _entries(service: Service, spec: HttpCacheSpec, sections: Sections) -> Iterator[Problem]:
    """Stores that refuse the keys under which entries are kept that are no results of Bazel's."""
    name = _ac_of(service, spec, sections)
    for inner in () if name is None else reached(sections, name):
        if isinstance(inner, GrpcStoreSpec | SizePartitioningSpec | VerifySpec):
            yield warning(
                service.path if spec.ac_store is None else (*service.path, "ac_store"),
                f'"{name}" contains {inner.KIND}, which takes keys that are digests only: entries '
                "of ccache, sccache, Gradle and Turborepo would be refused",
                hint='name an "ac_store" without it, unless Bazel alone uses this cache',
                at_key=spec.ac_store is None,
            )


def _ac_store(service: Service, spec: HttpCacheSpec, sections: Sections) -> Iterator[Problem]:
    name = spec.ac_store
    if name is None:
        if _ac_of(service, spec, sections) is None:
            yield error(
                service.path,
                f'the server has no ac for the instance "{spec.instance_name}" whose store could '
                "be used",
                hint='set "ac_store"',
                at_key=True,
            )
        return
    for other in sections.services:
        match other.spec:
            case CasServiceSpec(cas_store=blobs) | ByteStreamServiceSpec(cas_store=blobs):
                pass
            case HttpCacheSpec(cas_store=str(blobs)):
                pass
            case _:
                continue
        store = sections.store(name)
        if blobs == name or (store is not None and store is sections.store(blobs)):
            yield error(
                (*service.path, "ac_store"),
                f'the CAS of instance "{other.spec.instance_name}" is the same store',
                got=f'"{name}"',
                hint="entries need one of their own",
            )
            return


def _paths(service: Service, spec: HttpCacheSpec, sections: Sections) -> Iterator[Problem]:
    """A page of the server in the midst of the cache's paths would hide a part of it."""
    prefix = f"/{quote(spec.instance_name)}" if spec.instance_name else ""
    for other in sections.services:
        if not isinstance(other.spec, AdminSpec | HealthSpec) or other.server != service.server:
            continue
        path = other.spec.path
        for taken in _PATHS:
            if path == prefix + taken or path.startswith(f"{prefix}{taken}/"):
                yield error(
                    (*other.path, "path"),
                    f'the HTTP cache of instance "{spec.instance_name}" is at {prefix}{taken}',
                    got=f'"{path}"',
                )
