"""Settings of one part that follow from those of another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import TypeVar

from nativelink.config.fields import Spec
from nativelink.config.sections import walk_specs
from nativelink.config.specs import Config
from nativelink.config.specs_remote import GrpcStoreSpec, StoreType
from nativelink.config.specs_stores import FastSlowSpec, FilesystemSpec, RefSpec
from nativelink.config.specs_workers import LocalWorkerSpec, WorkerSpec

__all__ = ["resolve"]

_Spec = TypeVar("_Spec", bound=Spec)


def resolve(config: Config) -> Config:
    """`config` with every default in place that another part of the file decides."""
    return _with_directories(_with_transfer_compression(config))


def _with_transfer_compression(config: Config) -> Config:
    """`experimental_remote_cache_compression` of every upstream decided.

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
            decided: object = _decide(value, default=default)
            if decided is not value:
                changed[name] = decided
        elif isinstance(value, tuple):
            items = tuple(
                _decide(item, default=default) if isinstance(item, Spec) else item for item in value
            )
            if any(new is not old for new, old in zip(items, value, strict=True)):
                changed[name] = items
    return spec.model_copy(update=changed) if changed else spec


def _with_directories(config: Config) -> Config:
    """Where each worker works, and keeps input directories, if the file does not say."""
    stores = {store.name: store.spec for store in config.stores}
    workers = tuple(WorkerSpec(local=_placed(worker.local, stores)) for worker in config.workers)
    return config.model_copy(update={"workers": workers})


def _placed(worker: LocalWorkerSpec, stores: Mapping[str, Spec]) -> LocalWorkerSpec:
    work = worker.work_directory
    if not work:
        # On the device of the files that inputs are linked from, and nobody else's directory.
        content = PurePath(_content_path(stores.get(worker.cas_fast_slow_store), stores))
        work = str(PurePath(f"{content}.work", worker.name))
    cache = worker.directory_cache
    if cache is not None and not cache.cache_root:
        root = str(PurePath(work).parent / "directory_cache")
        cache = cache.model_copy(update={"cache_root": root})
    return worker.model_copy(update={"work_directory": work, "directory_cache": cache})


def _content_path(spec: Spec | None, stores: Mapping[str, Spec]) -> str:
    """Where the fast side of a worker's CAS keeps its files; `check` made sure that it does."""
    while not isinstance(spec, FilesystemSpec):
        match spec:
            case RefSpec(name=name):
                spec = stores.get(name)
            case FastSlowSpec(fast=fast):
                spec = fast
            case _:
                raise AssertionError(spec)
    return spec.content_path
