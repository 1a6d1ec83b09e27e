"""Events per second of AWS's event stream: our parser, our whole Bedrock decoder, and botocore's reader if it is there.

Run it from the checkout: PYTHONPATH=. python bench/eventstream.py [EVENTS]
EVENTS (a million unless told) usual text deltas come as the network gives them, 16 KiB at a time; then 60,000 come in
one buffer, which shows whether the work grows with the input or with its square. One run each, for minutes if
botocore is there; nothing else should keep the machine busy.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator

from ccrelay.core.bedrock_stream import BedrockDecoder
from ccrelay.core.eventstream import EventStreamParser
from tests.event_frames import chunk

EVENTS = 1_000_000
PIECE = 16384
ONE_BUFFER = 60_000
BLOCK = 1000  # different events, repeated: as many as keep the input small and no event's text special

Reader = Callable[[Iterator[bytes]], int]
"""Reads a stream and returns how many messages or events it found."""


def frames() -> bytes:
    """BLOCK frames of about 300 bytes."""
    deltas = (
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": f"and so it goes on, {n}"}}
        for n in range(BLOCK)
    )
    return b"".join(chunk(json.dumps(delta, separators=(",", ":")).encode()) for delta in deltas)


def pieces(block: bytes, events: int) -> Iterator[bytes]:
    """``events`` frames in pieces of PIECE bytes that do not fall in with the frames."""
    held = b""
    for _ in range(events // BLOCK):
        held += block
        whole = len(held) - len(held) % PIECE
        for start in range(0, whole, PIECE):
            yield held[start : start + PIECE]
        held = held[whole:]
    yield held


def our_parser(stream: Iterator[bytes]) -> int:
    parser = EventStreamParser()
    return sum(1 for piece in stream for _ in parser.receive_data(piece))


def our_decoder(stream: Iterator[bytes]) -> int:
    decoder = BedrockDecoder()
    return sum(decoder.receive_data(piece).count(b"\n\n") for piece in stream)


def botocore_reader() -> Reader | None:
    try:
        from botocore.eventstream import EventStreamBuffer
    except ImportError:
        return None

    def read(stream: Iterator[bytes]) -> int:
        reader = EventStreamBuffer()
        count = 0
        for piece in stream:
            reader.add_data(piece)
            count += sum(1 for _ in reader)
        return count

    return read


def rate(read: Reader, stream: Iterator[bytes], events: int) -> float:
    """Events per second. The stream is made while it is read: that is the same few copies for everyone."""
    begun = time.perf_counter()
    found = read(stream)
    taken = time.perf_counter() - begun
    if found != events:
        raise AssertionError(f"{found} events were read of {events}")
    return events / taken


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    events = max(1, wanted // BLOCK) * BLOCK
    block = frames()
    buffer = block * (ONE_BUFFER // BLOCK)
    readers: list[tuple[str, Reader]] = [("our parser", our_parser), ("our decoder", our_decoder)]
    theirs = botocore_reader()
    if theirs is not None:
        readers.append(("botocore", theirs))
    print(f"{'events per second':20}{f'{events:,} in pieces':>24}{f'{ONE_BUFFER:,} in one buffer':>26}")
    for name, read in readers:
        in_pieces = rate(read, pieces(block, events), events)
        in_one = rate(read, iter([buffer]), ONE_BUFFER)
        print(f"{name:20}{in_pieces:24,.0f}{in_one:26,.0f}", flush=True)


if __name__ == "__main__":
    main()
