"""Real Bazel publishes its build events to our server, which is killed meanwhile."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from nativelink.proto.com.github.trace_machina.nativelink.remote_execution.events_pb2 import (
    BepEvent,
)
from nativelink.proto.google.devtools.build.v1.publish_build_event_pb2 import (
    PublishBuildToolEventStreamResponse as Ack,
)
from tests.clients.backends import MotoBucket, OneRedis
from tests.clients.bazel import Bazel
from tests.clients.checks import GATED, TESTS
from tests.clients.farm import NATIVELINK
from tests.clients.front import Front
from tests.clients.programs import CLIENT_TESTS
from tests.clients.served import Served
from tests.execution.gate import Gate, wait_for
from tests.services.builds.tool import Request, Tool, finish, start

pytestmark = CLIENT_TESTS


class Publishing:
    """A server that keeps build events, and a cache, on disk.

    Args:
        folder: for all of it.
        lifetimes: whoever leaves them ends it.
        events: another store for the events.
        environment: variables of the server.
    """

    def __init__(
        self,
        folder: Path,
        lifetimes: ExitStack,
        *,
        events: dict[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        def disk(name: str) -> dict[str, Any]:
            paths = {
                "content_path": str(folder / name / "content"),
                "temp_path": str(folder / name / "temp"),
            }
            return {"filesystem": {**paths, "eviction_policy": {"max_bytes": 1_000_000_000}}}

        self.events = folder / "BEP/content/s"
        services = {
            "cas": [{"cas_store": "CAS"}],
            "ac": [{"ac_store": "AC"}],
            "bytestream": [{"cas_store": "CAS"}],
            "capabilities": [{}],
            "experimental_bep": {"store": "BEP"},
        }
        stores = {"CAS": disk("CAS"), "AC": disk("AC"), "BEP": events or disk("BEP")}
        listener = {"http": {"socket_address": "127.0.0.1:PORT"}}
        config = {
            "stores": [{"name": name, **store} for name, store in stores.items()],
            "servers": [{"listener": listener, "services": services}],
        }
        self.server = Served(folder / "server", lifetimes, config, environment=environment)
        # Bazel tries four times, within seconds, to tell of its build.
        self._front = lifetimes.enter_context(Front())
        self._front.to(self.server.port)

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.server.port}"

    def die_and_come_back(self) -> None:
        """Have the server killed and started again, however long that takes."""
        self._front.hold(self.server.kill)
        self.server.start()
        self._front.to(self.server.port)

    def flags(self, *, cache: bool = True) -> list[str]:
        backend = f"grpc://127.0.0.1:{self._front.port}"
        flags = [f"--bes_backend={backend}", "--bes_results_url=http://builds.example/show/"]
        return [*flags, f"--remote_cache={self.url}"] if cache else flags

    def ask(self, *words: str) -> str:
        """What `nativelink builds` says."""
        done = self._ask(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [NATIVELINK, "builds", *words, "--server", self.url],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def has_told_its_targets(self) -> bool:
        """Whether a build of the gated targets runs that has told what they are.

        Bazel tells beside its work: what runs at a gate may not be known here yet.
        """
        done = self._ask("show", "--json")
        if done.returncode:
            assert "no build has been published" in done.stderr, done.stderr
            return False
        build = json.loads(done.stdout)
        return bool(build["state"] == "RUNNING" and build["targets_configured"] == GATED)

    def build(self, name: str = "") -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.ask("show", *filter(None, [name]), "--json"))
        return document

    def numbers(self, invocation: str) -> list[int]:
        """Of the events of a stream that are stored."""
        files = self.events.glob(f"BepEvent:be:*:{invocation}:*")
        return sorted(int(file.name.rpartition(":")[2]) for file in files)


@pytest.fixture(scope="module")
def publishing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publishing]:
    with ExitStack() as lifetimes:
        yield Publishing(tmp_path_factory.mktemp("publishing"), lifetimes)


@pytest.fixture(scope="module")
def telling(bazel: Bazel) -> Bazel:
    """One that has built nothing yet."""
    bazel.clean()
    return bazel


def invocation_of(output: str) -> str:
    found = re.search(r"http://builds.example/show/(\S+)", output)
    assert found is not None, output
    return found[1]


def test_a_build_is_told_with_its_targets_tests_failures_and_cache(
    publishing: Publishing, telling: Bazel
) -> None:
    targets = ["//checks/...", "//checks:fails", "//checks:broken"]
    flags = [*publishing.flags(), "--keep_going", "--bes_keywords=nightly", "--project_id=acme"]
    done = telling.build(*flags, command="test", targets=targets, ok=False)
    assert done.code == 1, done.output
    assert "Build Event Protocol upload failed" not in done.output
    invocation = invocation_of(done.output)

    build = publishing.build(invocation)
    assert (build["state"], build["exit_name"]) == ("FAILED", "BUILD_FAILURE")
    assert (build["command"], build["patterns"]) == ("test", targets)
    assert build["user"]
    assert build["host"]
    assert build["project_id"] == "acme"
    assert "user_keyword=nightly" in build["keywords"]
    assert (build["targets_built"], build["targets_failed"]) == (TESTS + 1, 1)
    assert (build["tests_passed"], build["tests_failed"]) == (TESTS, 1)
    [failure] = build["failures"]
    assert (failure["label"], failure["mnemonic"]) == ("//checks:broken", "Shell")
    assert build["critical_path_time"] > 0
    assert build["cache"]["hits"] == 0
    assert build["cache"]["actions"] == done.executed
    assert not build["incomplete"]

    text = publishing.ask("show", invocation)
    # The logs are in the CAS, because Bazel uploads what its events name.
    assert "    what went wrong\n" in text
    assert "    the reason\n" in text
    assert "Shell checks/broken.txt failed: (Exit 7)" in publishing.ask("log", invocation)


def test_what_bazel_sent_is_stored_as_nativelink_stores_it(
    publishing: Publishing, telling: Bazel
) -> None:
    done = telling.build(*publishing.flags(), targets=["//:empty"])
    invocation = invocation_of(done.output)
    numbers = publishing.numbers(invocation)
    assert numbers == list(range(1, publishing.build(invocation)["last_sequence_number"] + 1))
    build_id = publishing.build(invocation)["build_id"]
    for file in publishing.events.glob(f"BepEvent:be:*:{invocation}:*"):
        value = file.read_bytes()
        event = BepEvent.FromString(value)
        ordered = event.build_tool_event.ordered_build_event
        number = ordered.sequence_number
        assert file.name == f"BepEvent:be:{build_id}:{invocation}:{number}"
        assert event.SerializeToString() == value
    lives = {file.name for file in publishing.events.glob(f"BepEvent:le:{build_id}:*")}
    assert lives == {
        f"BepEvent:le:{build_id}::1",
        f"BepEvent:le:{build_id}::2",
        f"BepEvent:le:{build_id}:{invocation}:1",
        f"BepEvent:le:{build_id}:{invocation}:2",
    }


def test_a_build_out_of_the_cache_says_so(publishing: Publishing, telling: Bazel) -> None:
    targets = ["//:lua", "//:z"]
    telling.build(*publishing.flags(), targets=targets)
    telling.clean()
    done = telling.build(*publishing.flags(), targets=targets)
    assert done.executed == 0

    build = publishing.build()
    assert build["invocation_id"] == invocation_of(done.output)
    assert build["state"] == "SUCCEEDED"
    assert build["cache"] == {"hits": done.hits, "actions": done.hits, "rate": 1.0}
    assert "100%" in publishing.ask("list", "--limit", "1")


@contextmanager
def gated_build(telling: Bazel, publishing: Publishing, gate: Gate, log: Path) -> Iterator[None]:
    """A build whose actions wait at a gate, and that has told its targets: the body opens it.

    Afterwards the build has ended well, and has told so.
    """
    targets = [f"//checks:gated{number}" for number in range(GATED)]
    gate.close()
    telling.clean()
    flags = publishing.flags(cache=False)
    with telling.start(*flags, f"--jobs={GATED}", targets=targets, log=log) as process:
        gate.wait()
        wait_for(publishing.has_told_its_targets, "its targets")
        yield
        assert process.wait(240) == 0, log.read_text()
    assert "Build Event Protocol upload failed" not in log.read_text()


def test_a_server_that_is_killed_loses_nothing_and_bazel_goes_on(
    publishing: Publishing, telling: Bazel, gate: Gate, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with gated_build(telling, publishing, gate, log):
        running = publishing.build()
        assert running["state"] == "RUNNING"
        invocation = running["invocation_id"]
        acknowledged = running["last_sequence_number"]

        publishing.die_and_come_back()
        gate.open()

    build = publishing.build(invocation)
    assert build["state"] == "SUCCEEDED"
    assert build["targets_built"] == GATED
    assert build["last_sequence_number"] > acknowledged
    assert not build["incomplete"]
    assert publishing.numbers(invocation) == list(range(1, build["last_sequence_number"] + 1))


def assert_whole(build: dict[str, Any], names: Iterable[str]) -> None:
    """All of a build of the gated targets was told, and is stored under these names."""
    assert build["state"] == "SUCCEEDED"
    assert build["targets_built"] == GATED
    assert not build["incomplete"]
    prefix = f"BepEvent:be:{build['build_id']}:{build['invocation_id']}:"
    found = sorted(int(name.removeprefix(prefix)) for name in names if name.startswith(prefix))
    assert found == list(range(1, build["last_sequence_number"] + 1))


def test_a_redis_that_dies_while_a_build_is_told_loses_nothing(
    telling: Bazel, gate: Gate, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with ExitStack() as lifetimes:
        redis = OneRedis(tmp_path, lifetimes)
        publishing = Publishing(tmp_path / "publishing", lifetimes, events=redis.store("bep"))
        with gated_build(telling, publishing, gate, log):
            # What Bazel tells from now on finds no Redis, until it was missed.
            redis.kill(random.Random(0).randrange)
            gate.open()
            redis.restore()
        build = publishing.build(invocation_of(log.read_text()))
        assert redis.server is not None
        with redis.server.raw() as raw:
            names = [key.decode().removeprefix("bep:") for key in raw.scan_iter()]
        assert_whole(build, names)
        # Another process knows what is in Redis, and nothing else.
        publishing.server.restart()
        assert publishing.build(build["invocation_id"]) == build


def test_a_bucket_keeps_builds_that_a_killed_server_was_told(
    telling: Bazel, gate: Gate, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with ExitStack() as lifetimes:
        bucket = MotoBucket(tmp_path, lifetimes)
        publishing = Publishing(
            tmp_path / "publishing",
            lifetimes,
            events=bucket.store("bep"),
            environment=bucket.environment,
        )
        with gated_build(telling, publishing, gate, log):
            publishing.die_and_come_back()
            gate.open()
        names = [name.removeprefix("bep/") for name in bucket.server.names("bep/")]
        assert_whole(publishing.build(invocation_of(log.read_text())), names)


class Window:
    """Events that are sent as they are acknowledged: some are under way, never all.

    Args:
        events: what is to be sent.
        acknowledged: how many need not be.
    """

    _SIZE = 200

    def __init__(self, events: Sequence[Request], acknowledged: int) -> None:
        self._events = events
        self.acknowledged = acknowledged
        self._moved = threading.Condition()
        self._over = False

    def acknowledge(self, number: int) -> None:
        """The next event has arrived."""
        with self._moved:
            assert number == self.acknowledged + 1
            self.acknowledged = number
            self._moved.notify()

    def close(self) -> None:
        """Send nothing more."""
        with self._moved:
            self._over = True
            self._moved.notify()

    def __iter__(self) -> Iterator[Request]:
        for number in range(self.acknowledged, len(self._events)):
            if not self._may_send(number):
                return
            yield self._events[number]

    def _may_send(self, number: int) -> bool:
        with self._moved:
            self._moved.wait_for(lambda: self._over or number < self.acknowledged + self._SIZE)
            return not self._over


def upload(address: str, tool: Tool, acknowledged: int, stop: Callable[[int], None]) -> int:
    """Send what was not acknowledged, as Bazel does; what is acknowledged when it ends."""
    window = Window(tool.events, acknowledged)
    with grpc.insecure_channel(address) as channel:
        publish = channel.stream_stream(
            "/google.devtools.build.v1.PublishBuildEvent/PublishBuildToolEventStream",
            request_serializer=Request.SerializeToString,
            response_deserializer=Ack.FromString,
        )
        try:
            for ack in publish(iter(window), wait_for_ready=True):
                window.acknowledge(ack.sequence_number)
                stop(window.acknowledged)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017
        finally:
            window.close()
    return window.acknowledged


def test_a_server_that_is_killed_in_full_flow_has_all_that_it_acknowledged(
    publishing: Publishing,
) -> None:
    tool = Tool("killed-in-full-flow")
    start(tool)
    tool.chatter(3_000)
    finish(tool)
    tool.end()
    address = f"127.0.0.1:{publishing.server.port}"
    acknowledged = 0
    for stop_at in (1, 333, 1_001, 2_500):

        def stop(number: int, at: int = stop_at) -> None:
            if number == at:
                publishing.server.kill()

        acknowledged = upload(address, tool, acknowledged, stop)
        assert stop_at <= acknowledged < len(tool.events)
        stored = set(publishing.numbers(tool.invocation))
        assert stored >= set(range(1, acknowledged + 1))
        publishing.server.start()
    assert upload(address, tool, acknowledged, lambda _: None) == len(tool.events)

    assert publishing.numbers(tool.invocation) == list(range(1, len(tool.events) + 1))
    build = publishing.build(tool.invocation)
    assert build["state"] == "SUCCEEDED"
    assert build["last_sequence_number"] == len(tool.events)
    assert not build["incomplete"]


def test_an_interrupted_build_is_no_failure(
    publishing: Publishing, telling: Bazel, gate: Gate, tmp_path: Path
) -> None:
    gate.close()
    telling.clean()
    flags, log = publishing.flags(cache=False), tmp_path / "log"
    with telling.start(*flags, targets=["//checks:gated0"], log=log) as process:
        gate.wait()
        process.send_signal(signal.SIGINT)
        assert process.wait(240) == 8, log.read_text()
    build = publishing.build()
    assert (build["state"], build["exit_name"]) == ("INTERRUPTED", "INTERRUPTED")
