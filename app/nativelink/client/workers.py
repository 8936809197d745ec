"""Workers, over the administration pages of who they joined."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from nativelink.client.obstacles import client_context
from nativelink.client.remote import Remote
from nativelink.core.errors import (
    Code,
    NativeLinkError,
    internal,
    invalid_argument,
    not_found,
    unavailable,
)
from nativelink.scheduler.scheduler import WorkerView
from nativelink.services.farm import worker_document
from nativelink.transport.endpoints import ClientTls

__all__ = ["JoinedWorker", "WorkerView", "find_worker", "list_workers", "set_drain"]

_TIMEOUT_S: Final = 30.0
_CODES: Final = {
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
}


@dataclass(frozen=True, slots=True)
class JoinedWorker:
    """A worker, and the name of the scheduler that it joined."""

    scheduler: str
    view: WorkerView

    def document(self) -> dict[str, object]:
        """As JSON has it."""
        return {"scheduler": self.scheduler, **worker_document(self.view)}


async def list_workers(remote: Remote, *, admin_path: str) -> list[JoinedWorker]:
    """All workers, by scheduler and id.

    Raises:
        NativeLinkError: UNIMPLEMENTED if the server has no such page; UNAVAILABLE.
    """
    path = f"{admin_path}/workers"
    try:
        body = await _ask(remote, "GET", path)
    except NativeLinkError as error:
        if error.code is Code.NOT_FOUND:
            raise NativeLinkError(
                Code.UNIMPLEMENTED,
                f"there is no page {path}, which takes a scheduler in that process and "
                "services.admin on that listener (--admin-path if it was moved)",
            ) from error
        raise
    try:
        schedulers = json.loads(body)
        return [
            JoinedWorker(scheduler, _view(worker))
            for scheduler, workers in schedulers.items()
            for worker in workers
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise internal(f"{path} is no list of workers: {error!r}") from error


async def find_worker(remote: Remote, worker_id: str, *, admin_path: str) -> JoinedWorker:
    """The worker of this id, or the only one whose id begins so.

    Raises:
        NativeLinkError: NOT_FOUND naming those that there are; INVALID_ARGUMENT if several ids
            begin so.
    """
    workers = await list_workers(remote, admin_path=admin_path)
    meant = [each for each in workers if each.view.worker_id == worker_id] or [
        each for each in workers if worker_id and each.view.worker_id.startswith(worker_id)
    ]
    if len(meant) == 1:
        return meant[0]
    if meant:
        ids = ", ".join(sorted(each.view.worker_id for each in meant)[:10])
        raise invalid_argument(f"{len(meant)} workers begin with {worker_id!r}: {ids}")
    ids = ", ".join(worker.view.worker_id for worker in workers[:10]) or "none"
    more = f" and {len(workers) - 10} more" if len(workers) > 10 else ""
    raise not_found(f"there is no worker {worker_id!r}; workers: {ids}{more}")


async def set_drain(
    remote: Remote, worker: JoinedWorker, *, draining: bool, admin_path: str
) -> None:
    """Let a worker get no new actions, or get some again.

    Raises:
        NativeLinkError: NOT_FOUND if it left meanwhile.
    """
    scheduler = quote(worker.scheduler, safe="")
    worker_id = quote(worker.view.worker_id, safe="")
    path = f"{admin_path}/scheduler/{scheduler}/set_drain_worker/{worker_id}/{int(draining)}"
    await _ask(remote, "POST", path)


def _view(worker: dict[str, Any]) -> WorkerView:
    return WorkerView(
        worker_id=worker["worker_id"],
        address=worker["address"],
        properties=tuple(
            (name, value) for name, values in worker["properties"].items() for value in values
        ),
        max_inflight_tasks=worker["max_inflight_tasks"],
        running=tuple(worker["running"]),
        draining=worker["draining"],
        paused=worker["paused"],
        connected=worker["connected"],
        connected_at=worker["connected_at"],
        last_seen_at=worker["last_seen_at"],
        quarantined=worker.get("quarantined", False),
    )


async def _ask(remote: Remote, method: str, path: str) -> bytes:
    """One request, in a thread: the standard library's client waits."""
    status, body = await asyncio.to_thread(_request, remote, method, path)
    if status == http.client.OK:
        return body
    text = body.decode("utf-8", "replace").strip()[:500]
    code = _CODES.get(status, Code.UNKNOWN)
    if code is Code.NOT_FOUND and not text:
        text = "no such page"
    raise NativeLinkError(code, f"{method} {path}: {status} {text}")


def _request(remote: Remote, method: str, path: str) -> tuple[int, bytes]:
    endpoint = remote.endpoint
    parts = urlsplit(f"//{endpoint.address}")
    host, port = parts.hostname or "", parts.port
    try:
        with contextlib.closing(_connection(host, port, endpoint.tls)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise unavailable(str(error) or type(error).__name__) from error


def _connection(host: str, port: int | None, tls: ClientTls | None) -> http.client.HTTPConnection:
    if tls is None:
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    context = client_context(tls)
    return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)
