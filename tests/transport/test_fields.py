"""HPACK against the `hpack` package's encoder, and the blocks that must be refused."""

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nativelink.transport.fields import (
    FieldBombError,
    FieldDecoder,
    FieldDecodingError,
    encode_fields,
)

NAMES = st.sampled_from([":path", "te", "content-type", "x-a", "x-b", "user-agent", "grpc-timeout"])
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=12)


@given(
    blocks=st.lists(st.tuples(FIELDS, st.booleans(), st.none() | st.integers(0, 4096)), max_size=8)
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_block_of_another_encoder_decodes_to_its_fields(blocks):
    encoder = hpack.Encoder()
    decoder = FieldDecoder(10**6)
    for fields, huffman, table_size in blocks:
        if table_size is not None:
            encoder.header_table_size = table_size
        block = encoder.encode(fields, huffman=huffman)
        assert decoder.decode(block) == [(n.encode(), v.encode()) for n, v in fields]
        assert not decoder.oversized


@given(fields=st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=20_000))))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_our_blocks_decode_elsewhere_and_touch_no_table(fields):
    decoder = hpack.Decoder(max_header_list_size=10**9)
    block = encode_fields(fields)
    assert [tuple(field) for field in decoder.decode(block, raw=True)] == fields
    assert not decoder.header_table.dynamic_entries


def test_a_known_status_is_one_octet():
    assert encode_fields([(b":status", b"200")]) == b"\x88"
    assert len(encode_fields([(b":status", b"415")])) > 1


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xbe",  # beyond the static table, and nothing in the dynamic one
        b"\xff\xff\xff\xff\xff\xff",  # an integer without end
        b"\x00",  # a literal without a name
        b"\x00\x05ab",  # a name that is cut off
        b"\x00\x01a",  # no value
        b"\x00\x01a\x7f",  # a length that is cut off
        b"\x82\x20",  # a table size after a field
        b"\x3f\xe2\x1f",  # a table of 4097 octets
        b"\x00\x81\xff\x00",  # Huffman padding of a whole octet
        b"\x00\x84\xff\xff\xff\xff\x00",  # EOS within a text
    ],
)
def test_what_is_no_hpack_is_an_error(block):
    with pytest.raises(FieldDecodingError):
        FieldDecoder(1000).decode(block)


def test_a_list_that_is_too_long_is_decoded_for_the_table_and_not_kept():
    decoder = FieldDecoder(16 * 1024)
    encoder = hpack.Encoder()
    big = ("x-bomb", "y" * 4000)
    decoder.decode(encoder.encode([big]))
    fields = decoder.decode(b"\xbe" * 10)
    assert decoder.oversized
    assert len(fields) <= 4
    with pytest.raises(FieldBombError):
        # 400 MB if it were spelled out.
        decoder.decode(b"\xbe" * 100_000)
    assert decoder.decode(encoder.encode([big, ("te", "trailers")]))[-1] == (b"te", b"trailers")
    assert not decoder.oversized


def test_an_entry_larger_than_the_table_empties_it():
    encoder, decoder = hpack.Encoder(), FieldDecoder(10**6)
    for fields in ([("a", "1")], [("b", "2" * 5000)], [("a", "1")]):
        assert decoder.decode(encoder.encode(fields)) == [
            (name.encode(), value.encode()) for name, value in fields
        ]


def test_a_block_says_whether_it_changed_the_table():
    encoder, decoder = hpack.Encoder(), FieldDecoder(10**6)
    changes = []
    for fields in ([("a", "1")], [("a", "1")], [("b", "1")], [("a", "1"), ("b", "1")]):
        decoder.decode(encoder.encode(fields))
        changes.append(decoder.table_changed)
    assert changes == [True, False, True, False]


def test_a_forbidden_field_is_noticed_again_when_it_comes_from_the_table():
    encoder, decoder = hpack.Encoder(), FieldDecoder(10**6)
    for fields, malformed in (
        ([("a", "1")], False),
        ([("Bad", "1")], True),
        ([("a", "1")], False),
        ([("a", "1"), ("Bad", "1")], True),
    ):
        decoder.decode(encoder.encode(fields))
        assert decoder.malformed is malformed
