"""Administration of workers and operations over HTTP.

    GET  {path}/workers                                    all workers, by scheduler
    GET  {path}/operations?filter=...                      the oldest operations, by scheduler
    POST {path}/scheduler/{name}/set_drain_worker/{id}/1   no new actions for a worker (0: again)

The third is NativeLink's. The filter is that of ListOperations (`operation_filter.py`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Final
from urllib.parse import parse_qs, unquote

from nativelink.core.errors import invalid_argument, not_found
from nativelink.core.rpc import HttpRequest, HttpResponse, HttpRoute
from nativelink.scheduler.operation import OperationView
from nativelink.scheduler.scheduler import Scheduler, WorkerGateway, WorkerView
from nativelink.services.operation_filter import OperationFilter, parse_filter
from nativelink.services.operation_lists import in_order

__all__ = ["farm_routes", "operation_document", "worker_document"]

_JSON: Final = "application/json; charset=utf-8"
_NO_STORE: Final = {"cache-control": "no-store"}
_SET_DRAIN: Final = "/set_drain_worker/"
#: As many as a page of ListOperations has at most, which goes on where they end: some 9 MB.
_MAX_OPERATIONS: Final = 10_000
#: So many are encoded before others have a turn: some 20 ms.
_AT_ONCE: Final = 1_000
_FLAGS: Final = {"0": False, "1": True}


def farm_routes(
    schedulers: Mapping[str, Scheduler], gateways: Mapping[str, WorkerGateway], *, path: str
) -> Sequence[HttpRoute]:
    """The pages below the administration page.

    Args:
        schedulers: whose operations are shown, by name.
        gateways: whose workers are shown, by the same names.
        path: of the administration page.
    """

    async def workers(request: HttpRequest) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return _not_allowed("GET, HEAD")
        return _json(
            {
                name: [json.dumps(worker_document(view)) for view in gateway.workers()]
                for name, gateway in gateways.items()
            }
        )

    async def operations(request: HttpRequest) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return _not_allowed("GET, HEAD")
        wanted = parse_filter(" AND ".join(parse_qs(request.query).get("filter", ())))
        return _json(
            {name: await _operations(scheduler, wanted) for name, scheduler in schedulers.items()}
        )

    async def set_drain(request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return _not_allowed("POST")
        if _from_a_page(request):
            return HttpResponse(403, b"pages in a browser may not change anything here\n")
        rest = request.path[len(path) + len("/scheduler/") :]
        scheduler, separator, rest = rest.partition(_SET_DRAIN)
        worker_id, slash, flag = rest.rpartition("/")
        if not separator or not slash:
            raise not_found(f"no page {request.path[:200]!r}; see {path}/workers")
        draining = _FLAGS.get(flag)
        if draining is None:
            raise invalid_argument(f"the path ends in {flag[:40]!r}; 1 drains and 0 undrains")
        gateway = gateways.get(unquote(scheduler))
        if gateway is None:
            names = ", ".join(gateways) or "none"
            raise not_found(f"no workers join {unquote(scheduler)[:200]!r}; schedulers: {names}")
        worker_id = unquote(worker_id)
        gateway.drain(worker_id, draining=draining)
        return HttpResponse(
            200, f"{'Draining' if draining else 'Undraining'} worker {worker_id}\n".encode()
        )

    return (
        HttpRoute(f"{path}/workers", workers),
        HttpRoute(f"{path}/operations", operations),
        HttpRoute(f"{path}/scheduler", set_drain, prefix=True),
    )


async def _operations(scheduler: Scheduler, wanted: OperationFilter) -> list[str]:
    """The oldest operations that are wanted, encoded, with a pause for others now and then."""
    found: list[OperationView] = []
    async with aclosing(in_order(scheduler)) as views:
        async for view in views:
            if wanted(view):
                found.append(view)
                if len(found) == _MAX_OPERATIONS:
                    break
    lines: list[str] = []
    for start in range(0, len(found), _AT_ONCE):
        await asyncio.sleep(0)
        lines += [json.dumps(operation_document(view)) for view in found[start : start + _AT_ONCE]]
    return lines


def worker_document(view: WorkerView) -> dict[str, object]:
    """A worker as JSON has it."""
    properties: dict[str, list[str]] = {}
    for name, value in view.properties:
        properties.setdefault(name, []).append(value)
    return {
        "worker_id": view.worker_id,
        "address": view.address,
        "properties": properties,
        "max_inflight_tasks": view.max_inflight_tasks,
        "running": list(view.running),
        "draining": view.draining,
        "paused": view.paused,
        "quarantined": view.quarantined,
        "connected": view.connected,
        "connected_at": view.connected_at,
        "last_seen_at": view.last_seen_at,
    }


def operation_document(view: OperationView) -> dict[str, object]:
    """An operation as JSON has it."""
    action = view.action
    return {
        "name": view.name,
        "operation_id": view.operation_id,
        "instance_name": action.key.instance_name,
        "action": f"{action.key.digest.hash}/{action.key.digest.size_bytes}",
        "digest_function": action.key.digest_function.name,
        "stage": view.stage.name,
        "priority": view.priority,
        "properties": [f"{name}={value}" for name, value in action.properties],
        "queued_at": view.queued_at,
        "started_at": view.started_at,
        "finished_at": view.finished_at,
        "worker_id": view.worker_id,
        "attempts": view.attempts,
        "queue_position": view.queue_position,
        "note": view.note,
        "failure": None if view.failure is None else view.failure.message,
        "cached": view.cached,
        "tool_invocation_id": action.origin.tool_invocation_id,
        "target_id": action.origin.target_id,
        "action_mnemonic": action.origin.action_mnemonic,
        "identity": action.origin.identity,
        # Lists go without; they would say of everything that nothing ever happened.
        **({"story": [entry._asdict() for entry in view.story]} if view.story else {}),
    }


def _json(lists: Mapping[str, Sequence[str]]) -> HttpResponse:
    """Lists by name, one encoded entry a line."""
    texts: list[str] = []
    for name, lines in lists.items():
        entries = ",".join([f"\n    {line}" for line in lines])
        texts.append(f"  {json.dumps(name)}: [{entries}]")
    body = "{\n" + ",\n".join(texts) + "\n}\n"
    return HttpResponse(200, body.encode(), content_type=_JSON, headers=_NO_STORE)


def _not_allowed(methods: str) -> HttpResponse:
    return HttpResponse(405, f"{methods} is allowed\n".encode(), headers={"allow": methods})


def _from_a_page(request: HttpRequest) -> bool:
    """Whether a browser sends this, for whatever page (CSRF).

    None of ours has anything to press. A page that seems to be of this very server may be of one
    whose name was made to point here a moment ago (DNS rebinding): Origin and Host agree then.
    """
    names = {name.lower() for name, _ in request.headers}
    return not names.isdisjoint((b"origin", b"sec-fetch-site"))
