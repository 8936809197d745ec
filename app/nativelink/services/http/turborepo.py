"""Turborepo's remote cache (the "Remote Cache API" of its documentation, version 8).

    GET    /v8/artifacts/status     that caching is switched on
    GET    /v8/artifacts/HASH       an artifact; HEAD asks whether there is one
    PUT    /v8/artifacts/HASH       stores it
    POST   /v8/artifacts            what is known of several artifacts
    POST   /v8/artifacts/events     hits and misses, which nobody keeps here

`teamId`, `slug` and `team` of the query are part of an artifact's name. The token that the client
insists on is not looked at: who may use the cache is the listener's business (mTLS).
"""

from __future__ import annotations

import json
import re
from typing import Any, Final
from urllib.parse import parse_qs, quote

from nativelink.core.errors import Code, NativeLinkError, invalid_argument
from nativelink.core.rpc import HttpRequest, HttpResponse, HttpSink
from nativelink.core.streams import Source
from nativelink.services.http.answers import header
from nativelink.services.http.bodies import LimitedBody
from nativelink.services.http.instance import HttpCacheInstance
from nativelink.services.http.refusal import not_allowed

__all__ = ["answer_turborepo"]

_HASH: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_JSON: Final = "application/json; charset=utf-8"
#: What an upload says of its artifact, and a download is told again: how long the task took, in
#: milliseconds, the signature, and of which commit it is.
_KEPT: Final = (
    "x-artifact-duration",
    "x-artifact-tag",
    "x-artifact-sha",
    "x-artifact-dirty-hash",
)
_VALUE: Final = re.compile(r"[\x21-\x7e]{1,600}")
_MILLIS: Final = re.compile(r"[0-9]{1,15}")
#: Of four values, in JSON, where a character may take two bytes.
_MAX_NOTE_BYTES: Final = 8192
_MAX_QUERY_BYTES: Final = 1024 * 1024
_MAX_HASHES: Final = 1000
_MAX_TEAM: Final = 128


async def answer_turborepo(
    request: HttpRequest, body: Source, sink: HttpSink, instance: HttpCacheInstance, rest: str
) -> HttpResponse | None:
    """Answer a request below `/v8/artifacts`.

    Raises:
        RefusedError: 404, 405, 413.
        NativeLinkError: INVALID_ARGUMENT for a malformed hash or query.
    """
    method = request.method
    if rest == "status":
        _require(method, "GET")
        return _json({"status": "enabled"})
    if rest == "events":
        _require(method, "POST")
        return HttpResponse(200)
    if not rest:
        _require(method, "POST")
        return _json(await _known(request, body, instance))
    path = _path(_team(request), rest)
    if method in {"GET", "HEAD"}:
        return await instance.get_path(request, sink, path, await _note(instance, path))
    if method == "PUT":
        note = {name: value for name in _KEPT if (value := header(request, name.encode()))}
        for name, value in note.items():
            if not _VALUE.fullmatch(value):
                raise invalid_argument(f"{name} {value[:80]!r}: visible ASCII is expected")
        if note or await instance.size_of(f"{path}/note") is not None:
            # Also one that says nothing: the older artifact's would be taken for this one's.
            await instance.write_path(f"{path}/note", json.dumps(note).encode())
        await instance.put_path(request, body, path)
        return _json({"urls": [f"/v8/artifacts/{rest}"]}, status=202)
    raise not_allowed(method, "GET, HEAD, PUT")


def _require(method: str, allowed: str) -> None:
    if method != allowed:
        raise not_allowed(method, allowed)


def _team(request: HttpRequest) -> str:
    """Whose artifacts a request is about.

    Raises:
        NativeLinkError: INVALID_ARGUMENT for a name that is too long; cut off, it could be another
            team's.
    """
    query = parse_qs(request.query)
    team = next((query[name][0] for name in ("teamId", "slug", "team") if name in query), "")
    if len(team) > _MAX_TEAM:
        raise invalid_argument(f"team {team[:40]!r}…: {_MAX_TEAM} characters are allowed")
    return team


def _path(team: str, hash_: str) -> str:
    """The name of an artifact's entry: the team, and the hash."""
    if not _HASH.fullmatch(hash_):
        raise invalid_argument(
            f"artifact {hash_[:100]!r}: 1 to 128 letters, digits, '-' and '_' are expected"
        )
    return f"turborepo/team-{quote(team, safe='')}/{hash_}"


async def _note(instance: HttpCacheInstance, path: str) -> dict[str, str]:
    """What the upload said of an artifact.

    It becomes header fields of an answer, and may have been put there as a path of `/cache`: what
    no upload to here could have said is left out.
    """
    try:
        note: Any = json.loads(await instance.read_path(f"{path}/note", _MAX_NOTE_BYTES))
    except (ValueError, RecursionError):
        return {}
    except NativeLinkError as error:
        if error.code in {Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED}:
            return {}
        raise
    if not isinstance(note, dict):
        return {}
    return {
        name: value
        for name, value in note.items()
        if name in _KEPT and isinstance(value, str) and _VALUE.fullmatch(value)
    }


async def _known(
    request: HttpRequest, body: Source, instance: HttpCacheInstance
) -> dict[str, object]:
    """Size and duration of each artifact that is asked for, null for those that are not here."""
    chunks: list[bytes] = []
    limited = LimitedBody(body, _MAX_QUERY_BYTES)
    while chunk := await limited.read():
        chunks.append(bytes(chunk))
    try:
        query: Any = json.loads(b"".join(chunks))
        hashes = [str(each) for each in query["hashes"]][: _MAX_HASHES + 1]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise invalid_argument('{"hashes": [...]} is expected') from error
    if len(hashes) > _MAX_HASHES:
        raise invalid_argument(f"{_MAX_HASHES} hashes are allowed in one request")
    found: dict[str, object] = {}
    team = _team(request)
    for hash_ in hashes:
        path = _path(team, hash_)
        size = await instance.size_of(path)
        if size is None:
            found[hash_] = None
            continue
        note = await _note(instance, path)
        duration = note.get("x-artifact-duration", "0")
        found[hash_] = {
            "size": size,
            "taskDurationMs": int(duration) if _MILLIS.fullmatch(duration) else 0,
        } | ({"tag": note["x-artifact-tag"]} if "x-artifact-tag" in note else {})
    return found


def _json(document: object, *, status: int = 200) -> HttpResponse:
    return HttpResponse(status, json.dumps(document).encode() + b"\n", content_type=_JSON)
