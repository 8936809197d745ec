"""As much of WebDAV (RFC 4918) as sccache asks for: what is there, and folders that always are.

Folders are only parts of names here, so each exists, and making one does nothing.
"""

from __future__ import annotations

from email.utils import formatdate
from typing import Final
from xml.sax.saxutils import escape

from nativelink.core.rpc import HttpRequest, HttpResponse
from nativelink.services.http.instance import HttpCacheInstance
from nativelink.services.http.refusal import RefusedError

__all__ = ["METHODS", "answer_webdav"]

METHODS: Final = ("OPTIONS", "PROPFIND", "MKCOL")

#: When an entry was written is not kept; clients want a date all the same.
_SOME_DATE: Final = formatdate(0, usegmt=True)


async def answer_webdav(
    request: HttpRequest, instance: HttpCacheInstance, path: str
) -> HttpResponse:
    """Answer one of `METHODS` of a path below `/cache/`.

    Raises:
        RefusedError: 404 for an entry that is not there.
    """
    if request.method == "OPTIONS":
        allow = ", ".join(("GET", "HEAD", "PUT", *METHODS))
        return HttpResponse(204, headers={"allow": allow, "dav": "1"})
    if request.method == "MKCOL":
        return HttpResponse(201)
    if not path or path.endswith("/"):
        return _found(request.path, "<D:resourcetype><D:collection/></D:resourcetype>")
    size = await instance.size_of(path)
    if size is None:
        raise RefusedError(404, f"entry {path[:200]} is not here")
    return _found(
        request.path,
        f"<D:resourcetype/><D:getcontentlength>{size}</D:getcontentlength>",
    )


def _found(path: str, properties: str) -> HttpResponse:
    body = (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<D:multistatus xmlns:D="DAV:"><D:response>'
        f"<D:href>{escape(path)}</D:href>"
        f"<D:propstat><D:prop>{properties}"
        f"<D:getlastmodified>{_SOME_DATE}</D:getlastmodified></D:prop>"
        "<D:status>HTTP/1.1 200 OK</D:status></D:propstat>"
        "</D:response></D:multistatus>\n"
    )
    return HttpResponse(207, body.encode(), content_type="application/xml; charset=utf-8")
