import pytest
from hypothesis import given
from hypothesis import strategies as st

from nativelink.config.expansion import UnsetVariableError, expand_text
from nativelink.config.load import examine

ENVIRONMENT = {"NAME": "value", "EMPTY": "", "1": "one", "ÄPFEL": "rot", "HOME": "/home/me"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("", ""),
        ("plain", "plain"),
        ("$NAME", "value"),
        ("${NAME}", "value"),
        ("a${NAME}b$NAME-c", "avaluebvalue-c"),
        ("${NAME:-other}", "value"),
        ("${UNSET:-other}", "other"),
        ("${UNSET:-}", ""),
        ("${UNSET:-a b:-c}", "a b:-c"),
        ("${EMPTY:-other}", ""),
        ("$EMPTY", ""),
        ("${UNSET:-$NAME}", "$NAME"),
        ("${UNSET:-${NAME}}", "${NAME}"),
        ("$1", "one"),
        ("$ÄPFEL", "rot"),
        ("$$", "$"),
        ("$$NAME", "$NAME"),
        ("$$$NAME", "$value"),
        ("$", "$"),
        ("5$ ", "5$ "),
        ("$-", "$-"),
        ("${NAME", "${NAME"),
    ],
)
def test_a_text_expands_as_documented(text, expanded):
    assert expand_text(text, ENVIRONMENT) == expanded


@pytest.mark.parametrize(
    ("text", "name"), [("$UNSET", "UNSET"), ("${UNSET}", "UNSET"), ("${:-x}", ":-x"), ("${}", "")]
)
def test_an_unset_variable_is_named(text, name):
    with pytest.raises(UnsetVariableError) as caught:
        expand_text(text, ENVIRONMENT)
    assert caught.value.name == name


@given(st.text().filter(lambda text: "$" not in text))
def test_a_text_without_a_dollar_stays_as_it_is(text):
    assert expand_text(text, {}) == text


@given(st.text())
def test_doubled_dollars_are_dollars(text):
    assert expand_text(text.replace("$", "$$"), {}) == text


@given(st.text(), st.text(), st.text())
def test_a_value_is_not_expanded_again(before, value, after):
    before, after = before.replace("$", "$$"), after.replace("$", "$$")
    expanded = expand_text(f"{before}${{X}}{after}", {"X": value})
    assert expanded == before.replace("$$", "$") + value + after.replace("$$", "$")


def load(stores):
    report = examine(f"{{ stores: [{stores}], servers: [] }}", "file", ENVIRONMENT)
    assert report.errors == (), report.errors
    return report


def test_variables_expand_in_every_kind_of_value():
    (store,) = load(
        '{ name: "A", filesystem: { content_path: "${HOME}/$NAME", temp_path: "~/t",'
        ' block_size: "${B:-8kib}", max_concurrent_writes: "${N:- 7 }",'
        ' evict_page_cache: "${E:-TRUE}",'
        ' eviction_policy: { max_seconds: "${S:-1h}", max_count: 9 } } }'
    ).config.stores
    spec = store.spec
    assert spec.content_path == "/home/me/value"
    assert spec.temp_path == "/home/me/t"
    assert spec.block_size == 8192
    assert spec.max_concurrent_writes == 7
    assert spec.evict_page_cache is True
    assert spec.eviction_policy.max_seconds == 3600


def test_what_does_not_expand_in_nativelink_does_not_expand_here():
    one, two = load(
        '{ name: "$NAME", experimental_cloud_object_store: { provider: "aws", region: "$NAME",'
        ' bucket: "$NAME", key_prefix: "$NAME" } },'
        ' { name: "G", grpc: { store_type: "cas", endpoints: [{ address: "grpc://$NAME:1" }],'
        ' headers: { authorization: "$NAME" }, forward_headers: ["$NAME"] } }'
    ).config.stores
    assert (one.name, one.spec.key_prefix) == ("$NAME", "$NAME")
    assert (one.spec.region, one.spec.bucket) == ("value", "value")
    assert two.spec.headers == {"authorization": "$NAME"}
    assert two.spec.forward_headers == ("$NAME",)
    assert two.spec.endpoints[0].address == "grpc://value:1"


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        ("~", "/home/me"),
        ("~/x", "/home/me/x"),
        ("${UNSET:-~/.cache}/x", "/home/me/.cache/x"),
        ("~other/x", "~other/x"),
        ("/a/~/x", "/a/~/x"),
    ],
)
def test_only_a_leading_tilde_with_a_slash_is_the_home_directory(path, expanded):
    (store,) = load(
        f'{{ name: "A", filesystem: {{ content_path: "{path}", temp_path: "/t",'
        " eviction_policy: { max_count: 1 } } }"
    ).config.stores
    assert store.spec.content_path == expanded


def test_a_lost_part_of_a_second_is_told():
    report = load('{ name: "A", memory: { eviction_policy: { max_seconds: "2500ms" } } }')
    assert report.config.stores[0].spec.eviction_policy.max_seconds == 2
    assert "only whole seconds count: this is 2 s" in [each.sentence for each in report.warnings]
