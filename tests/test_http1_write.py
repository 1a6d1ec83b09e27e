"""Writing heads and chunks: what goes out is what was meant, or nothing goes out."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccrelay.core.http1 import LAST_CHUNK, ChunkedDecoder, encode_chunk, encode_request_head, encode_response_head

untimed = settings(deadline=None)  # how fast the machine is says nothing about the code


def test_heads_are_written_with_names_as_given() -> None:
    headers = ((b"x-Api-KEY", b"k"), (b"Empty", b""), (b"a", b"1"), (b"a", b"2"))
    assert encode_request_head(b"POST", b"/v1/messages?a=%2F", headers) == (
        b"POST /v1/messages?a=%2F HTTP/1.1\r\nx-Api-KEY: k\r\nEmpty: \r\na: 1\r\na: 2\r\n\r\n"
    )
    assert encode_response_head(529, b"", ((b"A", b"b"),)) == b"HTTP/1.1 529 \r\nA: b\r\n\r\n"
    assert encode_response_head(200, b"Fine", ()) == b"HTTP/1.1 200 Fine\r\n\r\n"


@pytest.mark.parametrize("evil", [b"\r", b"\n", b"\r\n", b"\x00", b"\x0b", b"\x7f", b"\x1b"])
@pytest.mark.parametrize("place", [b"%b", b"a%b", b"%bb", b"a%bb"])
def test_nothing_can_split_a_message(evil: bytes, place: bytes) -> None:
    text = place % evil
    for headers in (((text, b"v"),), ((b"n", text),), ((b"ok", b"ok"), (b"n", text), (b"ok", b"ok"))):
        with pytest.raises(ValueError, match=r"header name|control character"):
            encode_response_head(200, b"OK", headers)
        with pytest.raises(ValueError, match=r"header name|control character"):
            encode_request_head(b"GET", b"/", headers)
    with pytest.raises(ValueError, match="reason"):
        encode_response_head(200, text, ())
    with pytest.raises(ValueError, match="method"):
        encode_request_head(text, b"/", ())
    with pytest.raises(ValueError, match="target"):
        encode_request_head(b"GET", text, ())


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a ", b"\xe9", b"a(b)"])
def test_a_name_that_is_no_token_is_refused(name: bytes) -> None:
    with pytest.raises(ValueError, match="header name"):
        encode_response_head(200, b"", ((b"a", b""), (name, b"")))


@pytest.mark.parametrize("target", [b"", b"/a b", b"/\xc3\xa9", b"/\t"])
def test_a_target_of_anything_but_visible_ascii_is_refused(target: bytes) -> None:
    with pytest.raises(ValueError, match="target"):
        encode_request_head(b"GET", target, ())


@pytest.mark.parametrize("status", [99, 1000, -200, 0])
def test_a_status_that_is_none_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match="status"):
        encode_response_head(status, b"", ())


def test_a_refused_value_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="control character") as caught:
        encode_request_head(b"GET", b"/", ((b"x-api-key", b"canary\n"),))
    assert "canary" not in str(caught.value)
    assert "x-api-key" in str(caught.value)


# biased to what could break out
PARTS = st.lists(
    st.sampled_from(
        [b"\r\n", b"\r", b"\n", b":", b" ", b"\t", b"\x00", b"GET / HTTP/1.1", b"x", b"X-Y", b"\xe9", b"/"]
    ),
    max_size=4,
).map(b"".join)
NAMES = st.from_regex(rb"[a-zA-Z-]{1,8}", fullmatch=True)
VALUES = st.from_regex(rb"[\t -~\x80-\xff]{0,8}", fullmatch=True)
HEADERS = st.lists(
    st.tuples(NAMES, VALUES) | st.tuples(NAMES, VALUES) | st.tuples(PARTS, VALUES) | st.tuples(NAMES, PARTS), max_size=4
)


@untimed
@given(
    st.sampled_from([b"GET", b"POST", b"A-b", b"G T", b"GET\n"]),
    st.sampled_from([b"/", b"*", b"/a?b=%20", b"/ HTTP/1.1\r\nX:", b"/\t"]),
    HEADERS,
)
def test_whatever_is_written_reads_back_as_one_request_of_the_same_headers(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    # the framing headers are the caller's business, and h11 would look at their values
    headers = [(b"x" + name if name else name, value) for name, value in headers]
    try:
        wire = encode_request_head(method, target, ((b"Host", b"a"), *headers))
    except ValueError:
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(wire)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (method, target)
    read = [(name, value) for name, value in event.headers.raw_items()]
    assert read == [(b"Host", b"a"), *[(name, value.strip(b" \t")) for name, value in headers]]
    assert isinstance(server.next_event(), h11.EndOfMessage)
    assert server.trailing_data == (b"", False)


@given(st.binary(max_size=300))
def test_chunks_are_what_h11_would_write(data: bytes) -> None:
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    server.next_event()
    server.send(h11.Response(status_code=200, headers=[("Transfer-Encoding", "chunked")]))
    assert encode_chunk(data) == server.send(h11.Data(data=data))
    assert server.send(h11.EndOfMessage()) == LAST_CHUNK


def test_an_empty_chunk_does_not_end_a_body() -> None:
    decoder = ChunkedDecoder()
    assert decoder.receive_data(encode_chunk(b"a") + encode_chunk(b"") + encode_chunk(b"b")) == b"ab"
    assert not decoder.done
