"""Every JSON5 snippet of NativeLink's documentation loads.

`documents/` holds them as they are printed, one a file. A file's name says which document it is
from and what it is a fragment of: `whole` files, members of the `root` object, a `store` (the key
of a kind and its value), a `store-item` (an object of the stores list), members of an
`object-store`, of a `retry` or of an `eviction-policy`. Of an `elided` one the author left parts
out with a comment, which the test fills in.
"""

from pathlib import Path

import json5
import pytest
from jsonschema import Draft202012Validator

from nativelink.config.legacy import modernize
from nativelink.config.load import examine
from nativelink.config.schema import json_schema

DOCUMENTS = sorted((Path(__file__).parent / "documents").glob("*.json5"))

VALIDATOR = Draft202012Validator(json_schema())

ENVIRONMENT = {"HOME": "/home/me"}

AWS = {"provider": "aws", "region": "eu-central-1", "bucket": "b"}

# What a fragment is put into, where `...` is the fragment.
AROUND = {
    "whole": "...",
    "root": "{ ... }",
    "store": '{ stores: [{ name: "SNIPPET", ... }] }',
    "store-item": "{ stores: [ ... ] }",
    "object-store": (
        '{ stores: [{ name: "SNIPPET", experimental_cloud_object_store: '
        '{ provider: "aws", region: "eu-central-1", bucket: "b", ... } }] }'
    ),
    "retry": (
        '{ stores: [{ name: "SNIPPET", experimental_cloud_object_store: '
        '{ provider: "aws", region: "eu-central-1", bucket: "b", retry: { ... } } }] }'
    ),
    "eviction-policy": '{ stores: [{ name: "SNIPPET", memory: { eviction_policy: { ... } } }] }',
}

# What fragments refer to.
STORES = {
    "CAS_MAIN_STORE": {
        "fast_slow": {
            "fast": {
                "filesystem": {
                    "content_path": "/var/lib/nativelink/content",
                    "temp_path": "/var/lib/nativelink/temp",
                    "eviction_policy": {"max_bytes": "1gb"},
                }
            },
            "slow": {"noop": {}},
        }
    },
    "AC_MAIN_STORE": {"memory": {"eviction_policy": {"max_bytes": "1gb"}}},
    "FS_CONTENT_STORE": {"noop": {}},
}


def fill(node):
    """Put something where an author only wrote a comment."""
    if isinstance(node, list):
        return [fill(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: fill(value) for key, value in node.items()}
    for key in ("backend", "index_store", "content_store"):
        if node.get(key) == {}:
            node[key] = {"noop": {}}
    if "experimental_cloud_object_store" in node:
        node["experimental_cloud_object_store"] = AWS | node["experimental_cloud_object_store"]
    if "listener" in node:
        node.setdefault("services", {})
    return node


def whole(path):
    """The tree of a whole file around the snippet."""
    name, kind, *marks = path.name.removesuffix(".json5").split(".")
    tree = json5.loads(AROUND[kind].replace("...", path.read_text(encoding="utf-8")))
    assert marks in ([], ["elided"]), name
    if marks:
        tree = fill(tree)
    tree.setdefault("servers", [])
    stores = tree.setdefault("stores", [])
    if isinstance(stores, list):
        for index, store in enumerate(stores):
            store.setdefault("name", f"SNIPPET{index}")
        present = {store["name"] for store in stores}
        stores += [{"name": n, **spec} for n, spec in STORES.items() if n not in present]
    return tree


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_every_snippet_of_the_documents_loads(path):
    report = examine(json5.dumps(whole(path)), path.name, ENVIRONMENT)
    assert report.errors == ()
    assert report.config is not None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_every_snippet_in_its_current_form_fits_the_schema(path):
    tree = modernize(whole(path), ENVIRONMENT).tree
    assert list(VALIDATOR.iter_errors(tree)) == []


def test_the_snippets_are_all_there():
    per_document = {}
    for path in DOCUMENTS:
        per_document.setdefault(path.name[:3], []).append(path.name)
    assert {name: len(found) for name, found in per_document.items()} == {
        "000": 6,
        "001": 5,
        "002": 22,
        "003": 14,
        "004": 4,
    }


@pytest.mark.slow
def test_the_schema_is_a_schema_and_refuses_what_the_loader_refuses():
    Draft202012Validator.check_schema(json_schema())
    good = {"stores": [{"name": "A", "memory": {}}], "servers": []}
    assert VALIDATOR.is_valid(good)
    for stores in (
        [{"name": "A"}],
        [{"memory": {}}],
        [{"name": "A", "memry": {}}],
        [{"name": "A", "memory": {}, "noop": {}}],
        [{"name": "A", "memory": {"eviction_policy": {"max_bytes": -1}}}],
        [{"name": "A", "shard": {"stores": []}}],
    ):
        assert not VALIDATOR.is_valid({"stores": stores, "servers": []}), stores
        assert examine(json5.dumps({"stores": stores, "servers": []}), "f", {}).config is None
