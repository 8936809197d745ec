"""Whatever stands in a file, looking at it ends with a report, never with an exception."""

import copy
from pathlib import Path

import json5
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nativelink.config.explain import explain
from nativelink.config.load import examine

SAMPLES = [
    json5.loads(path.read_text(encoding="utf-8"))
    for folder, pattern in (("documents", "*.whole.json5"), ("wrong", "[012]*.json5"))
    for path in sorted((Path(__file__).parent / folder).glob(pattern))
    if not path.name.startswith(("01", "02-", "03-", "09"))
]

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.sampled_from([10**30, 0.5, float("inf"), float("nan"), "", "x", "CAS", "$X", "0", "1s"]),
    ),
    lambda values: st.one_of(
        st.lists(values, max_size=2),
        st.dictionaries(
            st.sampled_from(["name", "memory", "ref_store", "grpc", "cas_stores", "local", "x"]),
            values,
            max_size=2,
        ),
    ),
    max_leaves=4,
)


def places(node, path=()):
    yield path
    if isinstance(node, dict):
        for key, below in node.items():
            yield from places(below, (*path, key))
    elif isinstance(node, list):
        for index, below in enumerate(node):
            yield from places(below, (*path, index))


@st.composite
def damaged_files(draw):
    tree = copy.deepcopy(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(tree))))
        if not path:
            continue
        node = tree
        for part in path[:-1]:
            node = node[part]
        match draw(st.integers(0, 2)):
            case 0:
                del node[path[-1]]
            case 1:
                node[path[-1]] = draw(JSON)
            case _ if isinstance(node, dict):
                node[draw(st.sampled_from(["x", "store", "spec", "global", "path"]))] = draw(JSON)
            case _:
                node.append(draw(JSON))
    return json5.dumps(tree)


def no_surprise(text):
    report = examine(text, "file", {"HOME": "/home/me"})
    assert (report.config is None) == bool(report.errors)
    lines = text.split("\n")
    for finding in report.findings:
        assert finding.sentence
        assert 1 <= finding.line <= len(lines)
        assert 1 <= finding.column <= len(lines[finding.line - 1]) + 1
    if report.config is not None:
        explain(report.config)


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)
@given(damaged_files())
def test_a_damaged_configuration_gets_a_report(text):
    no_surprise(text)


@pytest.mark.slow
@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(JSON)
def test_any_json_gets_a_report(value):
    no_surprise(json5.dumps(value))


@given(st.one_of(st.text(max_size=40), st.text(alphabet="{}[]:,'\"/*#a1 \n\\", max_size=20)))
def test_any_text_gets_a_report(text):
    report = examine(text, "file", {})
    assert report.findings or report.config is not None
