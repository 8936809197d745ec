from __future__ import annotations

import json
from typing import Any

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import Code, NativeLinkError
from nativelink.core.rpc import HttpRequest, HttpResponse, HttpRoute, Peer
from nativelink.scheduler.action import ActionInfo, ActionKey, Origin
from nativelink.scheduler.operation import Failure
from nativelink.scheduler.scheduler import WorkerHello
from nativelink.services import farm
from nativelink.services.farm import farm_routes
from nativelink.testing.fakes import Turns
from tests.services.scheduling import FakeGateway, FakeScheduler

DIGEST = DigestFunction.SHA256.digest_of(b"x")


class Pages:
    def __init__(self) -> None:
        self.scheduler = FakeScheduler()
        self.gateway = FakeGateway()
        self._routes = farm_routes({"MAIN": self.scheduler}, {"MAIN": self.gateway}, path="/admin")

    def _route(self, path: str) -> HttpRoute:
        (route,) = (
            route
            for route in self._routes
            if path == route.path or (route.prefix and path.startswith(route.path + "/"))
        )
        return route

    async def ask(self, method: str, path: str, query: str = "", headers: Any = ()) -> HttpResponse:
        request = HttpRequest(
            method, path, query, [(b"host", b"here:50061"), *headers], b"", Peer("")
        )
        return await self._route(path).handler(request)

    async def get(self, path: str, query: str = "") -> Any:
        response = await self.ask("GET", path, query)
        assert response.status == 200
        assert response.content_type.startswith("application/json")
        return json.loads(response.body)


@pytest.fixture
def pages() -> Pages:
    pages = Pages()
    pages.gateway.connect(
        WorkerHello("w", (("os", "debian"), ("os", "linux")), running=("op",), address="there:1")
    )
    return pages


async def test_workers_are_shown(pages: Pages) -> None:
    (worker,) = (await pages.get("/admin/workers"))["MAIN"]
    assert worker["worker_id"] == "w1"
    assert worker["address"] == "there:1"
    assert worker["properties"] == {"os": ["debian", "linux"]}
    assert worker["running"] == ["op"]
    assert (worker["draining"], worker["connected"]) == (False, True)


async def test_so_many_operations_are_shown_at_most_and_others_have_their_turns(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farm, "_MAX_OPERATIONS", 50)
    monkeypatch.setattr(farm, "_AT_ONCE", 10)
    for number in range(60):
        digest = DigestFunction.SHA256.digest_of(b"%d" % number)
        await pages.scheduler.execute(ActionInfo(ActionKey("main", DigestFunction.SHA256, digest)))

    async with Turns() as turns:
        shown = (await pages.get("/admin/operations"))["MAIN"]

    assert [each["name"] for each in shown] == list(pages.scheduler.views)[:50]
    assert turns.taken >= 5


async def test_operations_are_shown_and_filtered(pages: Pages) -> None:
    for target in ("//a", "//b c"):
        action = ActionInfo(
            ActionKey("main", DigestFunction.SHA256, DIGEST), origin=Origin(target_id=target)
        )
        await pages.scheduler.execute(action)
    pages.scheduler.fail(Failure(Code.INTERNAL, "broken"))
    first, second = (await pages.get("/admin/operations"))["MAIN"]
    assert (first["stage"], first["failure"]) == ("QUEUED", None)
    assert (second["stage"], second["failure"]) == ("COMPLETED", "broken")
    assert second["action"] == f"{DIGEST.hash}/1"
    found = await pages.get("/admin/operations", "filter=target%3D%22//b%20c%22")
    assert found == {"MAIN": [second]}
    with pytest.raises(NativeLinkError) as raised:
        await pages.ask("GET", "/admin/operations", "filter=colour%3Dred")
    assert raised.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(("flag", "text"), [("1", b"Draining"), ("0", b"Undraining")])
async def test_a_worker_is_drained_as_nativelink_does_it(
    pages: Pages, flag: str, text: bytes
) -> None:
    response = await pages.ask("POST", f"/admin/scheduler/MAIN/set_drain_worker/w1/{flag}")
    assert (response.status, response.body) == (200, text + b" worker w1\n")
    assert pages.gateway.draining == {"w1": flag == "1"}


async def test_ids_of_workers_may_hold_anything(pages: Pages) -> None:
    pages.gateway.connect(WorkerHello("a/b %", ()))
    await pages.ask("POST", "/admin/scheduler/MAIN/set_drain_worker/a/b%20%252/1")
    assert pages.gateway.draining == {"a/b %2": True}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("MAIN/set_drain_worker/w9/1", Code.NOT_FOUND),
        ("OTHER/set_drain_worker/w1/1", Code.NOT_FOUND),
        ("MAIN/set_drain_worker/w1", Code.NOT_FOUND),
        ("MAIN", Code.NOT_FOUND),
        ("MAIN/set_drain_worker/w1/2", Code.INVALID_ARGUMENT),
    ],
)
async def test_what_is_not_there_cannot_be_drained(pages: Pages, path: str, code: Code) -> None:
    with pytest.raises(NativeLinkError) as raised:
        await pages.ask("POST", f"/admin/scheduler/{path}")
    assert raised.value.code is code
    assert not pages.gateway.draining


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/admin/scheduler/MAIN/set_drain_worker/w1/1", "POST"),
        ("POST", "/admin/workers", "GET, HEAD"),
        ("DELETE", "/admin/operations", "GET, HEAD"),
    ],
)
async def test_looking_changes_nothing(pages: Pages, method: str, path: str, allowed: str) -> None:
    response = await pages.ask(method, path)
    assert response.status == 405
    assert response.headers["allow"] == allowed
    assert not pages.gateway.draining


@pytest.mark.parametrize(
    "headers",
    [
        [(b"origin", b"http://elsewhere")],
        [(b"Origin", b"null")],
        [(b"sec-fetch-site", b"cross-site")],
        # A name that was made to point here a moment ago (DNS rebinding) looks like this.
        [(b"origin", b"http://here:50061"), (b"sec-fetch-site", b"same-origin")],
        [(b"origin", b"http://here:50061")],
    ],
)
async def test_a_page_in_a_browser_changes_nothing(pages: Pages, headers: Any) -> None:
    path = "/admin/scheduler/MAIN/set_drain_worker/w1/1"
    response = await pages.ask("POST", path, headers=headers)
    assert response.status == 403
    assert not pages.gateway.draining
