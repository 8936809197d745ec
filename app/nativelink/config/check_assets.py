"""Checks of the Remote Asset services."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from nativelink.config.check_files import missing_file
from nativelink.config.problems import Path, Problem, error, warning
from nativelink.config.sections import Sections, Service
from nativelink.config.specs_downloads import DownloadsSpec
from nativelink.config.specs_services import (
    AcServiceSpec,
    ByteStreamServiceSpec,
    CasServiceSpec,
    FetchServiceSpec,
    PushServiceSpec,
)

__all__ = ["check_assets"]

#: Where clouds tell machines their credentials.
_METADATA: Final = tuple(
    map(ipaddress.ip_address, ("169.254.169.254", "169.254.170.2", "fd00:ec2::254"))
)


def check_assets(sections: Sections) -> Iterator[Problem]:
    """Findings about stores that do not go together, and downloads that could not work."""
    for service in sections.services:
        match service.spec:
            case FetchServiceSpec(fetch_store=store, downloads=downloads):
                yield from _shared_store(service, "fetch_store", store, sections)
                yield from _nothing_pushed(service, service.spec, sections)
                if downloads is not None:
                    yield from _downloads((*service.path, "downloads"), downloads)
                    if downloads.allowed_hosts:
                        yield from _no_cas(service, service.spec, sections)
            case PushServiceSpec(push_store=store):
                yield from _shared_store(service, "push_store", store, sections)
            case _:
                pass


def _shared_store(service: Service, key: str, store: str, sections: Sections) -> Iterator[Problem]:
    """Assets beside blobs or action results: whoever may write these could write assets, too."""
    wanted = sections.store(store)
    for other in sections.services:
        match other.spec:
            case CasServiceSpec(cas_store=name) | ByteStreamServiceSpec(cas_store=name):
                noun = "CAS"
            case AcServiceSpec(ac_store=name):
                noun = "action cache"
            case _:
                continue
        if wanted is not None and sections.store(name) is wanted:
            yield warning(
                (*service.path, key),
                f'the {noun} of instance "{other.spec.instance_name}" is the same store: its '
                "clients can replace what is known of assets",
                hint="give assets a store of their own",
            )
            return


def _nothing_pushed(
    service: Service, spec: FetchServiceSpec, sections: Sections
) -> Iterator[Problem]:
    """What is pushed goes somewhere else than where it is looked for."""
    for other in sections.services:
        if (
            isinstance(other.spec, PushServiceSpec)
            and other.spec.instance_name == spec.instance_name
            and sections.store(spec.fetch_store) is not None
            and sections.store(other.spec.push_store) is not None
            and sections.store(spec.fetch_store) is not sections.store(other.spec.push_store)
        ):
            yield warning(
                (*service.path, "fetch_store"),
                f'what is pushed to the instance "{spec.instance_name}" goes to another store, '
                f'"{other.spec.push_store}"',
            )


def _no_cas(service: Service, spec: FetchServiceSpec, sections: Sections) -> Iterator[Problem]:
    offered = any(
        isinstance(other.spec, CasServiceSpec)
        and other.server == service.server
        and other.spec.instance_name == spec.instance_name
        for other in sections.services
    )
    if spec.cas_store is None and not offered:
        yield error(
            (*service.path, "downloads"),
            f'the server has no cas for the instance "{spec.instance_name}" that downloads could '
            "go to",
            hint='set "cas_store"',
            at_key=True,
        )


def _downloads(path: Path, downloads: DownloadsSpec) -> Iterator[Problem]:
    yield from missing_file((*path, "ca_file"), downloads.ca_file)
    if not downloads.allowed_hosts:
        yield warning(path, 'nothing is downloaded: "allowed_hosts" names no host', at_key=True)
    for index, text in enumerate(downloads.allowed_networks):
        network = ipaddress.ip_network(text)
        if any(address in network for address in _METADATA):
            yield warning(
                (*path, "allowed_networks", index),
                "clients can read this machine's cloud credentials: the metadata service is in "
                "this network",
                hint="name smaller networks",
            )
