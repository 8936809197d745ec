import logging
import re
import subprocess
import sys

import pytest

from nativelink.config import Config, load_file
from nativelink.config.load import examine, examine_file
from nativelink.config.shape import secret_keys
from nativelink.config.specs_remote import StoreType
from nativelink.config.specs_stores import FastSlowSpec, MemorySpec, NamedStore
from nativelink.core.errors import Code, NativeLinkError

EMPTY = "{ stores: [], servers: [] }"


def load(text, environment=None):
    report = examine(text, "file", environment or {"HOME": "/home/me"})
    assert report.errors == ()
    return report.config


def test_a_file_becomes_frozen_specs(tmp_path):
    path = tmp_path / "file.json5"
    path.write_text('{ stores: [{ name: "A", memory: {} }], servers: [] }', encoding="utf-8")
    config = load_file(path)
    assert config.stores == (NamedStore(name="A", spec=MemorySpec()),)
    with pytest.raises(ValueError, match="frozen"):
        config.stores = ()
    with pytest.raises(ValueError, match="frozen"):
        config.stores[0].spec.eviction_policy = None


def test_a_byte_order_mark_is_no_syntax_error(tmp_path):
    path = tmp_path / "file.json5"
    path.write_bytes(b"\xef\xbb\xbf" + EMPTY.encode())
    assert load_file(path).stores == ()


