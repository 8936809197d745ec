"""grpcurl and curl: the tools that people ask a server with."""

from __future__ import annotations

import json

from tests.clients.certificates import Certificates
from tests.clients.programs import CLIENT_TESTS, program, run
from tests.clients.server import RunningServer

pytestmark = CLIENT_TESTS

REAPI = "build.bazel.remote.execution.v2"
CAPABILITIES = f"{REAPI}.Capabilities/GetCapabilities"
RESULT = f"{REAPI}.ActionCache/GetActionResult"


def test_grpcurl_lists_and_describes_what_is_served(server: RunningServer) -> None:
    grpcurl = [program("grpcurl"), "-plaintext", f"127.0.0.1:{server.port}"]

    services = run([*grpcurl, "list"]).split()
    described = run([*grpcurl, "describe", f"{REAPI}.ContentAddressableStorage"])

    for name in ("ActionCache", "Capabilities", "ContentAddressableStorage"):
        assert f"{REAPI}.{name}" in services
    assert {"google.bytestream.ByteStream", "grpc.health.v1.Health"} <= set(services)
    assert "rpc FindMissingBlobs" in described
    assert "rpc GetTree" in described


def test_grpcurl_calls_by_reflection_alone(server: RunningServer) -> None:
    grpcurl = [program("grpcurl"), "-plaintext"]
    address = f"127.0.0.1:{server.port}"

    capabilities = json.loads(
        run([*grpcurl, "-d", '{"instance_name": "main"}', address, CAPABILITIES])
    )
    health = json.loads(run([*grpcurl, address, "grpc.health.v1.Health/Check"]))

    assert "SHA256" in capabilities["cache_capabilities"]["digest_functions"]
    assert capabilities["low_api_version"] == {"major": 2}
    assert health == {"status": "SERVING"}


def test_grpcurl_shows_status_and_message_of_a_refusal(server: RunningServer) -> None:
    request = json.dumps({"instance_name": "main", "action_digest": {"hash": "short"}})
    output = run(
        [program("grpcurl"), "-plaintext", "-d", request, f"127.0.0.1:{server.port}", RESULT],
        check=False,
    )

    assert "Code: InvalidArgument" in output
    assert "short" in output


def test_grpcurl_over_mutual_tls(server: RunningServer, certificates: Certificates) -> None:
    command = [program("grpcurl"), "-cacert", certificates.authority]
    address = f"127.0.0.1:{server.mtls_port}"
    client = ["-cert", certificates.client.certificate, "-key", certificates.client.key]

    assert REAPI in run([*command, *client, address, "list"])
    assert REAPI not in run([*command, address, "list"], check=False)


def test_curl_reads_status_and_metrics_on_the_same_port(
    server: RunningServer, certificates: Certificates
) -> None:
    curl = [program("curl"), "--silent", "--show-error", "--fail"]
    plain = f"http://127.0.0.1:{server.port}"
    trust = ["--cacert", certificates.authority]
    secure = f"https://127.0.0.1:{server.tls_port}"

    assert run([*curl, f"{plain}/status"])
    metrics = run([*curl, f"{plain}/metrics"])
    assert "# TYPE" in metrics
    for version in ("--http1.1", "--http2"):
        assert run([*curl, version, *trust, f"{secure}/status"])
    assert run([*curl, "--http2-prior-knowledge", f"{plain}/status"])
