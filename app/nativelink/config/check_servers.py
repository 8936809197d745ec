"""Checks of listeners and of the services that they offer together."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Final

from nativelink.config.check_files import certificate_pair, missing_file
from nativelink.config.in_flight import LEAST_REQUESTS, limited_stores
from nativelink.config.problems import Path, Problem, error, warning
from nativelink.config.sections import Sections, Service
from nativelink.config.specs_common import split_address
from nativelink.config.specs_servers import TlsSpec
from nativelink.config.specs_services import (
    AcServiceSpec,
    AdminSpec,
    ByteStreamServiceSpec,
    CapabilitiesServiceSpec,
    CasServiceSpec,
    HealthSpec,
    InstanceSpec,
)

__all__ = ["check_servers"]

#: What clients use; `worker_api` and what only operators see is not among it.
_PUBLIC: Final = frozenset(
    {"cas", "ac", "capabilities", "execution", "bytestream", "fetch", "push", "http_cache"}
    | {"experimental_bep"}
)
_CHUNK_RANGE: Final = (1024, 1024 * 1024)


def check_servers(sections: Sections) -> Iterator[Problem]:
    """Findings about addresses, TLS, instances and services that do not go together."""
    yield from _addresses(sections)
    for listener in sections.listeners:
        if listener.spec.tls is not None:
            yield from _tls((*listener.path, "tls"), listener.spec.tls)
    by_server: dict[Path, list[Service]] = {path: [] for path in sections.servers}
    for service in sections.services:
        by_server["servers", service.server].append(service)
    for path, services in by_server.items():
        if sections.complete and not services:
            yield warning((*path, "services"), "the server offers nothing")
        yield from _instances(services)
        yield from _http_paths(services)
        yield from _worker_api(services)
    yield from _same_store(sections)
    yield from _two_stores(sections)
    yield from _chunking(sections)
    if sections.complete:
        yield from _what_bazel_needs(sections)


def _addresses(sections: Sections) -> Iterator[Problem]:
    """Two listeners cannot have one port, unless their addresses differ and none means all."""
    taken: list[tuple[str, int, Path]] = []
    wanted = [
        (listener.spec.socket_address, (*listener.path, "socket_address"))
        for listener in sections.listeners
    ]
    global_ = sections.global_
    if global_ is not None and global_.spec.metrics.prometheus is not None:
        wanted.append(
            (
                global_.spec.metrics.prometheus.listen_address,
                (*global_.path, "metrics", "prometheus", "listen_address"),
            )
        )
    for address, path in wanted:
        host, port = split_address(address)
        for other_host, other_port, other in taken:
            if port and port == other_port and _overlap(host, other_host):
                yield error(
                    path,
                    f"{other[0]}[{other[1]}] listens on this address already",
                    got=f'"{address}"',
                )
                break
        taken.append((host, port, path))


def _overlap(one: str, other: str) -> bool:
    one_ip, other_ip = ipaddress.ip_address(one), ipaddress.ip_address(other)
    return one_ip == other_ip or one_ip.is_unspecified or other_ip.is_unspecified


def _tls(path: Path, tls: TlsSpec) -> Iterator[Problem]:
    yield from certificate_pair(path, tls.cert_file, tls.key_file)
    for key in ("client_ca_file", "client_crl_file"):
        yield from missing_file((*path, key), getattr(tls, key))
    if tls.client_crl_file is not None and tls.client_ca_file is None:
        yield error(
            (*path, "client_crl_file"),
            "nothing can be revoked while clients need no certificate",
            hint='set "client_ca_file"',
            at_key=True,
        )


def _instances(services: list[Service]) -> Iterator[Problem]:
    seen: set[tuple[str, str]] = set()
    for service in services:
        if isinstance(service.spec, InstanceSpec):
            name = service.spec.instance_name
            if (service.key, name) in seen:
                yield error(
                    (*service.path, "instance_name"),
                    f'{service.key} has an instance "{name}" already',
                )
            seen.add((service.key, name))
            yield from _unreachable(service, name)


def _same_store(sections: Sections) -> Iterator[Problem]:
    """A CAS and an action cache in one store would overwrite each other's entries.

    Whatever their instances and servers are: both kinds of entries have digests as keys.
    """
    blobs = [
        (service.spec.instance_name, service.spec.cas_store)
        for service in sections.services
        if isinstance(service.spec, CasServiceSpec | ByteStreamServiceSpec)
    ]
    for service in sections.services:
        if not isinstance(service.spec, AcServiceSpec):
            continue
        own, store = service.spec.instance_name, service.spec.ac_store
        same = [name for name, other in blobs if _one_store(store, other, sections)]
        if same:
            yield error(
                (*service.path, "ac_store"),
                f'the CAS of instance "{own if own in same else same[0]}" is the same store',
                got=f'"{store}"',
                hint="an action cache needs one of its own",
            )


def _two_stores(sections: Sections) -> Iterator[Problem]:
    """Small blobs come by the CAS, large ones by the byte stream; both look for either."""
    cas = {
        service.spec.instance_name: service.spec.cas_store
        for service in sections.services
        if isinstance(service.spec, CasServiceSpec)
    }
    for service in sections.services:
        if not isinstance(service.spec, ByteStreamServiceSpec):
            continue
        name, store = service.spec.instance_name, service.spec.cas_store
        other = cas.get(name, store)
        known = sections.store(store) is not None and sections.store(other) is not None
        if known and not _one_store(store, other, sections):
            yield warning(
                (*service.path, "cas_store"),
                f'the CAS of instance "{name}" is another store, "{other}": blobs that are written '
                "to one are missing in the other, unless they have a store in common",
            )


def _one_store(one: str, other: str, sections: Sections) -> bool:
    """Whether two names stand for the same store."""
    found = sections.store(one)
    return one == other or (found is not None and found is sections.store(other))


def _unreachable(service: Service, name: str) -> Iterator[Problem]:
    """ByteStream's names of blobs are made of instance names, and not all can be told apart."""
    *_, kind, _ = ("", *name.split("/")) if name else ("", "")
    if service.key == "bytestream" and (name.startswith("/") or kind == "uploads"):
        yield warning(
            (*service.path, "instance_name"),
            f'no client can read from an instance "{name}": names of its blobs read as others',
            hint='it may not begin with "/", nor have "uploads" as the last part but one',
        )


