"""Google's XML API in front of fake-gcs-server, which has it for reading only.

Object writes, copies and uploads in parts are what obstore asks for in XML; here they become
requests of the JSON API, which fake-gcs-server has.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests import plain_http

__all__ = ["xml_api"]

_COPY: Final = re.compile(r"x-goog-copy-source: *([^\r]+)", re.IGNORECASE)


class _XmlApi:
    def __init__(self, upstream: int) -> None:
        self._client = plain_http.async_client(base_url=f"http://127.0.0.1:{upstream}", timeout=120)
        self._uploads = count()
        self._parts: dict[str, dict[int, bytes]] = defaultdict(dict)
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split(" ", 2)
            length = re.search(r"content-length: *(\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            status, fields, answer = await self._answer(method, target, head, body)
            lines = [f"HTTP/1.1 {status} X", *(f"{key}: {fields[key]}" for key in fields)]
            writer.write("\r\n".join([*lines, "connection: close", "", ""]).encode() + answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._serving.discard(task)
            writer.close()

    async def close(self) -> None:
        while self._serving:
            for task in self._serving:
                task.cancel()
            await asyncio.wait(self._serving)
        await self._client.aclose()

    async def _answer(
        self, method: str, target: str, head: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(target)
        query = parse_qs(parts.query, keep_blank_values=True)
        bucket, _, name = parts.path.lstrip("/").partition("/")
        name = unquote(name)
        if method in ("GET", "HEAD"):
            return await self._read(method, bucket, name, head)
        if "uploads" in query:
            upload = str(next(self._uploads))
            return _xml(
                "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key>"
                f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        if "uploadId" in query:
            upload = query["uploadId"][0]
            if method == "DELETE":
                del self._parts[upload]
                return 204, {"content-length": "0"}, b""
            if method == "PUT":
                self._parts[upload][int(query["partNumber"][0])] = body
                return 200, {"etag": '"part"', "content-length": "0"}, b""
            data = self._parts.pop(upload)
            await self._write(bucket, name, b"".join(data[key] for key in sorted(data)))
            return _xml(
                "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
            )
        if copied := _COPY.search(head):
            source = unquote(copied[1].strip()).partition("/")[2]
            answer = await self._client.get(_object(bucket, source), params={"alt": "media"})
            body = answer.content
        await self._write(bucket, name, body)
        return 200, {"etag": '"whole"', "content-length": "0"}, b""

    async def _write(self, bucket: str, name: str, data: bytes) -> None:
        answer = await self._client.post(
            f"/upload/storage/v1/b/{bucket}/o",
            params={"uploadType": "media", "name": name},
            content=data,
        )
        answer.raise_for_status()

    async def _read(
        self, method: str, bucket: str, name: str, head: str
    ) -> tuple[int, dict[str, str], bytes]:
        asked = re.search(r"\r\nrange: *([^\r]+)", head, re.IGNORECASE)
        answer = await self._client.request(
            method,
            f"/{bucket}/{quote(name)}",
            headers={"range": asked[1]} if asked else {},
        )
        kept = ("content-range", "content-length", "last-modified", "etag")
        fields = {key: answer.headers[key] for key in kept if key in answer.headers}
        return answer.status_code, fields, answer.content


def _object(bucket: str, name: str) -> str:
    return f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"


def _xml(text: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {"content-length": str(len(text))}, text.encode()


@asynccontextmanager
async def xml_api(upstream: int) -> AsyncIterator[int]:
    """The port of such a server."""
    api = _XmlApi(upstream)
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0, limit=2**20)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await api.close()
