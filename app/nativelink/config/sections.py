"""The valid parts of a configuration, each by itself, for checks that span several parts.

A file with one wrong value still gets every other part cross-checked, because the parts are
validated one by one here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pydantic import ValidationError

from nativelink.config.choices import Named
from nativelink.config.fields import Spec
from nativelink.config.problems import Path
from nativelink.config.specs import GlobalSpec, OriginEventsSpec
from nativelink.config.specs_schedulers import NamedScheduler
from nativelink.config.specs_servers import HttpListenerSpec
from nativelink.config.specs_services import (
    AcServiceSpec,
    AdminSpec,
    BepSpec,
    ByteStreamServiceSpec,
    CapabilitiesServiceSpec,
    CasServiceSpec,
    ExecutionServiceSpec,
    FetchServiceSpec,
    HealthSpec,
    HttpCacheSpec,
    PushServiceSpec,
    WorkerApiSpec,
)
from nativelink.config.specs_stores import NamedStore, RefSpec, ShardItemSpec
from nativelink.config.specs_workers import LocalWorkerSpec

__all__ = [
    "Entry",
    "Part",
    "Sections",
    "Service",
    "inner_specs",
    "sections_of",
    "walk_specs",
]

_Spec = TypeVar("_Spec", bound=Spec)
_Named = TypeVar("_Named", NamedStore, NamedScheduler)

#: The services of a server, by their keys; those of `_LISTS` have an entry for each instance.
_SERVICES: Final[Mapping[str, type[Spec]]] = {
    "cas": CasServiceSpec,
    "ac": AcServiceSpec,
    "capabilities": CapabilitiesServiceSpec,
    "execution": ExecutionServiceSpec,
    "bytestream": ByteStreamServiceSpec,
    "fetch": FetchServiceSpec,
    "push": PushServiceSpec,
    "http_cache": HttpCacheSpec,
    "worker_api": WorkerApiSpec,
    "experimental_bep": BepSpec,
    "admin": AdminSpec,
    "health": HealthSpec,
}


@dataclass(frozen=True, slots=True)
class Part(Generic[_Spec]):
    """A valid part and where it stands."""

    path: Path
    spec: _Spec


@dataclass(frozen=True, slots=True)
class Entry:
    """A named store or scheduler; `spec` is None if it is not valid, but its name is known."""

    path: Path
    name: str
    spec: Spec | None

    @property
    def kind_path(self) -> Path:
        """Path of the value under the key of the kind."""
        return (*self.path, self.spec.KIND) if self.spec is not None else self.path


@dataclass(frozen=True, slots=True)
class Service:
    """One entry of a server's services."""

    path: Path
    server: int
    key: str
    spec: Spec


@dataclass(frozen=True, slots=True)
class Sections:
    """All valid parts, each with its path in the tree.

    Attributes:
        complete: nothing was left out as invalid, so what nobody mentions is really unused.
        servers: paths of all servers, valid or not.
    """

    complete: bool
    stores: tuple[Entry, ...]
    schedulers: tuple[Entry, ...]
    workers: tuple[Part[LocalWorkerSpec], ...]
    servers: tuple[Path, ...]
    listeners: tuple[Part[HttpListenerSpec], ...]
    services: tuple[Service, ...]
    origin_events: Part[OriginEventsSpec] | None
    global_: Part[GlobalSpec] | None

    def store(self, name: str) -> Entry | None:
        """The store of this name, or the one it stands for if it is a reference itself."""
        by_name = {entry.name: entry for entry in self.stores}
        visited: set[str] = set()
        entry = by_name.get(name)
        while entry is not None and isinstance(entry.spec, RefSpec):
            if entry.name in visited:
                return None
            visited.add(entry.name)
            entry = by_name.get(entry.spec.name)
        return entry


def sections_of(tree: object, *, complete: bool) -> Sections:
    """The parts of a raw tree that are valid."""
    root = tree if isinstance(tree, dict) else {}
    servers = _items(root, "servers")
    return Sections(
        complete=complete,
        stores=tuple(_entries(root, "stores", NamedStore)),
        schedulers=tuple(_entries(root, "schedulers", NamedScheduler)),
        workers=tuple(_workers(root)),
        servers=tuple(("servers", index) for index in range(len(servers))),
        listeners=tuple(_listeners(servers)),
        services=tuple(_services(servers)),
        origin_events=_part(
            root, ("experimental_origin_events",), OriginEventsSpec, "experimental_origin_events"
        ),
        global_=_part(root, ("global",), GlobalSpec, "global"),
    )


def inner_specs(spec: Spec, path: Path) -> Iterator[tuple[Path, Spec]]:
    """The stores or schedulers directly inside of a spec, whose value stands at `path`."""
    for name, value in spec:
        if isinstance(value, Spec) and value.KIND and not isinstance(value, Named):
            yield (*path, name, value.KIND), value
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, ShardItemSpec):
                    yield (*path, name, index, "store", item.store.KIND), item.store


def walk_specs(spec: Spec, path: Path) -> Iterator[tuple[Path, Spec]]:
    """The spec itself and all that are inside of it."""
    yield path, spec
    for inner_path, inner in inner_specs(spec, path):
        yield from walk_specs(inner, inner_path)


def _valid(model: type[_Spec], raw: object) -> _Spec | None:
    try:
        return model.model_validate(raw)
    except ValidationError:
        return None


def _items(raw: object, key: str) -> list[object]:
    items = raw.get(key) if isinstance(raw, dict) else None
    return items if isinstance(items, list) else []


def _part(raw: object, path: Path, model: type[_Spec], key: str) -> Part[_Spec] | None:
    if not isinstance(raw, dict) or key not in raw:
        return None
    spec = _valid(model, raw[key])
    return None if spec is None else Part(path, spec)


def _entries(root: object, key: str, model: type[_Named]) -> Iterator[Entry]:
    for index, raw in enumerate(_items(root, key)):
        name = raw.get("name") if isinstance(raw, dict) else None
        if isinstance(name, str):
            named = _valid(model, raw)
            yield Entry((key, index), name, None if named is None else named.spec)


def _workers(root: object) -> Iterator[Part[LocalWorkerSpec]]:
    for index, raw in enumerate(_items(root, "workers")):
        part = _part(raw, ("workers", index, "local"), LocalWorkerSpec, "local")
        if part is not None:
            yield part


def _listeners(servers: list[object]) -> Iterator[Part[HttpListenerSpec]]:
    for index, raw in enumerate(servers):
        listener = raw.get("listener") if isinstance(raw, dict) else None
        part = _part(listener, ("servers", index, "listener", "http"), HttpListenerSpec, "http")
        if part is not None:
            yield part


def _services(servers: list[object]) -> Iterator[Service]:
    for index, raw in enumerate(servers):
        services = raw.get("services") if isinstance(raw, dict) else None
        if not isinstance(services, dict):
            continue
        for key, value in services.items():
            model = _SERVICES.get(key)
            path: Path = ("servers", index, "services", key)
            if model is None or value is None:
                continue
            many = isinstance(value, list)
            for position, item in enumerate(value if many else [value]):
                spec = _valid(model, item)
                if spec is not None:
                    yield Service((*path, position) if many else path, index, key, spec)
