"""The storage that NativeLink's documents configure, served by our program.

A document's text is used as it is printed (`tests/config/documents`). What must differ is changed
by the environment (endpoint and credentials of S3 and Google) or, where it cannot be, in the text:
addresses of Redis, ONTAP and listeners, and directories. What a document leaves out, because it
shows stores only, is put around it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests import plain_http
from tests.clients.certificates import Certificates
from tests.clients.front import Front
from tests.clients.served import Served
from tests.stores.cloud.google import xml_api
from tests.stores.cloud.servers import KEY, REGION, SECRET, FakeGcs, Moto, S3Server
from tests.stores.remote.redis_server import RedisServer

__all__ = ["DOCUMENTS", "serve_document"]

_TEXTS = Path(__file__).parents[1] / "config/documents"

_SERVERS = """
servers: [{ listener: { http: { socket_address: "127.0.0.1:PORT" } }, services: {
  cas: [{ instance_name: "main", cas_store: "CAS" }],
  ac: [{ instance_name: "main", ac_store: "AC_MAIN_STORE" }],
  bytestream: [{ instance_name: "main", cas_store: "CAS" }],
  capabilities: [{ instance_name: "main" }],
  health: {},
} }],
"""


def _text(name: str) -> str:
    (path,) = _TEXTS.glob(f"{name}-*.json5")
    return path.read_text(encoding="utf-8")


def _around(stores: str, cas: str) -> str:
    """A whole file with these stores, of which `cas` is the CAS; the action cache is 000's."""
    servers = _SERVERS.replace('"CAS"', f'"{cas}"')
    return f"{{ stores: [ {stores}\n {_text('000-2')} ], {servers} }}"


def _inner_stores(text: str) -> str:
    """What stands between the brackets of `stores`."""
    return text[text.index("[") + 1 : text.rindex("]")]


def _named(item: str, name: str = "CAS_MAIN_STORE") -> str:
    """A store that the document gives no name."""
    return item.strip().replace("{", f'{{ name: "{name}", ', 1) + ","


def _sharded() -> str:
    """000: Redis in front of S3, sixteen times, in shards."""
    shard = '{ store: { ref_store: { name: "CAS_TIERED" } }, weight: 1 },'
    more = "// ... repeat 15 more times, or generate at deploy time ..."
    text = _text("000-1")
    assert shard in text
    assert more in text
    return _around(_inner_stores(text.replace(more, shard * 15)), "CAS_MAIN_STORE")


def _production() -> str:
    """001: verify, dedup, LZ4, memory over S3."""
    return _around(_inner_stores(_text("001-1")), "CAS_PRODUCTION")


#: Name -> text of a file, with what is not of this machine still in it.
DOCUMENTS = {
    "000": _sharded,
    "001": _production,
    "003": lambda: _text("003-1"),
    "004-aws": lambda: _around(_named(_text("004-1")), "CAS_MAIN_STORE"),
    "004-gcs": lambda: _around(_named(_text("004-2")), "CAS_MAIN_STORE"),
    "004-ontap": lambda: _around(_named(_text("004-3")), "CAS_MAIN_STORE"),
    "004-fast-slow": lambda: _around(_named(_text("004-4")), "CAS_MAIN_STORE"),
}

_BUCKETS = (
    "nativelink-prod-cas",
    "nativelink-prod-ac",
    "nativelink-cas-index",
    "nativelink-cas-content",
    "mybucket-1b19581ba67b64d50b4325d1727205756",
    "crossplane-bucket-af79aeca9",
    "nativelink-prod-cache",
    "your-bucket",
)


def _make_buckets(server: S3Server) -> None:
    """Have these buckets, empty, and nothing else."""
    plain_http.post(f"http://127.0.0.1:{server.port}/moto-api/reset").raise_for_status()
    client = server.client()
    for bucket in _BUCKETS:
        client.create_bucket(
            Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
        )


@contextmanager
def _xml_api(upstream: int) -> Iterator[int]:
    """`xml_api` on a loop of its own, beside a test that has none."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    api = xml_api(upstream)
    port = asyncio.run_coroutine_threadsafe(api.__aenter__(), loop).result(120)
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(api.__aexit__(None, None, None), loop).result(120)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def serve_document(
    name: str, folder: Path, certificates: Certificates, s3: Moto
) -> Iterator[Served]:
    """Our server on the configuration of a document, over back ends of its own and an empty S3."""
    with ExitStack() as lifetimes:
        text = DOCUMENTS[name]()
        _make_buckets(s3)
        environment = {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{s3.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        changes = {"0.0.0.0:50051": "127.0.0.1:PORT"}
        if "redis.svc.cluster.local" in text:
            redis = lifetimes.enter_context(RedisServer())
            changes["redis.svc.cluster.local:6379"] = f"127.0.0.1:{redis.port}"
        if "gcs" in text:
            google = FakeGcs()
            lifetimes.callback(google.close)
            made = plain_http.post(google.url("/storage/v1/b"), json={"name": "test-bucket"})
            made.raise_for_status()
            port = lifetimes.enter_context(_xml_api(google.port))
            environment["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port}"
        if "ontap" in text:
            ontap = lifetimes.enter_context(Front(certificates.server))
            ontap.to(s3.port)
            changes["ontap-s3-endpoint:443"] = f"127.0.0.1:{ontap.port}"
            changes["/path/to/certs.pem"] = str(certificates.authority)
        changes["/mnt/ssd"] = str(folder / "ssd")
        for there, here in changes.items():
            text = text.replace(there, here)
        yield Served(folder, lifetimes, text, environment=environment)
