"""The SSE aligner, reader and writer against the standard, read one character at a time, and the SDK's decoder."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from ccrelay.core import sse
from ccrelay.core.sse import PING, Event, EventAligner, encode_event, parse_events
from ccrelay.errors import StreamViolation
from ccrelay.interfaces import IStreamDecoder

untimed = settings(deadline=None)  # how fast the machine is says nothing about the code
LINE_ENDS = ["\n", "\r\n", "\r"]


def read_by_the_standard(document: bytes) -> list[Event]:
    """A reading of WHATWG HTML 9.2.6 that shares no primitive with the code: a state machine over characters."""
    events: list[Event] = []
    line, name, data = "", "", ""
    after_cr = False
    for char in document.decode("utf-8").removeprefix("\ufeff"):
        if char == "\n" and after_cr:
            after_cr = False
            continue
        after_cr = char == "\r"
        if char not in "\r\n":
            line += char
            continue
        if line == "":
            if data != "":
                events.append(Event(name, data[:-1].encode()))
            name, data = "", ""
        elif not line.startswith(":"):
            field, colon, value = line.partition(":")
            if colon and value[:1] == " ":
                value = value[1:]
            if field == "event":
                name = value
            elif field == "data":
                data += value + "\n"
        line = ""
    return events


# What the grammar is made of, thick with the characters that matter to it.
atoms = st.sampled_from([*' :x{}"\t\x00\x0b\x1c\u0085\u2028é漢🙂', "data", "event:"])
field_text = st.lists(atoms, max_size=8).map("".join)
lines = st.one_of(
    st.builds("data:{}{}".format, st.sampled_from(["", " ", "  "]), field_text),
    st.builds("event:{}{}".format, st.sampled_from(["", " "]), field_text),
    st.builds(":{}".format, field_text),
    st.sampled_from(["data", "event", "id: 7", "retry: 100", "retry: x", "unknown: y", "Data: x", " data: x"]),
    field_text,
)
line_end = st.sampled_from(LINE_ENDS)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Any lines, blank ones among them, any line ends, maybe a byte order mark; it may stop inside an event."""
    parts = draw(st.lists(st.tuples(st.one_of(lines, st.just("")), line_end), max_size=20))
    mark = draw(st.sampled_from(["", "", "\ufeff"]))
    return (mark + "".join(text + end for text, end in parts) + draw(field_text)).encode()


@st.composite
def cut_documents(draw: st.DrawFn) -> list[bytes]:
    """A document cut anywhere, also inside a character and between CR and LF; some chunks are empty."""
    document = draw(documents())
    cuts = sorted(draw(st.lists(st.integers(0, len(document)), max_size=12)))
    return [document[a:b] for a, b in zip([0, *cuts], [*cuts, len(document)], strict=True)]


def events_of(block: bytes) -> list[Event]:
    return list(parse_events(block))


@untimed
@given(documents())
def test_reading_follows_the_standard(document: bytes) -> None:
    assert events_of(document) == read_by_the_standard(document)


@pytest.fixture(scope="module")
def sdk_decoder() -> Any:
    return pytest.importorskip("anthropic._streaming").SSEDecoder


@untimed
@given(document=documents())
def test_reading_agrees_with_the_sdk(sdk_decoder: Any, document: bytes) -> None:
    decoded = sdk_decoder().iter_bytes(iter([document.removeprefix("\ufeff".encode())]))
    # The SDK also hands out blank events for an id, a retry or a name alone; the standard dispatches none without data.
    with_data = [sse for sse in decoded if any(line.partition(":")[0] == "data" for line in sse.raw)]
    assert events_of(document) == [Event(sse.event or "", sse.data.encode()) for sse in with_data]


@untimed
@given(cut_documents())
def test_aligned_outputs_are_the_input_in_whole_events_as_early_as_possible(chunks: list[bytes]) -> None:
    aligner = EventAligner()
    received, given_back, seen = b"", b"", []
    for chunk in chunks:
        received += chunk
        output = aligner.receive_data(chunk)
        given_back += output
        output.decode()  # no character is cut
        seen += read_by_the_standard(output)
        # All events that are complete by now have been given back, and none was cut by a boundary taken for one.
        assert seen == read_by_the_standard(received.decode("utf-8", "ignore").encode())
        assert received.startswith(given_back)
    rest = received[len(given_back) :]
    try:
        assert aligner.receive_eof() == rest
        assert read_by_the_standard(rest + b"\n\n") == []
    except StreamViolation:
        assert rest.strip()


@untimed
@given(cut_documents())
def test_an_event_may_be_written_after_any_output(chunks: list[bytes]) -> None:
    aligner = EventAligner()
    written = b"".join(aligner.receive_data(chunk) + PING for chunk in chunks)
    received = b"".join(chunks)
    ping = Event("ping", b'{"type": "ping"}')
    without_pings = [event for event in read_by_the_standard(written.replace(b"\xef\xbb\xbf", b"")) if event != ping]
    assert without_pings == read_by_the_standard(received)


STREAM = (
    "event: message_start\ndata: {}\n\n: note\n\nevent: ping\ndata:{}\n\nevent: content_block_delta\n"
    'data: {"text":"漢字🙂"}\n\nevent: message_stop\ndata: {}\n\n'
)


