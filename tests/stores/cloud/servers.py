"""Object store servers on loopback: of Amazon's protocol, Google's and Azure's."""

from __future__ import annotations

import atexit
import base64
import functools
import hmac
import itertools
import os
import re
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import boto3
import pytest
from botocore.config import Config
from obstore.store import AzureStore

from nativelink.core.retry import Retry
from nativelink.stores.cloud.aws import S3Address, StaticCredentials, s3_bucket
from nativelink.stores.cloud.azure import AzureAddress, azure_bucket
from nativelink.stores.cloud.bucket import Bucket
from nativelink.stores.cloud.client import ClientSettings
from nativelink.stores.cloud.gcs import gcs_bucket
from tests import plain_http
from tests.clients.programs import program as installed
from tests.ports import free_port

if TYPE_CHECKING:
    from obstore.store import ClientConfig

__all__ = [
    "BUCKET",
    "CLIENT",
    "KEY",
    "REGION",
    "SECRET",
    "Azurite",
    "FakeGcs",
    "Moto",
    "ObjectServer",
    "S3Server",
    "Versity",
    "fresh_prefix",
    "shared",
]

BUCKET = "bucket-of-tests"
REGION = "eu-central-1"
KEY, SECRET = "access-of-tests", "secret-of-tests"


class _PlainClient(ClientSettings):
    """Of servers without TLS.

    Who checks no certificate reads no authorities, which takes longer than many a test.
    """

    def options(self) -> ClientConfig:
        return {**super().options(), "allow_invalid_certificates": True}


CLIENT = _PlainClient(allow_http=True, disable_http2=True)

_ROOT = Path(__file__).parents[3]
_START_S = 120.0
_prefixes = itertools.count()


def fresh_prefix() -> str:
    """A key prefix under which a shared bucket holds nothing yet."""
    return f"{os.getpid()}-{next(_prefixes)}/"


