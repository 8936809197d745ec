"""Older and looser forms of the file, rewritten into the current one before it is validated.

One pass over the raw tree. Every rewriting gives one warning that names the new form, and an entry
in `origins`, so that later messages still point at what the user wrote. `looser.py` has the same
forms as data for people and tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from nativelink.config.choices import Named
from nativelink.config.expansion import UnsetVariableError, expand_text
from nativelink.config.fields import Spec
from nativelink.config.problems import Path, Problem, error, format_value, warning
from nativelink.config.shape import Keyed, ListOf, Object, Shape, Tagged, child, shape_of
from nativelink.config.specs import Config
from nativelink.config.specs_cloud import ObjectStoreSpec
from nativelink.config.specs_remote import RedisSpec
from nativelink.config.specs_servers import AdvancedHttpSpec, TlsSpec
from nativelink.config.specs_services import ByteStreamServiceSpec, InstanceSpec
from nativelink.config.specs_workers import LocalWorkerSpec
from nativelink.config.units import parse_boolean

__all__ = ["Modern", "modernize"]

#: Keys that were renamed, by the object that has them.
_RENAMED: Final[Mapping[type[Spec], Mapping[str, str]]] = {
    RedisSpec: {"response_timeout_ms": "command_timeout_ms"},
    ObjectStoreSpec: {"additional_max_concurrent_requests": "max_concurrent_requests"},
    ByteStreamServiceSpec: {
        "persist_stream_on_disconnect_timeout": "persist_stream_on_disconnect_timeout_s"
    },
    LocalWorkerSpec: {
        "max_action_timeout": "max_action_timeout_s",
        "max_upload_timeout": "max_upload_timeout_s",
    },
    AdvancedHttpSpec: {
        "http2_keepalive_interval": "http2_keep_alive_interval",
        "http2_keepalive_timeout": "experimental_http2_keep_alive_timeout_s",
        "experimental_http2_keep_alive_timeout": "experimental_http2_keep_alive_timeout_s",
        "max_concurrent_streams": "experimental_http2_max_concurrent_streams",
    },
}

#: Store kinds that became a provider of `experimental_cloud_object_store`.
_PROVIDERS: Final = {"experimental_s3_store": "aws", "experimental_gcs_store": "gcs"}
_CLOUD: Final = ObjectStoreSpec.KIND


@dataclass(slots=True)
class Modern:
    """A tree in the current form.

    Attributes:
        tree: of new objects; the one given is not changed.
        problems: a warning for every rewriting, an error where it was impossible.
        origins: for every rewritten place its path in the file; what is below it follows.
    """

    tree: object = None
    problems: list[Problem] = field(default_factory=list)
    origins: dict[Path, Path] = field(default_factory=dict)

    def origin(self, path: Path) -> Path:
        """The place in the file of a place in `tree`."""
        for length in range(len(path), 0, -1):
            if (found := self.origins.get(path[:length])) is not None:
                return (*found, *path[length:])
        return path


def modernize(raw: object, environment: Mapping[str, str]) -> Modern:
    """Rewrite every older form in `raw`; `environment` for a switch that decides about one."""
    rewriter = _Rewriter(environment)
    rewriter.modern.tree = rewriter.walk(raw, shape_of(Config), (), ())
    return rewriter.modern


#: A key of the current form: its value and where that stands in the file.
_Entries: TypeAlias = dict[str, tuple[object, Path]]


class _Rewriter:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self.modern = Modern()
        self._environment = environment

    def walk(self, raw: object, shape: Shape | None, path: Path, source: Path) -> object:
        """The current form of `raw`, which stands at `source` and is going to stand at `path`."""
        if path != source:
            self.modern.origins[path] = source
        if isinstance(raw, dict) and isinstance(shape, ListOf):
            return self._list_of(raw, shape, path, source)
        if isinstance(raw, list):
            return [
                self.walk(item, child(shape, index, raw), (*path, index), (*source, index))
                for index, item in enumerate(raw)
            ]
        if not isinstance(raw, dict):
            return raw
        entries: _Entries = {key: (value, (*source, key)) for key, value in raw.items()}
        if isinstance(shape, Keyed) or (isinstance(shape, Object) and shape.beside is not None):
            self._providers(entries, path)
        elif isinstance(shape, Tagged):
            self._rename(_RENAMED[ObjectStoreSpec], entries, path)
        elif isinstance(shape, Object):
            self._rename(_RENAMED.get(shape.model, {}), entries, path)
            if shape.model is TlsSpec:
                self._client_authority(entries, path)
            elif shape.model is LocalWorkerSpec:
                self._unwrap_upload(entries, path)
        current = {key: value for key, (value, _) in entries.items()}
        return {
            key: self.walk(value, child(shape, key, current), (*path, key), origin)
            for key, (value, origin) in entries.items()
        }

    def _warn(self, path: Path, old: str, new: str) -> None:
        self.modern.problems.append(
            warning(path, f"{old} is an older form", hint=f"write {new}", at_key=True)
        )

    def _list_of(self, raw: dict[str, object], shape: ListOf, path: Path, source: Path) -> object:
        """Objects keyed by name, or by instance name, as a list of objects that contain it."""
        model = shape.item.model if isinstance(shape.item, Object) else Spec
        if model is ByteStreamServiceSpec and "cas_stores" in raw:
            return self._bytestream(raw, shape, path, source)
        if issubclass(model, Named):
            name = "name"
        elif issubclass(model, InstanceSpec) and model is not ByteStreamServiceSpec:
            name = "instance_name"
        else:
            return raw
        if not all(isinstance(value, dict) for value in raw.values()):
            return raw
        if raw:
            self._warn(
                path,
                f'"{source[-1]}" as an object',
                f'a list of objects, each with its "{name}"',
            )
        items: list[object] = []
        for index, (key, value) in enumerate(raw.items()):
            assert isinstance(value, dict)
            item = {name: key, **value}
            items.append(self.walk(item, shape.item, (*path, index), (*source, key)))
        return items

    def _bytestream(
        self, raw: dict[str, object], shape: ListOf, path: Path, source: Path
    ) -> object:
        """One setting for all instances, with a map from instance to store."""
        stores = raw["cas_stores"]
        if not isinstance(stores, dict):
            self.modern.problems.append(
                error((*path, "cas_stores"), "not an object", got=format_value(stores))
            )
            return []
        self._warn(
            path, '"cas_stores"', 'a list of objects, each with "instance_name" and "cas_store"'
        )
        if "max_decoding_message_size" in raw:
            self.modern.problems.append(
                warning(
                    (*path, "max_decoding_message_size"),
                    "has no effect here",
                    hint="set it in listener.http",
                    at_key=True,
                )
            )
        ignored = {"cas_stores", "max_decoding_message_size"}
        shared = {key: value for key, value in raw.items() if key not in ignored}
        items: list[object] = []
        for index, (instance, store) in enumerate(stores.items()):
            item = {"instance_name": instance, "cas_store": store, **shared}
            place = (*path, index)
            if index:
                # What is shared was warned about with the first instance.
                known = len(self.modern.problems)
                items.append(self.walk(item, shape.item, place, source))
                del self.modern.problems[known:]
            else:
                items.append(self.walk(item, shape.item, place, source))
            for key in ("instance_name", "cas_store"):
                self.modern.origins[*place, key] = (*source, "cas_stores", instance)
        return items

    def _rename(self, renamed: Mapping[str, str], entries: _Entries, path: Path) -> None:
        for old in [key for key in entries if key in renamed]:
            new = renamed[old]
            if new in entries:
                self.modern.problems.append(
                    error(
                        (*path, old),
                        f'stands beside "{new}", which means the same',
                        hint="remove one of them",
                        at_key=True,
                    )
                )
                del entries[old]
                continue
            entries[new] = entries.pop(old)
            self._warn((*path, new), f'"{old}"', f'"{new}"')

    def _providers(self, entries: _Entries, path: Path) -> None:
        for old in [key for key in entries if key in _PROVIDERS]:
            if len(entries.keys() & {_CLOUD, *_PROVIDERS}) > 1:
                # Two kinds in one store, which would become one: the validation says so.
                return
            value, source = entries.pop(old)
            provider = _PROVIDERS[old]
            if isinstance(value, dict):
                value = {"provider": provider, **value}
            entries[_CLOUD] = (value, source)
            self._warn((*path, _CLOUD), f'"{old}"', f'"{_CLOUD}" with provider: "{provider}"')
            self.modern.origins[*path, _CLOUD] = source

    def _unwrap_upload(self, entries: _Entries, path: Path) -> None:
        key = "upload_action_result"
        value, source = entries.get(key, (None, ()))
        if isinstance(value, dict) and set(value) == {key}:
            entries[key] = (value[key], (*source, key))
            self._warn((*path, key), f'"{key}" inside of itself', "it once")

    def _client_authority(self, entries: _Entries, path: Path) -> None:
        """`ca_file` with `verify_client`, which may switch it off."""
        verify, _ = entries.pop("verify_client", (None, ()))
        required = True
        if verify is not None:
            self._warn(
                (*path, "verify_client"),
                '"verify_client"',
                '"client_ca_file" alone, which lets in only clients with a certificate',
            )
            try:
                required = self._boolean(verify)
            except ValueError as failure:
                self.modern.problems.append(
                    error((*path, "verify_client"), str(failure), got=format_value(verify))
                )
        if "ca_file" in entries:
            if "client_ca_file" in entries:
                self._rename({"ca_file": "client_ca_file"}, entries, path)
            elif required:
                entries["client_ca_file"] = entries.pop("ca_file")
                self._warn((*path, "client_ca_file"), '"ca_file"', '"client_ca_file"')
            else:
                del entries["ca_file"]
        elif verify is not None and required and "client_ca_file" not in entries:
            self.modern.problems.append(
                error(
                    (*path, "verify_client"),
                    "clients cannot be verified without an authority",
                    hint='set "client_ca_file"',
                    at_key=True,
                )
            )

    def _boolean(self, raw: object) -> bool:
        if isinstance(raw, bool):
            return raw
        if isinstance(raw, str):
            try:
                return parse_boolean(expand_text(raw, self._environment))
            except UnsetVariableError as unset:
                raise ValueError(str(unset)) from None
        raise ValueError("not a boolean")
