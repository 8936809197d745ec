"""`/v8/artifacts`: what Turborepo's client asks for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from urllib.parse import parse_qs

import pytest

from nativelink.services.http import turborepo
from nativelink.services.http.instance import HttpCacheInstance
from nativelink.testing.fakes import DictStore
from tests.services.http.web import Web, web

ARTIFACT = b"a tar, compressed by the client"


@pytest.fixture
async def ask() -> AsyncIterator[Web]:
    async with web({"": HttpCacheInstance("", DictStore())}) as ask:
        yield ask


async def test_caching_is_switched_on(ask: Web) -> None:
    answer = await ask.get("/v8/artifacts/status?teamId=t")
    assert (answer.status, json.loads(answer.body)) == (200, {"status": "enabled"})


async def test_an_artifact_comes_back_with_what_was_said_of_it(ask: Web) -> None:
    path = "/v8/artifacts/e8ca63d6b6e27034?slug=team"
    assert (await ask.get(path)).status == 404
    put = await ask.put(path, ARTIFACT, x_artifact_duration="541", x_artifact_tag="c2ln")
    assert put.status == 202
    answer = await ask.get(path)
    assert (answer.status, answer.body) == (200, ARTIFACT)
    assert answer.headers["x-artifact-duration"] == "541"
    assert answer.headers["x-artifact-tag"] == "c2ln"
    assert (await ask.head(path)).headers["content-length"] == str(len(ARTIFACT))


async def test_an_artifact_without_a_word_about_it_is_one(ask: Web) -> None:
    await ask.put("/v8/artifacts/a", ARTIFACT)
    answer = await ask.get("/v8/artifacts/a")
    assert (answer.body, "x-artifact-tag" in answer.headers) == (ARTIFACT, False)


async def test_teams_do_not_see_each_other(ask: Web) -> None:
    await ask.put("/v8/artifacts/a?teamId=one", ARTIFACT)
    assert (await ask.get("/v8/artifacts/a?teamId=one")).status == 200
    for query in ("?teamId=two", "", "?teamId=..%2Fteam-one"):
        assert (await ask.get(f"/v8/artifacts/a{query}")).status == 404


async def test_teams_whose_names_begin_alike_do_not_see_each_other(ask: Web) -> None:
    long = "t" * 128
    assert (await ask.put(f"/v8/artifacts/a?slug={long}", ARTIFACT)).status == 202
    for name in (f"{long}x", f"{long}y"):
        assert (await ask.put(f"/v8/artifacts/a?slug={name}", b"theirs")).status == 400
        assert (await ask.get(f"/v8/artifacts/a?slug={name}")).status == 400
    assert (await ask.get(f"/v8/artifacts/a?slug={long}")).body == ARTIFACT


async def test_several_artifacts_are_asked_for_at_once(ask: Web) -> None:
    await ask.put("/v8/artifacts/a?slug=t", ARTIFACT, x_artifact_duration="9", x_artifact_tag="s")
    query = json.dumps({"hashes": ["a", "b"]}).encode()
    answer = await ask.ask("POST", "/v8/artifacts?slug=t", query)
    assert json.loads(answer.body) == {
        "a": {"size": len(ARTIFACT), "taskDurationMs": 9, "tag": "s"},
        "b": None,
    }


async def test_events_are_taken(ask: Web) -> None:
    assert (await ask.ask("POST", "/v8/artifacts/events", b"[]")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v8/artifacts/a/b", b"", 400),
        ("GET", "/v8/artifacts/..", b"", 400),
        ("GET", "/v8/artifacts/" + "x" * 129, b"", 400),
        ("DELETE", "/v8/artifacts/a", b"", 405),
        ("GET", "/v8/artifacts", b"", 405),
        ("PUT", "/v8/artifacts/status", b"", 405),
        ("GET", "/v8/artifacts/events", b"", 405),
        ("POST", "/v8/artifacts", b"not JSON", 400),
        ("POST", "/v8/artifacts", b"[]", 400),
        ("POST", "/v8/artifacts", json.dumps({"hashes": ["x"] * 1001}).encode(), 400),
        ("POST", "/v8/artifacts", bytes(1024 * 1024 + 1), 413),
    ],
)
async def test_what_makes_no_sense_is_refused(
    ask: Web, method: str, path: str, body: bytes, status: int
) -> None:
    assert (await ask.ask(method, path, body)).status == status


async def test_a_tag_that_could_be_another_header_is_refused(ask: Web) -> None:
    answer = await ask.put("/v8/artifacts/a", ARTIFACT, x_artifact_tag="ä")
    assert answer.status == 400


async def test_what_is_put_as_a_path_chooses_no_header_fields() -> None:
    note = "/cache/turborepo/team-t/a/note"
    async with web({"": HttpCacheInstance("", DictStore())}) as ask:
        await ask.put("/v8/artifacts/a?slug=t", ARTIFACT, x_artifact_tag="c2ln")
        for said in (
            {"set-cookie": "a=b", "content-encoding": "zstd", "content-length": "1"},
            {"x-artifact-tag": "a\r\nset-cookie: b"},
            {"x-artifact-tag": ["a"], "x-artifact-duration": 9},
            ["x-artifact-tag"],
        ):
            assert (await ask.put(note, json.dumps(said).encode())).status == 200
            answer = await ask.get("/v8/artifacts/a?slug=t")
            assert (answer.status, answer.body) == (200, ARTIFACT)
            assert not {"set-cookie", "content-encoding", "x-artifact-tag"} & set(answer.headers)
        for garbage in (b"not JSON", b"[" * 100_000, bytes(100_000)):
            await ask.put(note, garbage)
            assert (await ask.get("/v8/artifacts/a?slug=t")).body == ARTIFACT
            query = json.dumps({"hashes": ["a"]}).encode()
            assert (await ask.ask("POST", "/v8/artifacts?slug=t", query)).status == 200


async def test_the_longest_values_come_back(ask: Web) -> None:
    names = ("duration", "tag", "sha", "dirty_hash")
    await ask.put(
        "/v8/artifacts/a", ARTIFACT, **{f"x_artifact_{name}": "\\" * 600 for name in names}
    )
    answer = await ask.get("/v8/artifacts/a")
    assert (answer.body, answer.headers["x-artifact-dirty-hash"]) == (ARTIFACT, "\\" * 600)


async def test_a_newer_artifact_does_not_inherit_the_signature_of_the_older_one(ask: Web) -> None:
    await ask.put("/v8/artifacts/a", b"older", x_artifact_tag="c2ln")
    await ask.put("/v8/artifacts/a", b"newer")
    answer = await ask.get("/v8/artifacts/a")
    assert (answer.body, "x-artifact-tag" in answer.headers) == (b"newer", False)


async def test_a_long_query_is_read_once_whatever_is_asked_for(
    ask: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def counted(query: str) -> dict[str, list[str]]:
        read.append(query)
        return parse_qs(query)

    monkeypatch.setattr(turborepo, "parse_qs", counted)
    query = json.dumps({"hashes": [f"h{number}" for number in range(100)]}).encode()
    assert (await ask.ask("POST", "/v8/artifacts?slug=t", query)).status == 200
    assert len(read) == 1


async def test_a_question_of_brackets_is_refused(ask: Web) -> None:
    assert (await ask.ask("POST", "/v8/artifacts", b"[" * 100_000)).status == 400
