from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nativelink.config.units import (
    format_duration,
    format_size,
    parse_boolean,
    parse_duration,
    parse_number,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("100b", 100),
        ("100B", 100),
        ("100mb", 100 * 10**6),
        ("100 MB", 100 * 10**6),
        ("100M", 100 * 10**6),
        ("128mib", 128 * 2**20),
        ("128MiB", 128 * 2**20),
        ("128Mi", 128 * 2**20),
        ("1GB", 10**9),
        ("1kib", 1024),
        ("2k", 2000),
        ("3t", 3 * 10**12),
        ("1pib", 2**50),
        ("1eb", 10**18),
        ("8kbit", 1000),
        ("9 bits", 2),
        ("1Kibit", 128),
        ("1.5kb", 1500),
        ("1.0001kb", 1001),
        ("0.1b", 1),
        ("0.5kib", 512),
        (" 7 ", 7),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_a_size_is_read_as_documented(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "mb", "-1", "+1", "1_000", "1e3", "1,000", "10 gigs", "1zb", "1yib", ".5kb"),
        *("5.", "1.5.5", "0x10", "1 m b", "\u0661"),
    ],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


def test_a_size_beyond_63_bits_is_refused():
    with pytest.raises(ValueError, match="larger than"):
        parse_size("9223372036854775808")
    with pytest.raises(ValueError, match="larger than"):
        parse_size("10eb")


@given(
    st.integers(0, 10**6),
    st.sampled_from(["k", "m", "g", "t"]),
    st.sampled_from(["", "i"]),
    st.sampled_from(["", "b", "B"]),
    st.sampled_from(["", " "]),
)
def test_a_size_is_its_number_times_its_unit(number, prefix, binary, unit, space):
    power = "kmgt".index(prefix) + 1
    expected = number * (1024 if binary else 1000) ** power
    text = f"{number}{space}{prefix}{binary}{unit}"
    assert parse_size(text) == parse_size(text.upper().replace("I", "i")) == expected


@given(st.decimals(0, 10**6, places=6), st.sampled_from(["", "k", "mib"]))
def test_a_fraction_of_a_byte_is_rounded_up(number, unit):
    exact = Fraction(number) * {"": 1, "k": 1000, "mib": 2**20}[unit]
    assert 0 <= parse_size(f"{number:f}{unit}") - exact < 1


@given(st.integers(0, 2**63 - 1))
def test_a_formatted_size_reads_as_itself(size):
    text = format_size(size)
    assert parse_size(text.replace(" bytes", "").replace(",", "")) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1,023 bytes"),
        (1024, "1 KiB"),
        (100 * 10**6, "100 MB"),
        (128 * 2**20, "128 MiB"),
        (512 * 10**6, "512 MB"),
        (10 * 2**30, "10 GiB"),
    ],
)
def test_a_size_is_shown_in_the_unit_that_divides_it(size, text):
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("30s", 30),
        ("5m", 300),
        ("5 min", 300),
        ("1h 30m", 5400),
        ("1h30m5s", 5405),
        ("2days", 2 * 86_400),
        ("1w", 604_800),
        ("1M", 2_630_016),
        ("1month", 2_630_016),
        ("1y", 31_557_600),
        ("4.2s", Fraction(42, 10)),
        ("500ms", Fraction(1, 2)),
        ("1500us", Fraction(3, 2000)),
        ("2\u00b5s", Fraction(2, 10**6)),
        ("1s 1ns", 1 + Fraction(1, 10**9)),
    ],
)
def test_a_duration_is_read_as_documented(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "30", "s", "5 x", "-5s", "1h 30", "1 h m", "5mm", "1S"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match=r"not a duration|unknown unit"):
        parse_duration(text)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1000), st.sampled_from([("s", 1), ("m", 60), ("h", 3600), ("d", 86400)])
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["", " ", "  "]),
)
def test_the_terms_of_a_duration_add_up(terms, space):
    text = space.join(f"{number}{unit}" for number, (unit, _) in terms)
    assert parse_duration(text) == sum(number * length for number, (_, length) in terms)


@given(st.integers(0, 10**9))
def test_a_formatted_duration_reads_as_itself(seconds):
    assert parse_duration(format_duration(seconds).replace(",", "")) == seconds


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_number_of_64_bits_reads_as_itself(number):
    assert parse_number(f" {number} ") == number


@pytest.mark.parametrize("text", ["", "1.0", "1e3", "0x10", "one", "1 2", str(2**63), "\u0661"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match=r"not a whole number|64 bits"):
        parse_number(text)


def test_a_boolean_is_one_of_two_words_in_any_case():
    assert parse_boolean("true")
    assert parse_boolean("TRUE")
    assert not parse_boolean("False")
    for text in ("", "yes", "1", " true"):
        with pytest.raises(ValueError, match="not a boolean"):
            parse_boolean(text)
