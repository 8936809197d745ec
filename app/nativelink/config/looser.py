"""Forms that are not in the reference but load, and what each is read as.

Data for the manual and for the tests, which load both sides of every row and compare. The
rewriting itself is in `legacy.py`; what is only a looser value is read by its kind (`fields.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["LOOSER_FORMS", "LooserForm"]


#: What surrounds a row's fragment in a whole file.
_AROUND: Final = {
    "the file": "{ FRAGMENT }",
    "a store": '{ stores: [{ name: "A", FRAGMENT }] }',
    "listener.http": (
        '{ servers: [{ listener: { http: { socket_address: "127.0.0.1:1", FRAGMENT } }, '
        "services: {} }] }"
    ),
    "services": (
        '{ servers: [{ listener: { http: { socket_address: "127.0.0.1:1" } }, '
        "services: { FRAGMENT } }] }"
    ),
    "a worker": (
        '{ workers: [{ local: { worker_api_endpoint: { uri: "grpc://s:1" }, '
        'cas_fast_slow_store: "CAS", work_directory: "/w", platform_properties: {}, FRAGMENT '
        "} }] }"
    ),
}


@dataclass(frozen=True, slots=True)
class LooserForm:
    """A row of the table.

    Attributes:
        place: what the two fragments are parts of; a key of `_AROUND`.
        written: a fragment in the looser form.
        read_as: the same in the current form.
        warns: the user is told of the current form.
        note: what more there is to say.
    """

    place: str
    written: str
    read_as: str
    warns: bool = True
    note: str = ""

    def whole(self, fragment: str) -> str:
        """A file's text with one of the fragments in its place."""
        return _AROUND[self.place].replace("FRAGMENT", fragment)


LOOSER_FORMS: Final = (
    LooserForm(
        "the file",
        "stores: { A: { noop: {} } }",
        'stores: [{ name: "A", noop: {} }]',
    ),
    LooserForm(
        "the file",
        "schedulers: { S: { simple: {} } }",
        'schedulers: [{ name: "S", simple: {} }]',
    ),
    LooserForm(
        "services",
        'cas: { main: { cas_store: "A" } }',
        'cas: [{ instance_name: "main", cas_store: "A" }]',
        note="Likewise `ac`, `capabilities`, `execution`, `fetch`, `push`.",
    ),
    LooserForm(
        "services",
        'bytestream: { cas_stores: { main: "A" }, max_bytes_per_stream: 16384 }',
        'bytestream: [{ instance_name: "main", cas_store: "A", max_bytes_per_stream: 16384 }]',
    ),
    LooserForm(
        "services",
        'bytestream: { cas_stores: { main: "A" }, max_decoding_message_size: 1 }',
        'bytestream: [{ instance_name: "main", cas_store: "A" }]',
        note="It never had an effect there.",
    ),
    LooserForm(
        "services",
        'bytestream: [{ cas_store: "A", persist_stream_on_disconnect_timeout: 7 }]',
        'bytestream: [{ cas_store: "A", persist_stream_on_disconnect_timeout_s: 7 }]',
    ),
    LooserForm(
        "a store",
        'experimental_s3_store: { region: "eu-central-1", bucket: "b" }',
        (
            "experimental_cloud_object_store: "
            '{ provider: "aws", region: "eu-central-1", bucket: "b" }'
        ),
    ),
    LooserForm(
        "a store",
        'experimental_gcs_store: { bucket: "b" }',
        'experimental_cloud_object_store: { provider: "gcs", bucket: "b" }',
    ),
    LooserForm(
        "a store",
        (
            "experimental_cloud_object_store: { "
            'provider: "gcs", bucket: "b", additional_max_concurrent_requests: 9 }'
        ),
        (
            "experimental_cloud_object_store: "
            '{ provider: "gcs", bucket: "b", max_concurrent_requests: 9 }'
        ),
    ),
    LooserForm(
        "a store",
        'redis_store: { addresses: ["redis://r:6379"], response_timeout_ms: 200 }',
        'redis_store: { addresses: ["redis://r:6379"], command_timeout_ms: 200 }',
    ),
    LooserForm(
        "listener.http",
        'tls: { cert_file: "/c", key_file: "/k", ca_file: "/a", verify_client: true }',
        'tls: { cert_file: "/c", key_file: "/k", client_ca_file: "/a" }',
    ),
    LooserForm(
        "listener.http",
        'tls: { cert_file: "/c", key_file: "/k", ca_file: "/a", verify_client: false }',
        'tls: { cert_file: "/c", key_file: "/k" }',
    ),
    LooserForm(
        "listener.http",
        "advanced_http: { http2_keepalive_interval: 30 }",
        "advanced_http: { http2_keep_alive_interval: 30 }",
    ),
    LooserForm(
        "listener.http",
        "advanced_http: { http2_keepalive_timeout: 10 }",
        "advanced_http: { experimental_http2_keep_alive_timeout_s: 10 }",
        note="Likewise `experimental_http2_keep_alive_timeout`.",
    ),
    LooserForm(
        "listener.http",
        "advanced_http: { max_concurrent_streams: 1000 }",
        "advanced_http: { experimental_http2_max_concurrent_streams: 1000 }",
    ),
    LooserForm(
        "a worker",
        "max_action_timeout: 3600",
        "max_action_timeout_s: 3600",
    ),
    LooserForm(
        "a worker",
        "max_upload_timeout: 60",
        "max_upload_timeout_s: 60",
    ),
    LooserForm(
        "a worker",
        'upload_action_result: { upload_action_result: { ac_store: "AC" } }',
        'upload_action_result: { ac_store: "AC" }',
    ),
    LooserForm(
        "a store",
        'filesystem: { content_path: "~/content", temp_path: "~/temp" }',
        'filesystem: { content_path: "/home/me/content", temp_path: "/home/me/temp" }',
        warns=False,
        note="`HOME` here is `/home/me`. In paths only.",
    ),
    LooserForm(
        "a store",
        'memory: { eviction_policy: { max_seconds: "30" } }',
        "memory: { eviction_policy: { max_seconds: 30 } }",
        warns=False,
        note="Every duration takes a number in quotes.",
    ),
    LooserForm(
        "a store",
        'redis_store: { addresses: ["redis://r:6379"], command_timeout_ms: "1.5s" }',
        'redis_store: { addresses: ["redis://r:6379"], command_timeout_ms: 1500 }',
        warns=False,
        note="Every number of milliseconds takes a unit.",
    ),
    LooserForm(
        "a store",
        'redis_store: { addresses: ["redis://r:6379"], read_chunk_size: "64kib" }',
        'redis_store: { addresses: ["redis://r:6379"], read_chunk_size: 65536 }',
        warns=False,
        note="Every number of bytes takes a unit.",
    ),
    LooserForm(
        "a store",
        "shard: { stores: [{ store: { noop: {} } }] }",
        "shard: { stores: [{ store: { noop: {} }, weight: 1 }] }",
        warns=False,
    ),
    LooserForm(
        "a store",
        'experimental_mongo: { connection_string: "mongodb://m", write_concern_w: 2 }',
        'experimental_mongo: { connection_string: "mongodb://m", write_concern_w: "2" }',
        warns=False,
    ),
    LooserForm(
        "the file",
        "global: {}",
        "global: { max_open_files: 24576 }",
        warns=False,
    ),
)
