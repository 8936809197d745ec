"""A configuration as a tree for people: who listens, who uses which store, what is where.

Values are shown in their largest unit, secrets only as set, defaults not at all. Drawing is the
terminal's business (`cli/config.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from nativelink.config.fields import Spec
from nativelink.config.problems import mask_passwords
from nativelink.config.sections import inner_specs
from nativelink.config.shape import Choice, Key, ListOf, Scalar, shape_of
from nativelink.config.specs import Config
from nativelink.config.specs_servers import HttpListenerSpec, ServerSpec
from nativelink.config.specs_services import HttpCacheSpec, InstanceSpec
from nativelink.config.specs_stores import RefSpec
from nativelink.config.specs_workers import LocalWorkerSpec, PropertyValues
from nativelink.config.units import format_duration, format_size

__all__ = ["Node", "Role", "explain"]


class Role(StrEnum):
    """What a node is, for its colour."""

    HEADING = "heading"
    NAME = "name"
    KIND = "kind"
    REFERENCE = "reference"


@dataclass(slots=True)
class Node:
    """A line of the tree: a label, facts behind it, and what is below it."""

    role: Role
    label: str
    details: list[str] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)


def explain(config: Config) -> list[Node]:
    """The tree's roots: servers, stores, schedulers, workers, the rest."""
    users = _users(config)
    roots = [
        Node(Role.HEADING, "servers", children=[_server(server) for server in config.servers]),
        Node(
            Role.HEADING,
            "stores",
            children=[
                _named(store.name, store.spec, users.get(f"store {store.name}", []))
                for store in config.stores
            ],
        ),
        Node(
            Role.HEADING,
            "schedulers",
            children=[
                _named(each.name, each.spec, users.get(f"scheduler {each.name}", []))
                for each in config.schedulers
            ],
        ),
        Node(
            Role.HEADING,
            "workers",
            children=[_worker(worker.local) for worker in config.workers],
        ),
        Node(Role.HEADING, "global", _details(config.global_)),
    ]
    if config.experimental_origin_events is not None:
        events = Node(Role.HEADING, "origin events", _details(config.experimental_origin_events))
        events.children.append(_reference(config.experimental_origin_events.publisher.store))
        roots.append(events)
    return [root for root in roots if root.children or root.details]


def _server(server: ServerSpec) -> Node:
    listener = server.listener.http
    node = Node(Role.NAME, server.name, [listener.socket_address, _security(listener)])
    node.details += [
        each for each in _details(listener) if not each.startswith(("socket_address ", "tls."))
    ]
    instances: dict[str, Node] = {}
    for key in shape_of(type(server.services)).keys:
        value = getattr(server.services, key)
        if isinstance(value, tuple):
            for entry in value:
                assert isinstance(entry, InstanceSpec)
                name = entry.instance_name
                instance = instances.setdefault(name, Node(Role.NAME, f'instance "{name}"'))
                instance.children.append(_service(key, entry))
        elif isinstance(value, Spec):
            node.children.append(_service(key, value))
    node.children[:0] = instances.values()
    return node


def _security(listener: HttpListenerSpec) -> str:
    if listener.tls is None:
        return "plain text"
    return "mutual TLS" if listener.tls.client_ca_file is not None else "TLS"


def _service(key: str, spec: Spec) -> Node:
    node = Node(Role.KIND, key)
    references = _references(spec)
    node.details = [
        each for each in _details(spec) if each.split(" ")[0] not in {*references, "instance_name"}
    ]
    if key in {"admin", "health"}:
        node.details.insert(0, str(getattr(spec, "path", "")))
    if isinstance(spec, HttpCacheSpec):
        own = [each for each in ("ac", "cas") if f"{each}_store" not in references]
        if own:
            node.details.insert(0, f"the stores of {' and '.join(own)}")
    if len(references) == 1:
        node.label += f" -> {next(iter(references.values()))}"
    else:
        node.children = [_reference(name, of) for of, name in references.items()]
    return node


def _references(spec: Spec) -> dict[str, str]:
    """What a service names, by (dotted) key."""
    found: dict[str, str] = {}
    for key in shape_of(type(spec)).keys.values():
        value = getattr(spec, key.attribute)
        if isinstance(value, str) and (key.name.endswith("store") or key.name == "scheduler"):
            found[key.name] = value
        elif isinstance(value, Spec) and not value.KIND:
            found |= {f"{key.name}.{of}": name for of, name in _references(value).items()}
    return found


