"""What only the whole file can tell: names, references, roles, shared places.

`check` runs every check on the valid parts of a file and returns all that they find. Errors are
what cannot work; warnings what a careful operator would want to know.
"""

from __future__ import annotations

from collections.abc import Iterator

from nativelink.config.check_assets import check_assets
from nativelink.config.check_aws import aws_scheduler_references, check_aws
from nativelink.config.check_events import check_events
from nativelink.config.check_http_cache import check_http_cache
from nativelink.config.check_paths import check_paths
from nativelink.config.check_servers import check_servers
from nativelink.config.check_stores import check_stores
from nativelink.config.check_values import check_values
from nativelink.config.fields import Spec
from nativelink.config.problems import Path, Problem, closest, error, warning
from nativelink.config.sections import Entry, Sections, walk_specs
from nativelink.config.specs_remote import RedisSpec
from nativelink.config.specs_schedulers import CacheLookupSpec, RedisBackendSpec, SimpleSpec
from nativelink.config.specs_services import (
    CapabilitiesServiceSpec,
    CasServiceSpec,
)
from nativelink.config.specs_stores import (
    FastSlowSpec,
    FilesystemSpec,
    RefSpec,
)
from nativelink.config.specs_workers import LocalWorkerSpec, UploadStrategy

__all__ = ["check"]


def check(sections: Sections) -> list[Problem]:
    """Every finding about the parts of one file, in no particular order."""
    return [
        *_duplicate_names(sections),
        *_references(sections),
        *_cycles(sections),
        *_workers(sections),
        *_scheduler_backends(sections),
        *check_stores(sections),
        *check_servers(sections),
        *check_assets(sections),
        *check_events(sections),
        *check_http_cache(sections),
        *check_paths(sections),
        *check_values(sections),
        *check_aws(sections),
    ]


def _duplicate_names(sections: Sections) -> Iterator[Problem]:
    workers = [(part.path, part.spec.name or f"worker_{part.path[1]}") for part in sections.workers]
    for noun, named in (
        ("store", [(entry.path, entry.name) for entry in sections.stores]),
        ("scheduler", [(entry.path, entry.name) for entry in sections.schedulers]),
        ("worker", workers),
    ):
        seen: set[str] = set()
        for path, name in named:
            if name in seen:
                yield error((*path, "name"), f'another {noun} is called "{name}" already')
            seen.add(name)


def _store_references(sections: Sections) -> Iterator[tuple[Path, str]]:
    """Every place that names a store, with the name."""
    for path, spec in _all_specs(sections):
        if isinstance(spec, RefSpec):
            yield (*path, "name"), spec.name
        elif isinstance(spec, RedisBackendSpec):
            yield (*path, "redis_store"), spec.redis_store
        elif isinstance(spec, CacheLookupSpec):
            yield (*path, "ac_store"), spec.ac_store
    for service in sections.services:
        for key in ("cas_store", "ac_store", "fetch_store", "push_store", "store"):
            name = getattr(service.spec, key, None)
            if isinstance(name, str):
                yield (*service.path, key), name
        chunking = getattr(service.spec, "experimental_chunking", None)
        if isinstance(service.spec, CasServiceSpec) and chunking is not None:
            index = chunking.index_store
            if index is not None:
                yield (*service.path, "experimental_chunking", "index_store"), index
    for worker in sections.workers:
        yield (*worker.path, "cas_fast_slow_store"), worker.spec.cas_fast_slow_store
        upload = worker.spec.upload_action_result
        for key in ("ac_store", "historical_results_store"):
            name = getattr(upload, key)
            if name is not None:
                yield (*worker.path, "upload_action_result", key), name
    events = sections.origin_events
    if events is not None:
        yield (*events.path, "publisher", "store"), events.spec.publisher.store


def _scheduler_references(sections: Sections) -> Iterator[tuple[Path, str]]:
    yield from aws_scheduler_references(sections)
    for service in sections.services:
        name = getattr(service.spec, "scheduler", None)
        if isinstance(name, str):
            yield (*service.path, "scheduler"), name
        if isinstance(service.spec, CapabilitiesServiceSpec):
            execution = service.spec.remote_execution
            if execution is not None:
                yield (*service.path, "remote_execution", "scheduler"), execution.scheduler


def _all_specs(sections: Sections) -> Iterator[tuple[Path, Spec]]:
    for entry in (*sections.stores, *sections.schedulers):
        if entry.spec is not None:
            yield from walk_specs(entry.spec, entry.kind_path)


