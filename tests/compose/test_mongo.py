"""MongoDB specs to stores."""

from __future__ import annotations

import json5
import pytest

from nativelink.compose.environment import Environment
from nativelink.compose.mongo import mongo_store
from nativelink.compose.stores import StoreBuilder
from nativelink.config import Config
from nativelink.config.specs_remote import MongoSpec
from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.services.status import Health
from nativelink.stores.store import read_bytes, write_bytes
from tests.stores.remote.mongo_server import fresh_collection, raw_collection, shared_mongo

BLOB = b"a blob"
DIGEST = DigestFunction.SHA256.digest_of(BLOB)


async def test_a_mongo_store_does_what_the_file_says(environment: Environment):
    name = fresh_collection()
    text = f"""{{ stores: [{{ name: "CAS", experimental_mongo: {{
      connection_string: "{shared_mongo().url}",
      database: "nativelink",
      cas_collection: "{name}",
      key_prefix: "p:",
      read_chunk_size: 4,
      connection_timeout_ms: 60000,
      command_timeout_ms: 60000,
      write_concern_w: "1",
      write_concern_j: false,
      write_concern_timeout_ms: 60000,
      max_requests: 2,
    }} }}], servers: [] }}"""
    stores = StoreBuilder(Config.model_validate(json5.loads(text)).stores, environment)
    await stores.build_all()
    store = (await stores.named("CAS")).store
    await write_bytes(store, DIGEST, BLOB)
    assert await read_bytes(store, DIGEST) == BLOB
    with raw_collection(name) as raw:
        assert [document["_id"] for document in raw.find()] == [f"p:{DIGEST}"]
    (result,) = await environment.health.results(timeout_s=60)
    assert result.namespace == "/nativelink/stores/CAS/MongoStore"
    assert result.health is Health.OK
    await environment.lifetimes.aclose()


@pytest.mark.parametrize("key", ["write_concern_j: true", "write_concern_timeout_ms: 5"])
def test_a_write_concern_must_say_how_many_servers(key: str):
    spec = MongoSpec.model_validate(json5.loads(f"{{ connection_string: 'mongodb://m', {key} }}"))
    with pytest.raises(NativeLinkError, match="need write_concern_w") as caught:
        mongo_store(spec)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_mongo_is_asked_as_the_keys_say():
    spec = MongoSpec.model_validate(
        {
            "connection_string": "mongodb://127.0.0.1:1/?w=7",
            "database": "a-database",
            "cas_collection": "a-collection",
            "connection_timeout_ms": 123,
            "write_concern_w": "2",
            "write_concern_j": True,
            "write_concern_timeout_ms": 456,
        }
    )
    collection = mongo_store(spec).collection
    assert collection.full_name == "a-database.a-collection"
    # What the driver sends with every write.
    assert collection.write_concern.document == {"w": 2, "j": True, "wtimeout": 456}
    options = collection.database.client.options
    assert options.pool_options.connect_timeout == 0.123
    assert options.server_selection_timeout == 0.123
