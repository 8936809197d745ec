"""Checks that the twenty wrong files do not show."""

from pathlib import Path

import pytest

from nativelink.config.load import examine
from tests.transport.authority import Authority

HTTP = '{ http: { socket_address: "127.0.0.1:50051" } }'


def sentences(text):
    report = examine(text, "file", {"HOME": "/home/me"})
    return {f"{each.severity}: {each.where}: {each.sentence}" for each in report.findings}


def of_store(text):
    return {
        sentence
        for sentence in sentences(f'{{ stores: [{{ name: "A", {text} }}], servers: [] }}')
        if "nothing uses this store" not in sentence
    }


def of_server(services, stores=""):
    return sentences(
        f"{{ stores: [{stores}], servers: [{{ listener: {HTTP}, services: {{ {services} }} }}] }}"
    )


def test_a_sound_file_gives_no_finding():
    assert (
        sentences(
            f"""{{
          stores: [
            {{ name: "CAS", verify: {{ verify_size: true, verify_hash: true, backend: {{ memory: {{
              eviction_policy: {{ max_bytes: "1gb", evict_bytes: "10mb" }} }} }} }} }},
            {{ name: "AC", completeness_checking: {{ cas_store: {{ ref_store: {{ name: "CAS" }} }},
              backend: {{ memory: {{ eviction_policy: {{ max_count: 1000 }} }} }} }} }},
          ],
          servers: [{{ listener: {HTTP}, services: {{
            cas: [{{ cas_store: "CAS" }}], ac: [{{ ac_store: "AC" }}],
            bytestream: [{{ cas_store: "CAS" }}], capabilities: [{{}}], health: {{}}, admin: {{}},
          }} }}],
        }}"""
        )
        == set()
    )


def test_a_temporary_directory_on_another_device_is_a_warning(tmp_path, monkeypatch):
    real = Path.stat

    class Elsewhere:
        st_dev = -1

    def stat(self, *, follow_symlinks=True):
        if self.name == "elsewhere":
            return Elsewhere
        return real(self, follow_symlinks=follow_symlinks)

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(Path, "exists", lambda self: self == tmp_path or self.name == "elsewhere")
    (found,) = of_store(
        f'filesystem: {{ content_path: "{tmp_path}/content", temp_path: "{tmp_path}/elsewhere/t",'
        " eviction_policy: { max_bytes: 1 } }"
    )
    assert found.startswith("here: stores.A.filesystem.temp_path: is on another device")


@pytest.mark.parametrize(
    ("store", "finding"),
    [
        ("verify: { backend: { noop: {} } }", "verifies nothing"),
        (
            "size_partitioning: { size: 0, lower_store: { noop: {} }, upper_store: { noop: {} } }",
            "every blob goes to upper_store",
        ),
        (
            "shard: { stores: [{ store: { noop: {} } }, { store: { noop: {} }, weight: 0 }] }",
            "this shard gets no blob",
        ),
        (
            'experimental_mongo: { connection_string: "mongodb://m", write_concern_j: false }',
            'has no meaning without "write_concern_w"',
        ),
        (
            'redis_store: { addresses: ["redis://r"], response_timeout_s: 3 }',
            "has no effect; use command_timeout_ms",
        ),
        (
            'experimental_gcs_store: { bucket: "b", connection_timeout_s: 3000 }',
            "is in seconds: 3000 s is very long",
        ),
        (
            """ontap_s3_existence_cache: { index_path: "/i", sync_interval_seconds: 1, backend: {
              endpoint: "https://o", vserver_name: "v", bucket: "b",
              root_certificates: "/no/roots.pem" } }""",
            "there is no file /no/roots.pem",
        ),
        (
            'redis_store: { addresses: ["redis://r"], retry: { jitter: 1.5 } }',
            "is between 0.0 and 1.0, not 1.5",
        ),
        ("filesystem: { content_path: '/c', temp_path: '/t' }", "so the disk fills up"),
        ("memory: { eviction_policy: {} }", "so the memory grows without bound"),
        (
            "fast_slow: { fast: { ref_store: { name: 'A' } }, slow: { ref_store: { name: 'A' } } }",
            "both sides are the same store",
        ),
        ("filesystem: { content_path: '/c', temp_path: '/c' }", "is the same directory as"),
    ],
)
def test_a_store_is_checked_by_itself(store, finding):
    assert any(finding in sentence for sentence in of_store(store)), of_store(store)