def _references(sections: Sections) -> Iterator[Problem]:
    yield from _resolve("store", "stores", sections.stores, _store_references(sections), sections)
    yield from _resolve(
        "scheduler", "schedulers", sections.schedulers, _scheduler_references(sections), sections
    )


def _resolve(
    noun: str,
    key: str,
    entries: tuple[Entry, ...],
    references: Iterator[tuple[Path, str]],
    sections: Sections,
) -> Iterator[Problem]:
    names = {entry.name for entry in entries}
    used: set[str] = set()
    for path, name in references:
        used.add(name)
        if name not in names:
            yield error(
                path,
                f'no {noun} is called "{name}"',
                allowed=sorted(names) or None,
                hint=None if names else f"the file names no {key}",
                suggestion=closest(name, names),
            )
    if sections.complete:
        for entry in entries:
            if entry.name not in used:
                yield warning(entry.path, f"nothing uses this {noun}")


def _cycles(sections: Sections) -> Iterator[Problem]:
    """References that lead back to where they started: no store could be made first."""
    references = {
        entry.name: [
            ((*path, "name"), spec.name)
            for path, spec in walk_specs(entry.spec, entry.kind_path)
            if isinstance(spec, RefSpec)
        ]
        for entry in sections.stores
        if entry.spec is not None
    }
    finished: set[str] = set()

    def follow(name: str, trail: tuple[str, ...]) -> Iterator[Problem]:
        for path, target in references.get(name, ()):
            if target in trail:
                cycle = (*trail[trail.index(target) :], target)
                yield error(path, f"the stores refer to each other: {' -> '.join(cycle)}")
            elif target not in finished:
                yield from follow(target, (*trail, target))
        finished.add(name)

    for name in references:
        if name not in finished:
            yield from follow(name, (name,))


def _workers(sections: Sections) -> Iterator[Problem]:
    for worker in sections.workers:
        yield from _worker_cas(worker.path, worker.spec, sections)
        upload = worker.spec.upload_action_result
        chosen = "upload_ac_results_strategy" in upload.model_fields_set
        strategy = upload.upload_ac_results_strategy
        if chosen and upload.ac_store is None and strategy is not UploadStrategy.NEVER:
            yield error(
                (*worker.path, "upload_action_result", "upload_ac_results_strategy"),
                "results cannot be uploaded without an action cache",
                hint='set "ac_store", or the strategy to "never"',
            )
        if worker.spec.use_mount_namespace and not worker.spec.use_namespaces:
            yield error((*worker.path, "use_mount_namespace"), 'needs "use_namespaces" to be true')
        if worker.spec.use_network_namespace and not worker.spec.use_namespaces:
            yield error(
                (*worker.path, "use_network_namespace"), 'needs "use_namespaces" to be true'
            )


def _worker_cas(path: Path, worker: LocalWorkerSpec, sections: Sections) -> Iterator[Problem]:
    entry = sections.store(worker.cas_fast_slow_store)
    if entry is None or entry.spec is None:
        return
    place = (*path, "cas_fast_slow_store")
    name = worker.cas_fast_slow_store
    if not isinstance(entry.spec, FastSlowSpec):
        yield error(
            place,
            f'the worker\'s CAS is not a fast_slow store: "{name}" is {_a(entry.spec)}',
            hint="inputs are hard links to the files of its fast side",
        )
        return
    fast: Spec | None = entry.spec.fast
    if isinstance(fast, RefSpec):
        target = sections.store(fast.name)
        fast = None if target is None else target.spec
    if fast is not None and not isinstance(fast, FilesystemSpec):
        yield error(
            place,
            f'the fast side of the worker\'s CAS is not a filesystem store: that of "{name}" is '
            f"{_a(fast)}",
            hint="inputs are hard links to its files",
        )


def _scheduler_backends(sections: Sections) -> Iterator[Problem]:
    for path, spec in _all_specs(sections):
        if not isinstance(spec, SimpleSpec):
            continue
        backend = spec.experimental_backend
        if not isinstance(backend, RedisBackendSpec):
            continue
        entry = sections.store(backend.redis_store)
        if entry is not None and entry.spec and not isinstance(entry.spec, RedisSpec):
            yield error(
                (*path, "experimental_backend", "redis", "redis_store"),
                f'the store is not a redis_store: "{backend.redis_store}" is {_a(entry.spec)}',
            )


def _a(spec: Spec) -> str:
    article = "an" if spec.KIND[0] in "aeiou" else "a"
    return f"{article} {spec.KIND} store"
