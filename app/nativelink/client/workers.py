"""Workers, over the administration pages of who they joined."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from nativelink.client.remote import Remote
from nativelink.core.errors import Code, NativeLinkError, internal, not_found, unavailable
from nativelink.scheduler.scheduler import WorkerView
from nativelink.services.farm import worker_document

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
        NativeLinkError: NOT_FOUND if the server has no such page; UNAVAILABLE.
    """
    body = await _ask(remote, "GET", f"{admin_path}/workers")
    try:
        schedulers = json.loads(body)
        return [
            JoinedWorker(scheduler, _view(worker))
            for scheduler, workers in schedulers.items()
            for worker in workers
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise internal(f"{admin_path}/workers is no list of workers: {error!r}") from error


async def find_worker(remote: Remote, worker_id: str, *, admin_path: str) -> JoinedWorker:
    """The worker of this id.

    Raises:
        NativeLinkError: NOT_FOUND naming those that there are.
    """
    workers = await list_workers(remote, admin_path=admin_path)
    for worker in workers:
        if worker.view.worker_id == worker_id:
            return worker
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
    connection: http.client.HTTPConnection
    if endpoint.tls is None:
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    else:
        tls = endpoint.tls
        trusted = None if tls.use_native_roots or tls.ca_file is None else str(tls.ca_file)
        quarantined=worker.get("quarantined", False),
        context = ssl.create_default_context(cafile=trusted)
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
        connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise unavailable(str(error) or type(error).__name__) from error
    finally:
        connection.close()