def test_a_file_that_one_may_not_look_for_is_no_finding(monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    found = sentences(
        "{ stores: [], servers: [{ services: { health: {} }, listener: { http: {"
        ' socket_address: ":0", tls: { cert_file: "/x/c", key_file: "/x/k" } } } }] }'
    )
    assert found == set()


def test_a_misspelled_name_is_not_missing_too():
    found = sentences('{ stores: [{ nam: "A", memory: {} }], servers: [] }')
    assert found == {
        'error: stores[0].nam: unknown key "nam" beside "memory"; did you mean "name"?'
    }


def test_a_kind_called_like_our_own_field_is_an_unknown_kind():
    for value in ("null", "{}", "{ memory: {} }"):
        (found,) = of_store(f"spec: {value}")
        assert found.startswith('error: stores.A.spec: unknown store kind "spec"; allowed: memory,')


def test_a_key_of_another_certificate_is_an_error(tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    other = authority.issue("other")[1]

    def found(key_file):
        return sentences(
            "{ stores: [], servers: [{ services: { health: {} }, listener: { http: {"
            f' socket_address: ":0", tls: {{ cert_file: "{certificate}", key_file: "{key_file}" }}'
            " } } }] }"
        )

    assert found(key) == set()
    (sentence,) = found(other)
    assert sentence == (
        f"error: servers[0].listener.http.tls.key_file: {other} is not the key of the certificate "
        f"in {certificate}"
    )


def test_a_shared_temporary_directory_is_a_warning():
    found = sentences(
        "{ servers: [], stores: ["
        '{ name: "A", filesystem: { content_path: "/a", temp_path: "/t" } },'
        '{ name: "B", filesystem: { content_path: "/b", temp_path: "/t" } }] }'
    )
    assert (
        "warning: stores.B.filesystem.temp_path: another store writes in /t too, and empties it at "
        "its start; give each store a temp_path of its own" in found
    )


def test_a_server_without_services_is_a_warning():
    assert "warning: servers[0].services: the server offers nothing" in of_server("")


def test_two_http_pages_at_one_path_are_an_error():
    (found,) = of_server('admin: { path: "/x" }, health: { path: "/x" }')
    assert (
        found == 'error: servers[0].services.health.path: admin is at this path already; got "/x"'
    )


@pytest.mark.parametrize(
    ("one", "other", "taken"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("[::1]:1", "[0::1]:1", True),
        ("127.0.0.1:1", "0.0.0.0:1", True),
        ("127.0.0.1:1", "[::]:1", True),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
def test_two_listeners_cannot_share_a_port_of_an_address(one, other, taken):
    found = sentences(
        "{ stores: [], servers: [], servers: ["
        f'{{ listener: {{ http: {{ socket_address: "{one}" }} }}, services: {{ health: {{}} }} }}],'
        f' global: {{ metrics: {{ prometheus: {{ listen_address: "{other}" }} }} }} }}'
    )
    assert any("listens on this address already" in sentence for sentence in found) is taken


def test_names_are_checked_in_every_place_that_has_one():
    found = sentences(
        f"""{{
      stores: [],
      schedulers: [{{ name: "S", cache_lookup: {{ ac_store: "X1", scheduler: {{ simple: {{
        experimental_backend: {{ redis: {{ redis_store: "X2" }} }} }} }} }} }}],
      servers: [{{ listener: {HTTP}, services: {{
        cas: [{{ cas_store: "X3", experimental_chunking: {{ index_store: "X4" }} }}],
        ac: [{{ ac_store: "X5" }}], bytestream: [{{ cas_store: "X6" }}],
        fetch: [{{ fetch_store: "X7" }}], push: [{{ push_store: "X8" }}],
        execution: [{{ cas_store: "X9", scheduler: "X10" }}],
        capabilities: [{{ remote_execution: {{ scheduler: "X11" }} }}],
        experimental_bep: {{ store: "X12" }}, worker_api: {{ scheduler: "X13" }} }} }}],
      workers: [{{ local: {{ worker_api_endpoint: {{ uri: "grpc://s:1" }},
        cas_fast_slow_store: "X14", platform_properties: {{}},
        upload_action_result: {{ ac_store: "X15", historical_results_store: "X16" }} }} }}],
      experimental_origin_events: {{ publisher: {{ store: "X17" }} }},
    }}"""
    )
    unknown = {word for each in found for word in each.split('"')[1:2] if " is called " in each}
    assert unknown == {f"X{number}" for number in range(1, 18)}


def test_one_wrong_value_does_not_hide_what_is_wrong_elsewhere():
    found = sentences(
        f"""{{
      stores: [{{ name: "GOOD", noop: {{}} }}, {{ name: "BROKEN", memory: {{ wrong: 1 }} }}],
      servers: [{{ listener: {HTTP}, unknown: 1, services: {{
        cas: [{{ cas_store: "BROKEN", wrong: 1 }}, {{ instance_name: "a", cas_store: "GOD" }}],
        ac: [{{ ac_store: "BROKEN" }}] }} }}],
    }}"""
    )
    assert any('no store is called "GOD"' in each for each in found)
    assert any(
        each.startswith('error: servers[0].unknown: unknown key "unknown"') for each in found
    )
    assert sum('unknown key "wrong"' in each for each in found) == 2
    assert not any('no store is called "BROKEN"' in each for each in found)


TWO_STORES = (
    '{ name: "A", noop: {} }, { name: "B", noop: {} }, { name: "R", ref_store: { name: "A" } }'
)


def test_an_action_cache_in_the_store_of_any_cas_is_an_error():
    def of(services):
        return {each for each in of_server(services, TWO_STORES) if "same store" in each}

    (sentence,) = of('cas: [{ instance_name: "x", cas_store: "A" }], ac: [{ ac_store: "R" }]')
    assert sentence.startswith(
        'error: servers[0].services.ac[0].ac_store: the CAS of instance "x" is the same store; '
    )
    assert of('bytestream: [{ cas_store: "B" }], ac: [{ ac_store: "B" }]')
    assert not of('cas: [{ cas_store: "A" }], ac: [{ ac_store: "B" }]')


@pytest.mark.parametrize(
    "services", ["ac: [{{ ac_store: {} }}]", "bytestream: [{{ cas_store: {} }}]", ""]
)
def test_lists_of_chunks_have_a_store_of_their_own(services):
    def of(index, other):
        cas = f'cas: [{{ cas_store: "B", experimental_chunking: {{ index_store: "{index}" }} }}]'
        found = of_server(f"{cas}, {services.format(other)}", TWO_STORES)
        return [each for each in found if "a list of chunks" in each]

    (sentence,) = of("R", '"A"') if services else of("B", "")
    assert sentence.startswith(
        "error: servers[0].services.cas[0].experimental_chunking.index_store: the store of a CAS"
    )
    assert not of("R", '"B"')


@pytest.mark.parametrize(("size", "warned"), [("256KiB", False), ("262143", True), ("1KiB", False)])
def test_bazel_does_without_chunks_whose_size_is_no_power_of_two(size, warned):
    cas = (
        f'cas: [{{ cas_store: "A", experimental_chunking: {{ avg_chunk_size_bytes: "{size}" }} }}]'
    )
    found = [each for each in of_server(cas, TWO_STORES) if "powers of two" in each]
    assert [each.startswith("warning: ") for each in found] == [True] * warned


def test_a_cas_of_two_stores_is_a_warning():
    def of(services):
        return {each for each in of_server(services, TWO_STORES) if "another store" in each}

    (sentence,) = of('cas: [{ cas_store: "A" }], bytestream: [{ cas_store: "B" }]')
    assert sentence.startswith(
        'warning: servers[0].services.bytestream[0].cas_store: the CAS of instance "" is another '
        'store, "A": '
    )
    assert not of('cas: [{ cas_store: "A" }], bytestream: [{ cas_store: "R" }]')
    assert not of('bytestream: [{ cas_store: "B" }]')


@pytest.mark.parametrize("name", ["/a", "uploads/a", "a/uploads/b"])
def test_an_instance_that_no_resource_name_names_is_a_warning(name):
    services = f'bytestream: [{{ instance_name: "{name}", cas_store: "A" }}]'
    assert any("no client can read from" in each for each in of_server(services, TWO_STORES))


@pytest.mark.parametrize("name", ["", "a", "a/b", "uploads", "a/uploads", "blobs/a", "a/"])
def test_other_names_of_instances_are_not(name):
    services = f'bytestream: [{{ instance_name: "{name}", cas_store: "A" }}]'
    assert not any("no client can read from" in each for each in of_server(services, TWO_STORES))


def test_an_older_kind_does_not_hide_another_kind():
    old = 'experimental_s3_store: { bucket: "b", region: "r" }'
    for other, why in (
        ('experimental_cloud_object_store: { provider: "gcs", bucket: "b" }', "unknown key"),
        ('experimental_gcs_store: { bucket: "b" }', "names 2 store kinds instead of one"),
    ):
        (sentence,) = (each for each in of_store(f"{old}, {other}") if "error" in each)
        assert why in sentence