def _users(config: Config) -> Mapping[str, list[str]]:
    """Who names each store and scheduler, by `store NAME` and `scheduler NAME`."""
    users: dict[str, list[str]] = {}

    def note(spec: Spec, who: str) -> None:
        for of, name in _references(spec).items():
            noun = "scheduler" if of.endswith("scheduler") else "store"
            users.setdefault(f"{noun} {name}", []).append(who)

    for server in config.servers:
        for key in shape_of(type(server.services)).keys:
            value = getattr(server.services, key)
            for entry in value if isinstance(value, tuple) else (value,):
                if isinstance(entry, InstanceSpec):
                    note(entry, f'{key} "{entry.instance_name}" of server {server.name}')
                elif isinstance(entry, Spec):
                    note(entry, f"{key} of server {server.name}")
    for worker in config.workers:
        note(worker.local, f"worker {worker.local.name}")
    for store in config.stores:
        for spec in _walk(store.spec):
            if isinstance(spec, RefSpec):
                users.setdefault(f"store {spec.name}", []).append(f"store {store.name}")
    for scheduler in config.schedulers:
        for spec in _walk(scheduler.spec):
            note(spec, f"scheduler {scheduler.name}")
    return users


def _walk(spec: Spec) -> Iterator[Spec]:
    yield spec
    for _, inner in inner_specs(spec, ()):
        yield from _walk(inner)


def _named(name: str, spec: Spec, users: list[str]) -> Node:
    used = f"used by {', '.join(dict.fromkeys(users))}" if users else "used by nobody"
    return Node(Role.NAME, name, [used], [_tree(spec)])


def _tree(spec: Spec, place: str = "") -> Node:
    """A store or scheduler with what is inside of it; `place` is the key that holds it."""
    label = f"{place}: {spec.KIND}" if place else spec.KIND
    if isinstance(spec, RefSpec):
        return _reference(spec.name, place)
    node = Node(Role.KIND, label, _details(spec))
    node.children = [
        _tree(inner, ".".join(str(part) for part in path[:-1]))
        for path, inner in inner_specs(spec, ())
    ]
    return node


def _reference(name: str, of: str = "") -> Node:
    return Node(Role.REFERENCE, f"{of} -> {name}" if of else f"-> {name}")


def _worker(worker: LocalWorkerSpec) -> Node:
    references = _references(worker)
    details = [each for each in _details(worker) if each.split(" ")[0] not in {*references, "name"}]
    node = Node(Role.NAME, worker.name, details)
    node.children = [_reference(name, of) for of, name in references.items()]
    properties = Node(Role.KIND, "platform_properties")
    for name, source in worker.platform_properties.items():
        shown = (
            " or ".join(source.values)
            if isinstance(source, PropertyValues)
            else f"printed by {source.query_cmd}"
        )
        properties.details.append(f"{name} {shown}")
    node.children.append(properties)
    return node


def _details(spec: Spec, prefix: str = "") -> list[str]:
    """`key value` of everything that was set, those of plain objects inside of it included."""
    details: list[str] = []
    for key in shape_of(type(spec)).keys.values():
        value = getattr(spec, key.attribute)
        if key.attribute not in spec.model_fields_set or value is None:
            continue
        name = prefix + key.name
        if isinstance(value, Spec):
            if not value.KIND:
                details += _details(value, f"{name}.")
        elif isinstance(value, tuple) and any(isinstance(item, Spec) for item in value):
            for index, item in enumerate(value):
                details += _details(item, f"{name}[{index}].")
        elif (shown := _shown(key, value)) is not None:
            details.append(f"{name} {shown}")
    return details


def _shown(key: Key, value: object) -> str | None:
    if key.secret:
        return "(set)" if value else None
    if isinstance(value, tuple):
        words = [mask_passwords(item) for item in value if isinstance(item, str)]
        return ", ".join(words) if words and isinstance(key.shape, ListOf) else None
    if isinstance(value, Mapping):
        pairs = [f"{name}: {each}" for name, each in value.items() if isinstance(each, str)]
        return ", ".join(pairs) or None
    if isinstance(key.shape, Choice):
        return str(value)
    assert isinstance(key.shape, Scalar)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return _number(key.shape.kind.name, value)
    return mask_passwords(str(value)) or None


def _number(kind: str, value: int) -> str:
    if kind == "size":
        return format_size(value)
    if kind.startswith("duration in seconds"):
        return format_duration(value)
    if kind == "duration in milliseconds":
        whole, rest = divmod(value, 1000)
        return format_duration(whole) if whole and not rest else f"{value} ms"
    return f"{value:,}"