def _http_paths(services: list[Service]) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for service in services:
        if not isinstance(service.spec, AdminSpec | HealthSpec):
            continue
        path = service.spec.path
        place = (*service.path, "path")
        if not path.startswith("/"):
            yield error(place, "a path begins with /", got=f'"{path}"', hint=f'write "/{path}"')
        elif path in taken:
            yield error(place, f"{taken[path]} is at this path already", got=f'"{path}"')
        taken[path] = service.key


def _worker_api(services: list[Service]) -> Iterator[Problem]:
    public = sorted({service.key for service in services} & _PUBLIC)
    for service in services:
        if service.key == "worker_api" and public:
            yield warning(
                service.path,
                f"clients of {', '.join(public)} can reach the worker API on this listener and "
                "act as workers",
                hint="give it a listener of its own",
                at_key=True,
            )


def _chunking(sections: Sections) -> Iterator[Problem]:
    smallest, largest = _CHUNK_RANGE
    taken = [
        service.spec.ac_store if isinstance(service.spec, AcServiceSpec) else service.spec.cas_store
        for service in sections.services
        if isinstance(service.spec, CasServiceSpec | ByteStreamServiceSpec | AcServiceSpec)
    ]
    for service in sections.services:
        if not isinstance(service.spec, CasServiceSpec):
            continue
        chunking = service.spec.experimental_chunking
        if chunking is None:
            continue
        path = (*service.path, "experimental_chunking")
        size = chunking.avg_chunk_size_bytes
        if not smallest <= size <= largest:
            yield error(
                (*path, "avg_chunk_size_bytes"),
                "chunks of this size are not supported",
                got=str(size),
                allowed=f"{smallest} to {largest} bytes",
            )
        elif size & (size - 1):
            yield warning(
                (*path, "avg_chunk_size_bytes"),
                f"Bazel takes powers of two only: it cuts chunks of 512 KiB instead of {size} "
                "bytes, and has none in common with other clients",
            )
        yield from _requests(service.spec.cas_store, path, sections)
        index = chunking.index_store
        if index is not None and any(_one_store(index, name, sections) for name in taken):
            yield error(
                (*path, "index_store"),
                "the store of a CAS or an action cache: a list of chunks stands under its blob's "
                "digest, and would replace what is there",
                hint="name a store of its own, or none",
            )


def _requests(name: str, path: Path, sections: Sections) -> Iterator[Problem]:
    """A CAS over a store whose only request at a time would wait for itself."""
    stores = {entry.name: entry.spec for entry in sections.stores}
    spec = stores.get(name)
    if spec is None:
        return
    for place, bound in limited_stores(spec, (name,), stores):
        if bound < LEAST_REQUESTS:
            yield error(
                path,
                f"stores/{'/'.join(map(str, place))} takes one request at a time, and one "
                "transfers a blob while others transfer its chunks",
                hint=f"let it take {LEAST_REQUESTS} or more",
                at_key=True,
            )


def _what_bazel_needs(sections: Sections) -> Iterator[Problem]:
    """An instance that Bazel could not use, because a service for it is on no server."""
    offered: dict[str, dict[str, Service]] = {}
    for service in sections.services:
        if isinstance(service.spec, InstanceSpec):
            offered.setdefault(service.spec.instance_name, {}).setdefault(service.key, service)
    for name, services in offered.items():
        yield from _missing_services(name, services)


def _missing_services(name: str, services: Mapping[str, Service]) -> Iterator[Problem]:
    cas = services.get("cas")
    if cas is not None:
        for key, why in (
            ("capabilities", "Bazel asks for it first"),
            ("bytestream", "Bazel transfers large blobs through it"),
        ):
            if key not in services:
                yield warning(cas.path, f'no server offers {key} for the instance "{name}": {why}')
    execution, capabilities = services.get("execution"), services.get("capabilities")
    if (
        execution is not None
        and capabilities is not None
        and isinstance(capabilities.spec, CapabilitiesServiceSpec)
        and capabilities.spec.remote_execution is None
    ):
        yield warning(
            capabilities.path,
            f'the instance "{name}" has execution, but does not announce it',
            hint='set "remote_execution"',
        )
