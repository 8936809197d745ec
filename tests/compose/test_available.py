"""What this version cannot start, named line by line."""

import json5

from nativelink.compose.available import ignored, unavailable
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


def test_options_that_clients_can_do_without_are_passed_over_with_a_line():
    text = """{
      stores: [{ name: "CAS", memory: {} }],
      servers: [{
        listener: { http: { socket_address: "127.0.0.1:0" } },
        services: {
          cas: [{ instance_name: "a", cas_store: "CAS", experimental_chunking: {} }],
          capabilities: [{ instance_name: "a", remote_cache_compression: true },
                         { instance_name: "b" }],
        },
      }],
    }"""
    assert list(unavailable(config(text))) == []
    chunking, compression = ignored(config(text))
    assert chunking.startswith("servers/0/services/cas/a: experimental_chunking is not available")
    assert compression.startswith("servers/0/services/capabilities/a: remote_cache_compression")
