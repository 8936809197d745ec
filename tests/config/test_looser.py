import json5
import pytest

from nativelink.config.load import examine
from nativelink.config.looser import LOOSER_FORMS

ENVIRONMENT = {"HOME": "/home/me"}

CAS = {
    "name": "CAS",
    "fast_slow": {
        "fast": {"filesystem": {"content_path": "/cas/content", "temp_path": "/cas/temp"}},
        "slow": {"noop": {}},
    },
}
NAMED = [CAS, {"name": "A", "noop": {}}, {"name": "AC", "noop": {}}]


def load(text):
    tree = json5.loads(text)
    tree.setdefault("servers", [])
    stores = tree.setdefault("stores", [])
    if isinstance(stores, list):
        present = {store["name"] for store in stores}
        stores += [store for store in NAMED if store["name"] not in present]
    else:
        for store in NAMED[::2]:
            stores[store["name"]] = {k: v for k, v in store.items() if k != "name"}
    report = examine(json5.dumps(tree), "file", ENVIRONMENT)
    assert report.errors == ()
    return report


def by_name(config):
    return config.model_copy(
        update={"stores": tuple(sorted(config.stores, key=lambda store: store.name))}
    )


@pytest.mark.parametrize("row", LOOSER_FORMS, ids=lambda row: row.written)
def test_a_looser_form_is_read_as_the_table_says(row):
    written, current = load(row.whole(row.written)), load(row.whole(row.read_as))
    assert by_name(written.config) == by_name(current.config)
    told = {finding.sentence for finding in written.warnings}
    known = {finding.sentence for finding in current.warnings}
    assert bool(told - known) == row.warns


def test_a_renamed_key_is_named_once_in_its_warning():
    report = load(
        '{ workers: [{ local: { worker_api_endpoint: { uri: "grpc://s:1" },'
        ' cas_fast_slow_store: "CAS", work_directory: "/w", platform_properties: {},'
        " max_action_timeout: 60 } }] }"
    )
    (warning,) = [each for each in report.warnings if "max_action_timeout" in each.sentence]
    assert warning.sentence == (
        '"max_action_timeout" is an older form; write "max_action_timeout_s"'
    )
    assert warning.where == "workers[0].local.max_action_timeout"


def test_an_old_and_a_new_spelling_together_are_an_error():
    text = """{
  stores: [{ name: "R", redis_store: {
    addresses: ["redis://r"], response_timeout_ms: 1, command_timeout_ms: 2 } }],
  servers: [],
}"""
    (error,) = examine(text, "file", {}).errors
    assert (error.line, error.column) == (3, 31)
    assert error.sentence == (
        'stands beside "command_timeout_ms", which means the same; remove one of them'
    )


def test_verification_of_clients_without_an_authority_is_an_error():
    text = """{ stores: [], servers: [{ services: {}, listener: { http: {
  socket_address: "127.0.0.1:1",
  tls: { cert_file: "/c", key_file: "/k", verify_client: "${VERIFY:-True}" } } } }] }"""
    (error,) = examine(text, "file", {}).errors
    assert error.line == 3
    assert error.sentence == (
        'clients cannot be verified without an authority; set "client_ca_file"'
    )
    assert examine(text, "file", {"VERIFY": "false"}).errors == ()


def test_the_tree_that_was_read_is_not_changed():
    from nativelink.config.legacy import modernize

    raw = {"stores": {"A": {"experimental_s3_store": {"bucket": "b", "region": "r"}}}}
    before = json5.dumps(raw)
    modernize(raw, {})
    assert json5.dumps(raw) == before