class ObjectServer(ABC):
    """A server process with an empty bucket `BUCKET`.

    Attributes:
        port: where it listens, on loopback.
    """

    #: What its log says when it listens, with the port as its group.
    ready = re.compile(rb"http://127\.0\.0\.1:(\d+)")

    def __init__(self) -> None:
        self._folder = TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.start()
        self.make_bucket()

    def start(self) -> None:
        """Start it, again perhaps, and wait until it listens."""
        self.process = subprocess.Popen(
            [str(part) for part in self.command()],
            env={**os.environ, **self.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        atexit.register(self.close)
        self._lines: list[bytes] = []
        self._port: int | None = None
        self._listening = threading.Event()
        self._following = threading.Thread(target=self._follow, daemon=True)
        self._following.start()
        if not self._listening.wait(_START_S) or self._port is None:
            self.close()
            pytest.fail(f"{self.command()[0]}: {b''.join(self._lines).decode()}")
        self.port = self._port

    @abstractmethod
    def command(self) -> Sequence[object]:
        """What starts it."""

    def environment(self) -> Mapping[str, str]:
        """Variables for it."""
        return {}

    @abstractmethod
    def make_bucket(self) -> None:
        """Make `BUCKET`."""

    @abstractmethod
    def bucket(self, *, port: int | None = None, **settings: Any) -> Bucket:
        """Our way to it, perhaps through something that listens at another port."""

    @abstractmethod
    def names(self, prefix: str) -> set[str]:
        """Everything below a prefix, also what is not finished."""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """An object."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Make an object."""

    def _follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if self._listening.is_set():
                continue
            self._lines.append(line)
            if found := self.ready.search(line):
                self._port = int(found[1])
                self._listening.set()
        self._listening.set()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self._following.join()
        self.process.stdout.close()

    def close(self) -> None:
        """End it and remove its files."""
        self.kill()
        self._folder.cleanup()
        atexit.unregister(self.close)


@functools.cache
def _boto3_client(port: int) -> Any:
    """Making one takes longer than what it is asked, so it is kept."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name=REGION,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=Config(s3={"addressing_style": "path"}),
    )


class S3Server(ObjectServer):
    """A server of Amazon's protocol."""

    def client(self) -> Any:
        """boto3's client."""
        return _boto3_client(self.port)

    def make_bucket(self) -> None:
        where = {"LocationConstraint": REGION}
        self.client().create_bucket(Bucket=BUCKET, CreateBucketConfiguration=where)

    def bucket(self, *, port: int | None = None, **settings: Any) -> Bucket:
        address = S3Address(BUCKET, REGION, endpoint=f"http://127.0.0.1:{port or self.port}")
        return s3_bucket(
            address,
            credentials=StaticCredentials(KEY, SECRET),
            client=settings.pop("client", CLIENT),
            retry=settings.pop("retry", Retry()),
            **settings,
        )

    def unfinished(self) -> set[str]:
        """Keys of uploads that were begun and neither completed nor aborted."""
        found = self.client().list_multipart_uploads(Bucket=BUCKET)
        return {each["Key"] for each in found.get("Uploads", ())}

    def names(self, prefix: str) -> set[str]:
        found = self.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        unfinished = {f"{key} (unfinished)" for key in self.unfinished() if key.startswith(prefix)}
        return {each["Key"] for each in found.get("Contents", ())} | unfinished

    def read(self, path: str) -> bytes | None:
        client = self.client()
        try:
            data: bytes = client.get_object(Bucket=BUCKET, Key=path)["Body"].read()
        except client.exceptions.NoSuchKey:
            return None
        return data

    def write(self, path: str, data: bytes) -> None:
        self.client().put_object(Bucket=BUCKET, Key=path, Body=data)


class Moto(S3Server):
    """moto's server, mended."""

    def command(self) -> Sequence[object]:
        module = "scripts.region_local.emulator"
        return [sys.executable, "-m", module, "-H", "127.0.0.1", "-p", "0"]

    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(_ROOT)}


class Versity(S3Server):
    """versitygw over a folder."""

    ready = re.compile(rb"http://127\.0\.0\.1:(\d+)")

    def command(self) -> Sequence[object]:
        program = installed("versitygw")
        (self.root / "data").mkdir(exist_ok=True)
        return [program, "--access", KEY, "--secret", SECRET, "--region", REGION,
                "--port", f"127.0.0.1:{free_port()}", "posix", self.root / "data"]  # fmt: skip


class FakeGcs(ObjectServer):
    """fake-gcs-server."""

    def command(self) -> Sequence[object]:
        program = installed("fake-gcs-server")
        self._asked = free_port()
        return [program, "-scheme", "http", "-host", "127.0.0.1", "-port", self._asked,
                "-backend", "memory", "-public-host", f"127.0.0.1:{self._asked}",
                "-external-url", f"http://127.0.0.1:{self._asked}"]  # fmt: skip

    def url(self, path: str) -> str:
        """Where Google's JSON API has something."""
        return f"http://127.0.0.1:{self.port}{path}"

    def make_bucket(self) -> None:
        plain_http.post(self.url("/storage/v1/b"), json={"name": BUCKET}).raise_for_status()

    def bucket(self, *, port: int | None = None, **settings: Any) -> Bucket:
        return gcs_bucket(
            BUCKET,
            client=settings.pop("client", CLIENT),
            retry=settings.pop("retry", Retry()),
            anonymous=True,
            endpoint=f"http://127.0.0.1:{port or self.port}",
            **settings,
        )

    def names(self, prefix: str) -> set[str]:
        found = plain_http.get(
            self.url(f"/storage/v1/b/{BUCKET}/o"), params={"prefix": prefix}
        ).json()
        return {each["name"] for each in found.get("items", ())}

    def read(self, path: str) -> bytes | None:
        at = self.url(f"/storage/v1/b/{BUCKET}/o/{quote(path, safe='')}")
        answer = plain_http.get(at, params={"alt": "media"})
        return None if answer.status_code == 404 else answer.content

    def write(self, path: str, data: bytes) -> None:
        at = self.url(f"/upload/storage/v1/b/{BUCKET}/o")
        plain_http.post(at, params={"uploadType": "media", "name": path}, content=data)


class Azurite(ObjectServer):
    """Azurite's blob service."""

    ready = re.compile(rb"http://127\.0\.0\.1:(\d+)")
    account = "devstoreaccount1"
    #: Every Azurite has this account and key, as its documentation says.
    account_key = (
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    )

    def command(self) -> Sequence[object]:
        program = installed("azurite/node_modules/.bin/azurite-blob", tool="azurite")
        return [program, "--blobPort", "0", "--inMemoryPersistence", "--skipApiVersionCheck",
                "--disableTelemetry"]  # fmt: skip

    def objects(self) -> AzureStore:
        """The container, without us."""
        return AzureStore(
            BUCKET,
            config={
                "account_name": self.account,
                "account_key": self.account_key,
                "endpoint": f"http://127.0.0.1:{self.port}/{self.account}",
            },
            client_options=CLIENT.options(),
        )

    def make_bucket(self) -> None:
        # obstore makes no containers.
        date, version = formatdate(usegmt=True), "2021-12-02"
        place = f"/{self.account}/{self.account}/{BUCKET}\nrestype:container"
        text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n{place}"
        key = base64.b64decode(self.account_key)
        signature = base64.b64encode(hmac.digest(key, text.encode(), "sha256")).decode()
        plain_http.put(
            f"http://127.0.0.1:{self.port}/{self.account}/{BUCKET}?restype=container",
            headers={
                "x-ms-date": date,
                "x-ms-version": version,
                "authorization": f"SharedKey {self.account}:{signature}",
            },
        ).raise_for_status()

    def bucket(self, *, port: int | None = None, **settings: Any) -> Bucket:
        address = AzureAddress(
            self.account,
            BUCKET,
            endpoint=f"http://127.0.0.1:{port or self.port}/{self.account}",
            account_key=self.account_key,
        )
        return azure_bucket(
            address,
            client=settings.pop("client", CLIENT),
            retry=settings.pop("retry", Retry()),
            **settings,
        )

    def names(self, prefix: str) -> set[str]:
        # Blocks that were never committed are no blobs, and Azure forgets them.
        return {each["path"] for each in self.objects().list(prefix).collect()}

    def read(self, path: str) -> bytes | None:
        try:
            return bytes(self.objects().get(path).bytes())
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        self.objects().put(path, data)


Kind = TypeVar("Kind", bound=ObjectServer)


@cache
def shared(kind: type[Kind]) -> Kind:
    """The server of this kind that all tests of the process share."""
    return kind()
