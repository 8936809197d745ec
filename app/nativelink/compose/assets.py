"""Specs of the Remote Asset services to gRPC methods."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nativelink.compose.channels import retry_of
from nativelink.compose.environment import Environment
from nativelink.compose.stores import StoreBuilder
from nativelink.config.specs_downloads import DownloadsSpec
from nativelink.config.specs_services import (
    CasServiceSpec,
    FetchServiceSpec,
    PushServiceSpec,
    ServicesSpec,
)
from nativelink.core.errors import context, invalid_argument
from nativelink.core.hosts import parse_host_pattern
from nativelink.core.rpc import Method
from nativelink.services.remote_asset.fetch import FetchInstance, FetchService
from nativelink.services.remote_asset.index import AssetIndex
from nativelink.services.remote_asset.push import PushInstance, PushService
from nativelink.stores.store import Store
from nativelink.telemetry.assets import AssetRecorder

if TYPE_CHECKING:
    from nativelink.services.remote_asset.directories import Directories
    from nativelink.services.remote_asset.downloads import Downloads
    from nativelink.transport.http_client.origin import HttpOrigin

__all__ = ["asset_methods"]


async def asset_methods(
    spec: ServicesSpec, stores: StoreBuilder, env: Environment
) -> Sequence[Method]:
    """The methods of a listener's Fetch and Push services.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for an unknown store, an instance that stands twice, or
            downloads that have no CAS to go to.
    """
    methods: list[Method] = []
    if spec.fetch:
        recorder = AssetRecorder(env.registry)
        fetches: dict[str, FetchInstance] = {}
        for fetch in spec.fetch:
            with context(f"services/fetch/{fetch.instance_name or '(no name)'}"):
                _require_new(fetch.instance_name, fetches)
                fetches[fetch.instance_name] = await _fetch(fetch, spec.cas, stores, env, recorder)
        methods += FetchService(
            fetches,
            clock=env.clock,
            default_function=env.digest_function,
            recorder=recorder if env.measured else None,
        ).methods()
    if spec.push:
        pushes: dict[str, PushInstance] = {}
        for push in spec.push:
            with context(f"services/push/{push.instance_name or '(no name)'}"):
                _require_new(push.instance_name, pushes)
                pushes[push.instance_name] = PushInstance(
                    await _index(push.push_store, stores, env),
                    push.read_only,
                    await _cas(push, spec.cas, stores),
                )
        methods += PushService(pushes, default_function=env.digest_function).methods()
    return methods


async def _fetch(
    spec: FetchServiceSpec,
    cas_specs: Sequence[CasServiceSpec],
    stores: StoreBuilder,
    env: Environment,
    recorder: AssetRecorder,
) -> FetchInstance:
    index = await _index(spec.fetch_store, stores, env)
    name = _cas_name(spec, cas_specs)
    cas = None if name is None else (await stores.named(name)).store
    downloads = directories = None
    if spec.downloads is not None and spec.downloads.allowed_hosts:
        if cas is None:
            raise invalid_argument(
                "downloads need a CAS to go to: the server has none for this instance, and "
                "cas_store is not set"
            )
        with context("downloads"):
            downloads = await env.lifetimes.enter_async_context(
                _downloads(spec.downloads, index, cas, env, recorder)
            )
        directories = await env.lifetimes.enter_async_context(
            _directories(spec.downloads, index, cas, env)
        )
    trees = None if name is None else await stores.trees(name)
    return FetchInstance(index, cas, downloads, directories, trees)


def _directories(
    spec: DownloadsSpec, index: AssetIndex, cas: Store, env: Environment
) -> Directories:
    from nativelink.services.archives.limits import ArchiveLimits
    from nativelink.services.archives.unpacker import Unpacker
    from nativelink.services.remote_asset.directories import Directories

    limits = ArchiveLimits(spec.max_unpacked_bytes, spec.max_unpacked_entries)
    return Directories(
        Unpacker(cas, limits=limits, folder=_folder(spec)),
        index=index,
        clock=env.clock,
        timeout_s=spec.timeout_s,
    )


def _folder(spec: DownloadsSpec) -> Path | None:
    return None if spec.temp_path is None else Path(spec.temp_path)


def _downloads(
    spec: DownloadsSpec, index: AssetIndex, cas: Store, env: Environment, recorder: AssetRecorder
) -> Downloads:
    from nativelink.services.remote_asset.downloads import Downloads

    return Downloads(
        _origin(spec, env.version),
        cas,
        index=index,
        clock=env.clock,
        reuse_unverified_s=spec.reuse_unverified_s,
        max_concurrent=spec.max_concurrent,
        timeout_s=spec.timeout_s,
        retry=retry_of(spec.retry),
        folder=_folder(spec),
        recorder=recorder if env.measured else None,
    )


def _origin(spec: DownloadsSpec, version: str) -> HttpOrigin:
    from nativelink.transport.http_client.addresses import AddressPolicy
    from nativelink.transport.http_client.origin import HttpOrigin, OriginSettings, origin_tls

    settings = OriginSettings(
        allowed_hosts=tuple(map(parse_host_pattern, spec.allowed_hosts)),
        addresses=AddressPolicy([ipaddress.ip_network(each) for each in spec.allowed_networks]),
        allow_http=spec.insecure_allow_http,
        max_size_bytes=spec.max_size_bytes,
        connect_timeout_s=spec.connect_timeout_s,
        idle_timeout_s=spec.idle_timeout_s,
        user_agent=f"nativelink/{version}",
    )
    return HttpOrigin(settings, origin_tls(None if spec.ca_file is None else Path(spec.ca_file)))


async def _index(store: str, stores: StoreBuilder, env: Environment) -> AssetIndex:
    return AssetIndex((await stores.named(store)).store, clock=env.clock)


def _cas_name(
    spec: FetchServiceSpec | PushServiceSpec, cas_specs: Sequence[CasServiceSpec]
) -> str | None:
    """The store of the contents: what the service names, or the CAS of its instance."""
    if spec.cas_store is not None:
        return spec.cas_store
    names = (each.cas_store for each in cas_specs if each.instance_name == spec.instance_name)
    return next(names, None)


async def _cas(
    spec: PushServiceSpec, cas_specs: Sequence[CasServiceSpec], stores: StoreBuilder
) -> Store | None:
    name = _cas_name(spec, cas_specs)
    return None if name is None else (await stores.named(name)).store


def _require_new(name: str, made: Collection[str]) -> None:
    if name in made:
        raise invalid_argument("the instance stands there twice")
