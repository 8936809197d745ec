"""Checks of values that belong together within one object, wherever it stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nativelink.config.check_files import missing_file
from nativelink.config.fields import Spec
from nativelink.config.problems import Path, Problem, error, warning
from nativelink.config.sections import Sections
from nativelink.config.shape import shape_of
from nativelink.config.specs import GlobalSpec
from nativelink.config.specs_cloud import GcsSpec, OntapS3Spec
from nativelink.config.specs_common import ClientTlsSpec, GrpcEndpointSpec, RetrySpec
from nativelink.config.specs_workers import EndpointSpec

__all__ = ["check_values"]

_TLS_SCHEMES: Final = frozenset({"grpcs", "https"})
_SCHEMES: Final = ("grpc", "grpcs", "http", "https")
#: Longer than anyone waits for a connection: probably meant as milliseconds.
_SUSPICIOUS_TIMEOUT_S: Final = 600
_FEWEST_OPEN_FILES: Final = 10


def check_values(sections: Sections) -> Iterator[Problem]:
    """Findings about endpoints, retries, and keys that have no effect."""
    for path, spec in _all_objects(sections):
        yield from _no_effect(path, spec)
        match spec:
            case GrpcEndpointSpec():
                yield from _endpoint(path, "address", spec.address, spec.tls_config)
            case EndpointSpec():
                yield from _endpoint(path, "uri", spec.uri, spec.tls_config)
            case RetrySpec(jitter=jitter) if jitter > 1:
                yield warning((*path, "jitter"), f"is between 0.0 and 1.0, not {jitter}")
            case GcsSpec():
                yield from _timeouts(path, spec)
            case OntapS3Spec():
                yield from missing_file((*path, "root_certificates"), spec.root_certificates)
            case GlobalSpec(max_open_files=limit) if limit <= _FEWEST_OPEN_FILES:
                yield error(
                    (*path, "max_open_files"),
                    "too few to work with",
                    got=str(limit),
                    allowed=f"more than {_FEWEST_OPEN_FILES}, or 0 for the default",
                )
            case _:
                pass


def _all_objects(sections: Sections) -> Iterator[tuple[Path, Spec]]:
    """Every object of the file with its path."""
    for entry in (*sections.stores, *sections.schedulers):
        if entry.spec is not None:
            yield from _below(entry.kind_path, entry.spec)
    for worker in sections.workers:
        yield from _below(worker.path, worker.spec)
    for listener in sections.listeners:
        yield from _below(listener.path, listener.spec)
    for service in sections.services:
        yield from _below(service.path, service.spec)
    if sections.origin_events is not None:
        yield from _below(sections.origin_events.path, sections.origin_events.spec)
    if sections.global_ is not None:
        yield from _below(sections.global_.path, sections.global_.spec)


def _below(path: Path, spec: Spec) -> Iterator[tuple[Path, Spec]]:
    yield path, spec
    for key in shape_of(type(spec)).keys.values():
        if key.attribute not in spec.model_fields_set:
            continue
        value = getattr(spec, key.attribute)
        place = (*path, key.name)
        if isinstance(value, Spec):
            yield from _below((*place, value.KIND) if value.KIND else place, value)
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, Spec):
                    yield from _below((*place, index), item)


def _no_effect(path: Path, spec: Spec) -> Iterator[Problem]:
    for key in shape_of(type(spec)).keys.values():
        if key.no_effect is not None and key.attribute in spec.model_fields_set:
            yield warning((*path, key.name), "has no effect", hint=key.no_effect, at_key=True)


def _timeouts(path: Path, spec: GcsSpec) -> Iterator[Problem]:
    for key in ("connection_timeout_s", "read_timeout_s"):
        seconds = getattr(spec, key)
        if seconds >= _SUSPICIOUS_TIMEOUT_S:
            yield warning((*path, key), f"is in seconds: {seconds} s is very long")


def _endpoint(path: Path, key: str, address: str, tls: ClientTlsSpec | None) -> Iterator[Problem]:
    scheme, separator, _ = address.partition("://")
    place = (*path, key)
    if not separator or scheme not in _SCHEMES:
        yield error(
            place,
            "not an address of a gRPC server",
            got=f'"{address}"',
            allowed=[f"{each}://host:port" for each in _SCHEMES],
        )
    elif scheme in _TLS_SCHEMES and tls is None:
        yield error(
            place,
            f"{scheme} needs TLS settings",
            hint='set "tls_config", for example {use_native_roots: true}',
        )
    elif scheme not in _TLS_SCHEMES and tls is not None:
        yield error(
            (*path, "tls_config"),
            f"{scheme} is plain text",
            hint=f'write "{scheme}s://" in "{key}", or remove "tls_config"',
            at_key=True,
        )
    if tls is not None:
        yield from _client_tls((*path, "tls_config"), tls)


def _client_tls(path: Path, tls: ClientTlsSpec) -> Iterator[Problem]:
    if not tls.use_native_roots and tls.ca_file is None:
        yield error(
            path,
            "says of nobody that the server may be trusted",
            hint='set "ca_file", or "use_native_roots" to true',
        )
    if (tls.cert_file is None) != (tls.key_file is None):
        present, absent = (
            ("cert_file", "key_file") if tls.key_file is None else ("key_file", "cert_file")
        )
        yield error((*path, present), f'needs "{absent}"', at_key=True)
    for key in ("ca_file", "cert_file", "key_file"):
        yield from missing_file((*path, key), getattr(tls, key))
