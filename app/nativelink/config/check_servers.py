"""Checks of listeners and of the services that they offer together."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Final

from nativelink.config.check_files import missing_file
from nativelink.config.problems import Path, Problem, error, warning
from nativelink.config.sections import Sections, Service
from nativelink.config.specs_common import split_address
from nativelink.config.specs_servers import TlsSpec
from nativelink.config.specs_services import (
    AcServiceSpec,
    AdminSpec,
    CapabilitiesServiceSpec,
    CasServiceSpec,
    HealthSpec,
    InstanceSpec,
)

__all__ = ["check_servers"]

#: What clients use; `worker_api` and what only operators see is not among it.
_PUBLIC: Final = frozenset(
    {"cas", "ac", "capabilities", "execution", "bytestream", "fetch", "push", "experimental_bep"}
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
        yield from _same_store(services, sections)
        yield from _http_paths(services)
        yield from _worker_api(services)
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
    return _host(one) == _host(other) or _is_any(one) or _is_any(other)


def _host(text: str) -> str:
    return "127.0.0.1" if text == "localhost" else text


def _is_any(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def _tls(path: Path, tls: TlsSpec) -> Iterator[Problem]:
    for key in ("cert_file", "key_file", "client_ca_file", "client_crl_file"):
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


def _same_store(services: list[Service], sections: Sections) -> Iterator[Problem]:
    """A CAS and an action cache in one store would overwrite each other's entries."""
    cas = {
        service.spec.instance_name: service.spec.cas_store
        for service in services
        if isinstance(service.spec, CasServiceSpec)
    }
    for service in services:
        if not isinstance(service.spec, AcServiceSpec):
            continue
        cas_store = cas.get(service.spec.instance_name)
        if cas_store is None:
            continue
        same = cas_store == service.spec.ac_store
        if not same:
            one, other = sections.store(cas_store), sections.store(service.spec.ac_store)
            same = one is not None and one is other
        if same:
            yield error(
                (*service.path, "ac_store"),
                f'the CAS of instance "{service.spec.instance_name}" is the same store',
                got=f'"{service.spec.ac_store}"',
                hint="an action cache needs one of its own",
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
    for service in sections.services:
        if not isinstance(service.spec, CasServiceSpec):
            continue
        chunking = service.spec.experimental_chunking
        if chunking is not None and not smallest <= chunking.avg_chunk_size_bytes <= largest:
            yield error(
                (*service.path, "experimental_chunking", "avg_chunk_size_bytes"),
                "chunks of this size are not supported",
                got=str(chunking.avg_chunk_size_bytes),
                allowed=f"{smallest} to {largest} bytes",
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
