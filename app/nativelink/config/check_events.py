"""Checks of where build events and origin events go."""

from __future__ import annotations

from collections.abc import Iterator

from nativelink.config.fields import Spec
from nativelink.config.problems import Path, Problem, error, warning
from nativelink.config.sections import Sections, inner_specs, walk_specs
from nativelink.config.specs_remote import GrpcStoreSpec
from nativelink.config.specs_services import BepSpec
from nativelink.config.specs_stores import MemorySpec, NoopSpec, RefSpec

__all__ = ["check_events"]


def check_events(sections: Sections) -> Iterator[Problem]:
    """Findings about stores that cannot keep events, or not for long."""
    for service in sections.services:
        if isinstance(service.spec, BepSpec):
            path, name = (*service.path, "store"), service.spec.store
            yield from _blobs_only(sections, path, name)
            leaves = _leaves(sections, name)
            if leaves == {NoopSpec}:
                yield warning(path, "this store keeps nothing: builds are told and forgotten")
            elif leaves and leaves <= {MemorySpec, NoopSpec}:
                yield warning(
                    path,
                    "build events in memory are gone when the process ends, and a build that runs "
                    "then ends with an error of its upload",
                    hint="name a store on disk",
                )
    events = sections.origin_events
    if events is not None:
        path = (*events.path, "publisher", "store")
        yield from _blobs_only(sections, path, events.spec.publisher.store)


def _blobs_only(sections: Sections, path: Path, name: str) -> Iterator[Problem]:
    if GrpcStoreSpec in _leaves(sections, name):
        yield error(
            path,
            "a grpc store takes blobs under their digests only, and events have names",
            got=f'"{name}"',
        )


def _leaves(sections: Sections, name: str) -> set[type[Spec]]:
    """The kinds of stores, joins and wrappers aside, in which something of a store ends."""
    found: set[type[Spec]] = set()
    names, seen = [name], set[str]()
    while names:
        entry = sections.store(names.pop())
        if entry is None or entry.spec is None or entry.name in seen:
            continue
        seen.add(entry.name)
        for path, spec in walk_specs(entry.spec, ()):
            if isinstance(spec, RefSpec):
                names.append(spec.name)
            elif not any(inner_specs(spec, path)):
                found.add(type(spec))
    return found
