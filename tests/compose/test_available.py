"""What this version cannot start, named line by line."""

import json5

from nativelink.compose.available import unavailable
from nativelink.config import Config


def config(text: str) -> Config:
    return Config.model_validate(json5.loads(text))


def test_every_store_can_be_started():
    stores = """{ stores: [{ name: 'A', ontap_s3_existence_cache: {
      index_path: '/i', sync_interval_seconds: 9,
      backend: { endpoint: 'https://o', vserver_name: 'v', bucket: 'b' },
    } }], servers: [] }"""
    assert list(unavailable(config(stores))) == []


def test_schedulers_and_services_that_are_missing_are_named():
    text = """{
      stores: [{ name: "CAS", memory: {} }],
      schedulers: [{
        name: "MAIN",
        cache_lookup: {
          ac_store: "CAS",
          scheduler: { simple: { experimental_backend: { redis: { redis_store: "CAS" } } } },
        },
      }],
      servers: [{
        name: "public",
        listener: { http: { socket_address: "127.0.0.1:0" } },
        services: {
          execution: [{ cas_store: "CAS", scheduler: "MAIN" }],
        },
      }],
    }"""
    assert list(unavailable(config(text))) == [
        (
            "schedulers/MAIN/scheduler/experimental_backend: a scheduler's state in Redis is not "
            "available in this version"
        ),
    ]