@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_every_truncation_is_told_from_an_end_at_a_boundary(line_end: str) -> None:
    stream = STREAM.replace("\n", line_end).encode()
    whole_ends = {0}
    for cut in range(len(stream) + 1):
        aligner = EventAligner()
        output = aligner.receive_data(stream[:cut])
        if output and len(output) == cut:
            whole_ends.add(cut)
        rest = stream[len(output) : cut]
        if not rest or rest.strip() == b"" or rest.startswith(b":"):
            assert aligner.receive_eof() == rest
        else:
            with pytest.raises(StreamViolation, match="inside an event"):
                aligner.receive_eof()
    # A blank line of CRLF ends with its CR; the LF then is one more place where nothing is unfinished.
    assert len(whole_ends) == 1 + STREAM.count("\n\n") * (2 if line_end == "\r\n" else 1)


@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_byte_by_byte_gives_each_event_with_its_last_byte(line_end: str) -> None:
    aligner = EventAligner()
    stream = STREAM.replace("\n", line_end).encode()
    outputs = [aligner.receive_data(stream[i : i + 1]) for i in range(len(stream))]
    assert b"".join(outputs) == stream
    assert [event for output in outputs for event in events_of(output)] == read_by_the_standard(stream)
    assert max(len(events_of(output)) for output in outputs) == 1


def test_whole_events_are_passed_on_without_a_copy() -> None:
    aligner = EventAligner()
    for line_end in LINE_ENDS:
        block = STREAM.replace("\n", line_end).encode()
        assert aligner.receive_data(block) is block


@pytest.mark.parametrize(
    ("chunks", "outputs"),
    [
        ([b"data: a\r", b"\n\r", b"\ndata: b\r\n\r\n"], [b"", b"data: a\r\n\r", b"\ndata: b\r\n\r\n"]),
        ([b"data: a\r\n", b"data: b\r\n", b"\r\n"], [b"", b"", b"data: a\r\ndata: b\r\n\r\n"]),
        ([b"data: a\n\rdata: b\r\r\ndata: c"], [b"data: a\n\rdata: b\r\r\n"]),
        ([b"data: a\n\ndata: b", b"\n\ndata: c\n"], [b"data: a\n\n", b"data: b\n\n"]),
        ([b"\n", b"\r", b"\r\n", b"data: a\n"], [b"\n", b"\r", b"\r\n", b""]),
        ([b"", b"data", b"", b": a\n\n", b""], [b"", b"", b"", b"data: a\n\n", b""]),
    ],
)
def test_boundaries_are_found_however_line_ends_are_mixed_and_split(chunks: list[bytes], outputs: list[bytes]) -> None:
    aligner = EventAligner()
    assert [aligner.receive_data(chunk) for chunk in chunks] == outputs


def test_a_comment_or_blank_at_the_end_is_given_back() -> None:
    aligner = EventAligner()
    assert aligner.receive_data(b"data: a\n\n: still he") == b"data: a\n\n"
    assert aligner.receive_eof() == b": still he"
    aligner = EventAligner()
    assert aligner.receive_data(b"\xef\xbb\xbf") == b""
    assert aligner.receive_eof() == b"\xef\xbb\xbf"


def test_an_event_may_grow_to_the_bound_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_INCOMPLETE_EVENT", 100)
    aligner = EventAligner()
    assert aligner.receive_data(b"data: " + b"x" * 94) == b""
    assert aligner.receive_data(b"\n\n" + b"y" * 100) == b"data: " + b"x" * 94 + b"\n\n"
    with pytest.raises(StreamViolation, match="larger than 100 bytes"):
        aligner.receive_data(b"y")


def test_nothing_is_resumed_after_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_INCOMPLETE_EVENT", 100)
    too_large, cut_short = EventAligner(), EventAligner()
    with pytest.raises(StreamViolation) as first:
        too_large.receive_data(b"x" * 101)
    cut_short.receive_data(b"data: a")
    with pytest.raises(StreamViolation):
        cut_short.receive_eof()
    for poisoned in (too_large, cut_short):
        for data in (b"\n\n", b"", b"data: b\n\n"):
            with pytest.raises(StreamViolation):
                poisoned.receive_data(data)
    with pytest.raises(StreamViolation, match=str(first.value)):
        too_large.receive_eof()


def test_the_aligner_provides_the_decoder_interface() -> None:
    assert verifyObject(IStreamDecoder, EventAligner())


@untimed
@given(st.text().map(lambda name: name.replace("\r", "").replace("\n", "")), st.binary())
def test_a_written_event_is_read_back(name: str, data: bytes) -> None:
    block = encode_event(name, data)
    assert EventAligner().receive_data(block) == block
    assert events_of(block) == [Event(name, data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))]


@pytest.mark.parametrize("name", ["ping\ndata: forged", "ping\r", "\n"])
def test_a_name_cannot_forge_a_field(name: str) -> None:
    with pytest.raises(StreamViolation):
        encode_event(name, b"{}")


def test_a_name_that_no_encoding_has_is_still_written() -> None:
    assert events_of(encode_event("a\ud800", b"{}")) == [Event("a?", b"{}")]


def test_the_ping_is_one_whole_event() -> None:
    assert EventAligner().receive_data(PING) == PING
    assert read_by_the_standard(PING) == [Event("ping", b'{"type": "ping"}')]