def test_warnings_are_logged_and_errors_raised_together(tmp_path, caplog):
    path = tmp_path / "file.json5"
    path.write_text('{ stores: [{ name: "A", memory: {} }], servers: [] }', encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        load_file(path)
    assert f"{path}:1:12: warning: stores.A: nothing uses this store" in caplog.messages
    path.write_text('{ stores: [{ name: "A", memry: {} }] }', encoding="utf-8")
    with pytest.raises(NativeLinkError) as caught:
        load_file(path)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert 'unknown store kind "memry"' in caught.value.message
    assert "servers: is missing" in caught.value.message


def test_a_file_that_cannot_be_read_is_said_to_be_so(tmp_path):
    with pytest.raises(NativeLinkError, match="cannot be read: No such file") as caught:
        load_file(tmp_path / "absent")
    assert caught.value.code is Code.NOT_FOUND
    (tmp_path / "latin").write_bytes(b"{ a: '\xe4' }")
    with pytest.raises(NativeLinkError, match="not UTF-8 at byte 6"):
        examine_file(tmp_path / "latin")
    (tmp_path / "wide").write_bytes("{ }".encode("utf-16"))
    with pytest.raises(NativeLinkError, match="UTF-16; save it as UTF-8"):
        examine_file(tmp_path / "wide")


def test_endless_nesting_is_an_error_and_no_crash():
    (error,) = examine("[" * 100_000, "file", {}).errors
    assert error.sentence
    (error,) = examine("[" * 5000 + "]" * 5000, "file", {}).errors
    assert error.sentence == "nested too deeply"


@pytest.mark.parametrize("text", ["[]", "1", "null", '"x"'])
def test_a_file_that_is_no_object_is_an_error(text):
    (error,) = examine(text, "file", {}).errors
    assert error.sentence.startswith("not an object")
    assert (error.line, error.column) == (1, 1)


@pytest.mark.slow
def test_importing_the_loader_imports_neither_terminal_nor_server():
    code = (
        "import sys, nativelink.config.load\n"
        "print([name for name in ('rich', 'typer', 'grpc', 'opentelemetry', 'asyncio')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_an_explicit_zero_is_the_default_where_the_manual_says_so():
    config = load(
        """{
      stores: [
        { name: "F", filesystem: { content_path: "/c", temp_path: "/t", read_buffer_size: 0 } },
        { name: "D", dedup: { index_store: { noop: {} }, content_store: { noop: {} },
          min_size: 0, normal_size: 0, max_size: 0, max_concurrent_fetch_per_get: 0 } },
        { name: "R", redis_store: { addresses: ["redis://r"], retry: { max_retries: 0 } } },
        { name: "Z", compression: { backend: { noop: {} },
          compression_algorithm: { lz4: { block_size: 1024, max_decode_block_size: 0 } } } },
      ],
      servers: [{
        listener: { http: { socket_address: "[::1]:0", max_decoding_message_size: 0 } },
        services: {
          bytestream: [{ cas_store: "F", max_bytes_per_stream: 0,
            persist_stream_on_disconnect_timeout_s: 0 }],
          health: { path: "", timeout_seconds: 0 }, admin: { path: "" } },
      }],
    }"""
    )
    files, dedup, redis, compression = (store.spec for store in config.stores)
    assert (files.read_buffer_size, files.block_size) == (32_768, 4096)
    assert (dedup.min_size, dedup.normal_size, dedup.max_size) == (65_536, 262_144, 524_288)
    assert dedup.max_concurrent_fetch_per_get == 10
    assert (redis.retry.max_retries, redis.retry.delay) == (1, 0.1)
    assert compression.compression_algorithm.lz4.max_decode_block_size == 1024
    (server,) = config.servers
    assert (server.listener.http.host, server.listener.http.port) == ("::1", 0)
    assert server.listener.http.max_decoding_message_size == 4 * 1024**2
    (bytestream,) = server.services.bytestream
    assert bytestream.max_bytes_per_stream == 65_536
    assert bytestream.persist_stream_on_disconnect_timeout_s == 60
    assert server.services.health.path == "/status"
    assert server.services.health.timeout_seconds == 5
    assert server.services.admin.path == "/admin"


def test_null_is_the_same_as_leaving_a_key_out_where_the_manual_has_a_default():
    text = f"""{{
      stores: [
        {{ name: "M", memory: {{ eviction_policy: NULL }} }},
        {{ name: "S", shard: {{ stores: [{{ store: {{ noop: {{}} }}, weight: NULL }}] }} }},
        {{ name: "G", experimental_cloud_object_store: {{ provider: "gcs", bucket: "b",
          max_retry_buffer_per_request: NULL, resumable_chunk_size: NULL,
          multipart_max_concurrent_uploads: NULL }} }},
        {CAS},
      ],
      schedulers: [{{ name: "X", simple: {{ supported_platform_properties: NULL }} }}],
      workers: [{{ local: {{
        worker_api_endpoint: {{ uri: "grpc://s:1", timeout: NULL, tls_config: NULL }},
        cas_fast_slow_store: "CAS", platform_properties: {{}}, use_namespaces: NULL,
        upload_action_result: {{ upload_historical_results_strategy: NULL }} }} }}],
      servers: [{{ listener: {{ http: {{ socket_address: ":0", advanced_http: NULL,
        compression: {{ send_compression_algorithm: NULL,
          accepted_compression_algorithms: [] }} }} }}, services: {{ cas: NULL, admin: NULL }} }}],
      global: {{ default_digest_hash_function: NULL }},
    }}"""
    with_nulls = load(text.replace("NULL", "null"))
    assert with_nulls == load(re.sub(r"\w+: NULL,?", "", text))
    assert with_nulls.stores[1].spec.stores[0].weight == 1
    assert with_nulls.workers[0].local.worker_api_endpoint.timeout == 5.0


CAS = """{ name: "CAS", fast_slow: {
  fast: { ref_store: { name: "FILES" } }, slow: { noop: {} } } },
  { name: "FILES", filesystem: { content_path: "/data/content", temp_path: "/data/temp" } }"""


def worker(text):
    return (
        '{ local: { worker_api_endpoint: { uri: "grpc://s:1" }, cas_fast_slow_store: "CAS",'
        f" platform_properties: {{}}, {text} }} }}"
    )


def test_parts_without_a_name_are_named_by_their_position():
    named = worker('name: "w"')
    config = load(
        f"{{ stores: [{CAS}], workers: [{worker('')}, {named}, {worker('')}],"
        ' servers: [{ listener: { http: { socket_address: ":0" } }, services: {} },'
        ' { name: "s", listener: { http: { socket_address: ":0" } }, services: {} }] }'
    )
    assert [each.local.name for each in config.workers] == ["worker_0", "w", "worker_2"]
    assert [each.name for each in config.servers] == ["0", "s"]


def test_a_worker_works_beside_its_files_unless_told_otherwise():
    workers = ", ".join(
        worker(text)
        for text in (
            "directory_cache: {}",
            'work_directory: "/srv/work/here", directory_cache: {}',
            'work_directory: "/there", directory_cache: { cache_root: "/cache" }',
        )
    )
    config = load(f"{{ stores: [{CAS}], servers: [], workers: [{workers}] }}")
    one, two, three = (each.local for each in config.workers)
    assert one.work_directory == "/data/content.work/worker_0"
    assert one.directory_cache.cache_root == "/data/content.work/directory_cache"
    assert two.directory_cache.cache_root == "/srv/work/directory_cache"
    assert three.directory_cache.cache_root == "/cache"


UPSTREAM = (
    '{{ name: "{name}", verify: {{ verify_size: true, backend: {{ shard: {{ stores: [{{ store: '
    '{{ grpc: {{ store_type: "{kind}", endpoints: [{{ address: "grpc://c:1" }}], {rest} }} }} '
    "}}] }} }} }} }}"
)


def compression_of(config, name):
    (store,) = [store for store in config.stores if store.name == name]
    upstream = store.spec.backend.stores[0].store
    return upstream.experimental_remote_cache_compression


@pytest.mark.parametrize("wanted", [True, False])
def test_compressed_transfers_anywhere_turn_on_every_upstream_cas_that_is_silent(wanted):
    key = "experimental_remote_cache_compression"
    stores = ", ".join(
        (
            UPSTREAM.format(name="SILENT", kind="cas", rest=""),
            UPSTREAM.format(name="REFUSING", kind="cas", rest=f"{key}: false"),
            UPSTREAM.format(name="AC", kind="ac", rest=f"{key}: true"),
        )
    )
    report = examine(
        f"{{ stores: [{stores}], servers: [{{ "
        'listener: { http: { socket_address: ":0" } }, services: { '
        f"capabilities: [{{ remote_cache_compression: {str(wanted).lower()} }}] }} }}] }}",
        "file",
        {},
    )
    assert compression_of(report.config, "SILENT") is wanted
    assert compression_of(report.config, "REFUSING") is False
    assert compression_of(report.config, "AC") is False
    told = " ".join(each.sentence for each in report.warnings)
    assert "has no effect on an action cache" in told
    assert ("stay uncompressed" in told) is wanted


def test_an_upstream_cas_that_asks_for_compression_is_enough():
    key = "experimental_remote_cache_compression"
    config = load(
        f"{{ stores: [{UPSTREAM.format(name='A', kind='cas', rest=f'{key}: true')}, "
        f"{UPSTREAM.format(name='B', kind='cas', rest='')}], servers: [] }}"
    )
    assert compression_of(config, "A") is True
    assert compression_of(config, "B") is True


def test_specs_can_be_made_without_a_file():
    spec = FastSlowSpec(fast=MemorySpec(), slow=MemorySpec())
    assert spec.fast == MemorySpec()
    assert NamedStore(name="A", spec=spec).spec is spec
    assert StoreType("cas") is StoreType.CAS


def test_keys_that_hold_secrets_are_known():
    assert secret_keys(Config) == {"headers", "sas_url", "secret_access_key"}
