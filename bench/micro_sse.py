"""Time per event of what every streamed byte passes: the SSE aligner and the stream watch.

Run it from the checkout: PYTHONPATH=. python bench/micro_sse.py
Each case is a block as the network gives it. The best of several repetitions is shown, in nanoseconds per event.
"""

from __future__ import annotations

import json
import timeit

from ccrelay.core.access import AccessRecord, as_json, as_text
from ccrelay.core.model import Usage
from ccrelay.core.outcomes import Outcome
from ccrelay.core.sse import EventAligner
from ccrelay.core.stream_watch import StreamWatch

REPETITIONS = 7
SECONDS = 0.05


def text_delta(text: str) -> bytes:
    """A content_block_delta of about 200 bytes."""
    frame = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text.ljust(69, ".")}}
    return b"event: content_block_delta\ndata: " + json.dumps(frame).encode() + b"\n\n"


def best(statement: str, names: dict[str, object], per: int = 1) -> float:
    """Nanoseconds per event of the fastest repetition."""
    timer = timeit.Timer(statement, globals=names)
    number = max(1, int(SECONDS / (timer.timeit(20) / 20)))
    return min(timer.repeat(REPETITIONS, number)) / number / per * 1e9


def started_watch() -> StreamWatch:
    watch = StreamWatch()
    watch.see(text_delta("x"))
    return watch


def main() -> None:
    event = text_delta("and so the quick brown fox jumps over the lazy dog, some more")
    telling = text_delta("an error in message_delta")
    cases = [
        (f"one event ({len(event)} bytes)", [event], 1),
        ("the same with CRLF", [event.replace(b"\n", b"\r\n")], 1),
        ("text that says error and message_", [telling], 1),
        ("300 events in one block", [event * 300], 300),
        ("300 events, one of them says error", [event * 299 + telling], 300),
        ("one event in two halves", [event[:100], event[100:]], 1),
        ("300 events cut at a wrong place", [event * 300 + event[:100], event[100:]], 301),
    ]
    print(f"{'ns per event':36}{'aligner':>9}{'watch':>9}{'both':>9}")
    for title, chunks, events in cases:
        names = {
            "align": EventAligner().receive_data,
            "see": started_watch().see,
            "chunks": chunks,
            "whole": b"".join(chunks),
        }
        figures = [
            best("for chunk in chunks: align(chunk)", names, events),
            best("see(whole)", names, events),
            best("for chunk in chunks: see(align(chunk))", names, events),
        ]
        print(f"{title:36}" + "".join(f"{figure:9.0f}" for figure in figures))
    record = AccessRecord(
        time=1795000000.125,
        request_id="req_9f2c",
        outcome=Outcome.ANSWERED,
        duration=2.5,
        status=200,
        usage=Usage(25, 15),
        model_asked="claude-opus-4-6",
        user_agent="claude-cli/2.1.330 (external, cli)",
    )
    for write in (as_json, as_text):
        print(
            f"access line, {write.__name__}: {best('write(record)', {'write': write, 'record': record}) / 1000:.1f} us"
        )


if __name__ == "__main__":
    main()
