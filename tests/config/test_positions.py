import json

import json5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nativelink.config.positions import Lines, scan

SPACES = st.lists(
    st.sampled_from(
        [" ", "\n", "\r\n", "\t", "// note, [{:\n", "/* two\nlines } */", "\ufeff", "/**/"]
    ),
    max_size=2,
).map("".join)

SCALARS = st.one_of(
    st.sampled_from(["true", "false", "null", "0x1F", "+1", "-.5", "1.", "2e3", "-Infinity"]),
    st.integers().map(str),
    st.text(max_size=8).map(lambda text: json.dumps(text)),
    st.text(max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(["'it\\'s'", "'a \"b\"'", "'line\\\n2'", '"\\x41\\u0042"']),
)

KEYS = st.one_of(
    st.sampled_from(["a", "$b", "_c9", "\\u0064", "äpfel", "'e f'", '"g\\"h"']),
    st.text(max_size=5).map(lambda text: json.dumps(text)),
)


@st.composite
def objects(draw, values):
    keys = draw(
        st.lists(
            KEYS, max_size=4, unique_by=lambda key: json5.loads(f"[{{{key}:0}}]")[0].popitem()[0]
        )
    )
    parts = []
    for key in keys:
        gap = [draw(SPACES) for _ in range(4)]
        parts.append(f"{gap[0]}{key}{gap[1]}:{gap[2]}{draw(values)}{gap[3]}")
    comma = "," if parts and draw(st.booleans()) else ""
    return "{" + ",".join(parts) + comma + draw(SPACES) + "}"


@st.composite
def arrays(draw, values):
    parts = [draw(SPACES) + draw(values) + draw(SPACES) for _ in range(draw(st.integers(0, 3)))]
    comma = "," if parts and draw(st.booleans()) else ""
    return "[" + ",".join(parts) + comma + draw(SPACES) + "]"


TEXTS = st.recursive(
    SCALARS, lambda values: st.one_of(objects(values), arrays(values)), max_leaves=8
)


def paths(value, path=()):
    yield path, value
    if isinstance(value, dict):
        for key, below in value.items():
            yield from paths(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from paths(below, (*path, index))


@pytest.mark.slow
@given(SPACES, TEXTS, SPACES)
def test_every_position_is_that_of_the_value(before, text, after):
    text = before + text + after
    positions = scan(text)
    assert positions.malformed is None
    assert positions.duplicates == ()
    expected = dict(paths(json5.loads(text)))
    assert positions.spots.keys() == expected.keys()
    for path, value in expected.items():
        spot = positions.spots[path]
        assert json5.loads(text[spot.start : spot.end]) == value
        if path and isinstance(path[-1], str):
            member = text[spot.key : spot.end]
            assert json5.loads("{" + member + "}") == {path[-1]: value}


@pytest.mark.slow
@given(TEXTS, st.data())
def test_what_json5_refuses_and_the_scanner_understands_is_the_same(text, data):
    at = data.draw(st.integers(0, len(text)))
    damaged = (
        text[:at]
        + data.draw(st.sampled_from(["", ",", "}", "]", '"', "#", "{", "x"]))
        + text[at + 1 :]
    )
    try:
        json5.loads(damaged)
    except ValueError:
        return
    positions = scan(damaged)
    assert positions.malformed is None, damaged


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("", 0, "the file is empty; it needs at least { }"),
        ("// nothing\n", 11, "the file is empty; it needs at least { }"),
        (
            "stores:\n  - name: CAS\n",
            0,
            'unexpected "stores"; the file is one object in { }, in JSON5: no YAML, no TOML',
        ),
        ("{a:1 b:2}", 5, 'unexpected "b" after a value; a comma is missing before it'),
        ('{a:"x" "b":2}', 7, 'unexpected "b" after a value; a comma is missing before it'),
        ("{a:[1,2}", 7, '"}" cannot close the "[" of line 1, column 4; a "]" is missing before it'),
        (
            "{a:1\n",
            5,
            'the file ends, but the "{" of line 1, column 1 is not closed; a "}" is missing',
        ),
        (
            "{a:1}}",
            5,
            'unexpected "}" after the end of the configuration; one closing bracket too many',
        ),
        ("{a 1}", 3, 'expected ":" after the key "a"'),
        ("{a = 1}", 3, 'expected ":" after the key "a"; write ":"'),
        ("{a=1}", 2, 'expected ":" after the key "a"; write ":"'),
        ("{a:1,,b:2}", 5, 'unexpected ","; one comma too many'),
        ("{a:[1,,2]}", 6, 'unexpected ","; one comma too many'),
        ("{a:}", 3, 'unexpected "}"; a value is missing before it'),
        ("{a: memory}", 4, 'unexpected memory; texts need quotes: "memory"'),
        ("{a: /tmp/x}", 4, 'unexpected /tmp/x; texts need quotes: "/tmp/x"'),
        ("{a: True}", 4, "unexpected True; write true"),
        ("{a: 007}", 4, "007 is not a number; no zero in front"),
        ('{a: "x\n}', 4, 'the text is not closed on its line; a " is missing at its end'),
        ("{a: /* x}", 4, 'the comment is not closed; a "*/" is missing'),
        ("{a: 1 / x}", 6, 'unexpected "/"; comments begin with // or /*'),
        ("# x\n{}", 0, 'unexpected "#"; comments begin with //'),
        ("{a: \u201cx\u201d}", 4, "\u201c is no quotation mark of JSON5; write \" or '"),
    ],
)
def test_a_syntax_error_says_where_what_and_what_to_do(text, place, what):
    with pytest.raises(ValueError, match=r".*"):
        json5.loads(text)
    malformed = scan(text).malformed
    assert malformed.offset == place
    assert "; ".join(filter(None, (malformed.what, malformed.hint))) == what


def test_a_key_that_stands_twice_is_found_and_its_last_value_counts():
    positions = scan("{a: {b: 1, 'b': 2}}")
    assert positions.duplicates == ((("a", "b"), 11),)
    assert positions.spots["a", "b"].start == 16


@given(st.text(alphabet="ab\n\r\t", max_size=30), st.data())
def test_lines_and_columns_lead_back_to_the_offset(text, data):
    lines = Lines(text)
    offset = data.draw(st.integers(0, len(text)).filter(lambda at: text[at - 1 : at] != "\r"))
    line, column = lines.at(offset)
    assert lines.offset(line, column) == offset
    assert text[:offset].endswith(lines.line(line)[: column - 1])
