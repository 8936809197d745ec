"""Messages out of chunks, compression, timeouts."""

import gzip
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nativelink.core.errors import Code, NativeLinkError
from nativelink.transport.grpc import MessageReader, gunzip, gzip_message, parse_timeout
from tests.transport.wire import message


def feed(reader, chunk):
    """The messages that a chunk completes."""
    reader.feed(chunk)
    messages = []
    while reader.advance():
        messages.append(bytes(reader.take()))
    return messages


@given(
    messages=st.lists(st.binary(max_size=40), max_size=6),
    cuts=st.lists(st.integers(0, 300), max_size=12),
    kind=st.sampled_from([bytes, memoryview, bytearray]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_messages_are_the_same_however_their_body_is_cut(messages, cuts, kind):
    body = b"".join(map(message, messages))
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    reader = MessageReader(100)
    got = []
    for start, end in pairwise(edges):
        got += feed(reader, kind(body[start:end]))
    reader.finish()
    assert got == messages
    assert reader.held == 0


def test_a_message_within_a_chunk_is_a_slice_and_no_copy():
    chunk = memoryview(message(b"x" * 1000))
    reader = MessageReader(2000)
    reader.feed(chunk)
    assert reader.advance()
    got = reader.take()
    assert isinstance(got, memoryview)
    assert got.obj is chunk.obj


def test_a_message_is_counted_as_held_until_it_is_taken():
    reader = MessageReader(100)
    feed(reader, message(b"x" * 50)[:30])
    assert (reader.held, reader.unread) == (25, 0)
    reader.feed(message(b"x" * 50)[30:] + b"more")
    assert reader.advance()
    assert (reader.held, reader.unread) == (50, 4)
    reader.take()
    assert (reader.held, reader.unread) == (0, 4)


@pytest.mark.parametrize("packed", [gzip.compress(bytes(20_000)), b""], ids=["bombs", "empty"])
def test_a_chunk_full_of_messages_costs_no_more_than_one_of_them(packed):
    one = message(packed, flag=1 if packed else 0)
    chunk = one * (65_536 // len(one))
    reader = MessageReader(20_000, gzip=True)
    tracemalloc.start()
    reader.feed(chunk)
    assert reader.advance()
    message_ = reader.take()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    assert len(message_) == (20_000 if packed else 0)
    count = 1
    while reader.advance():
        reader.take()
        count += 1
    assert count == 65_536 // len(one)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (message(b"x" * 11), Code.RESOURCE_EXHAUSTED),
        (b"\x00\xff\xff\xff\xff", Code.RESOURCE_EXHAUSTED),
        (message(b"x", flag=2), Code.INTERNAL),
        (message(b"x", flag=1), Code.INTERNAL),
    ],
)
def test_a_bad_prefix_is_refused_before_the_message_is_kept(body, code):
    with pytest.raises(NativeLinkError) as caught:
        feed(MessageReader(10), body[:5])
    assert caught.value.code is code


@pytest.mark.parametrize("body", [b"\x00", message(b"abc")[:-1]])
def test_a_body_that_ends_within_a_message_is_refused(body):
    reader = MessageReader(10)
    feed(reader, body)
    with pytest.raises(NativeLinkError) as caught:
        reader.finish()
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_compressed_messages_are_inflated_and_others_passed():
    reader = MessageReader(1000, gzip=True)
    packed = gzip.compress(b"y" * 900)
    assert feed(reader, message(packed, flag=1) + message(b"plain")) == [b"y" * 900, b"plain"]


def test_ours_is_gzip_for_everyone():
    assert gzip.decompress(gzip_message(memoryview(b"z" * 999))) == b"z" * 999


def test_a_gzip_bomb_costs_no_more_than_the_limit():
    with pytest.raises(NativeLinkError) as caught:
        gunzip(gzip.compress(bytes(5_000_000)), 1000)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "data",
    [b"no gzip", gzip.compress(b"abc")[:-1], gzip.compress(b"abc") + b"more", b""],
    ids=["no gzip", "cut short", "followed by more", "empty"],
)
def test_damaged_gzip_is_the_clients_error(data):
    with pytest.raises(NativeLinkError) as caught:
        gunzip(data, 1000)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"1500m", 1.5),
        (b"250u", 0.00025),
        (b"99999999n", 0.099999999),
        (b"0S", 0),
    ],
)
def test_timeouts_have_six_units(text, seconds):
    assert parse_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"", b"1", b"S", b"123456789S", b"-1S", b"1.5S", b"1s", b"1S "])
def test_malformed_timeouts_are_refused(text):
    with pytest.raises(NativeLinkError) as caught:
        parse_timeout(text)
    assert caught.value.code is Code.INVALID_ARGUMENT
