"""What HTTP/1.1 framing costs per message and per event, in microseconds of one core: ``python bench/micro_http1.py``.

The request head is Claude Code's, with its beta list at its usual length; the event is a text delta of usual size, the
burst is 200 of them cut as a socket would. The best of several runs, since everything else is the machine's noise.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

from ccrelay.core.http1 import (
    LAST_CHUNK,
    ChunkedDecoder,
    RequestHeadParser,
    ResponseHeadParser,
    encode_chunk,
    encode_request_head,
    encode_response_head,
)

REQUEST_HEADERS = (
    (b"Accept", b"application/json"),
    (b"Authorization", b"Bearer " + b"k" * 64),
    (b"Content-Type", b"application/json"),
    (b"User-Agent", b"claude-cli/2.1.330 (external, sdk-cli)"),
    (b"X-Claude-Code-Session-Id", b"0f8fad5b-d9cb-469f-a165-70867728950e"),
    (b"X-Stainless-Arch", b"x64"),
    (b"X-Stainless-Lang", b"js"),
    (b"X-Stainless-OS", b"Linux"),
    (b"X-Stainless-Package-Version", b"0.128.0"),
    (b"X-Stainless-Retry-Count", b"0"),
    (b"X-Stainless-Runtime", b"node"),
    (b"X-Stainless-Runtime-Version", b"v26.12.1"),
    (b"X-Stainless-Timeout", b"600"),
    (
        b"anthropic-beta",
        (
            b"claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
            b"per-turn-control-2026-07-01,mid-conversation-tool-changes-2026-07-01,"
            b"thinking-token-count-2026-05-13,advanced-tool-use-2025-11-20,effort-2025-11-24"
        ),
    ),
    (b"anthropic-dangerous-direct-browser-access", b"true"),
    (b"anthropic-version", b"2023-06-01"),
    (b"x-api-key", b"k" * 40),
    (b"x-app", b"cli"),
    (b"Connection", b"keep-alive"),
    (b"Host", b"127.0.0.1:8787"),
    (b"Accept-Encoding", b"gzip, deflate, br, zstd"),
    (b"Content-Length", b"54321"),
)
RESPONSE_HEADERS = (
    (b"Date", b"Sun, 22 Nov 2026 12:00:00 GMT"),
    (b"Content-Type", b"text/event-stream; charset=utf-8"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Connection", b"keep-alive"),
    (b"Cache-Control", b"no-cache"),
    *((b"anthropic-ratelimit-tokens-%d" % number, b"2026-11-22T12:00:00Z") for number in range(12)),
    (b"request-id", b"req_011CQ5p3Zx7bX9N1vE2tT4aB"),
    (b"server", b"cloudflare"),
    (b"cf-ray", b"8f0c0ffee0c0ffee-FRA"),
)
EVENT = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello wor"}}\n\n'
)
READ_BYTES = 8000  # not a multiple of anything: chunks are cut where a socket read happens to end


def read_request(head: bytes) -> None:
    assert RequestHeadParser().receive_data(head) is not None


def read_response(head: bytes) -> None:
    assert ResponseHeadParser(b"POST").receive_data(head) is not None


def read_burst(reads: list[bytes]) -> None:
    decoder = ChunkedDecoder()
    for data in reads:
        decoder.receive_data(data)
    assert decoder.done


def report(name: str, unit: int, action: Callable[[], object]) -> None:
    timer = timeit.Timer(action)
    loops = max(1, timer.autorange()[0] // 4)
    best = min(timer.repeat(repeat=9, number=loops)) / loops
    print(f"{name:48} {best / unit * 1e6:8.2f} us")


def main() -> None:
    request = encode_request_head(b"POST", b"/v1/messages?beta=true", REQUEST_HEADERS)
    response = encode_response_head(200, b"OK", RESPONSE_HEADERS)
    chunk = encode_chunk(EVENT)
    upper = chunk.replace(b"%x" % len(EVENT), b"%X" % len(EVENT), 1)
    burst = chunk * 200 + LAST_CHUNK
    reads = [burst[cut : cut + READ_BYTES] for cut in range(0, len(burst), READ_BYTES)]
    decoder = ChunkedDecoder()
    report(f"request head, {len(REQUEST_HEADERS)} headers, {len(request)} bytes", 1, lambda: read_request(request))
    report(f"response head, {len(RESPONSE_HEADERS)} headers, {len(response)} bytes", 1, lambda: read_response(response))
    report("write that request head", 1, lambda: encode_request_head(b"POST", b"/v1/messages", REQUEST_HEADERS))
    report("write that response head", 1, lambda: encode_response_head(200, b"OK", RESPONSE_HEADERS))
    report("paced event, one chunk in one read", 1, lambda: decoder.receive_data(chunk))
    report("the same with an upper-case size", 1, lambda: decoder.receive_data(upper))
    report("write one event's chunk", 1, lambda: encode_chunk(EVENT))
    report("event in a burst of 200 in one read", 200, lambda: read_burst([burst]))
    report(f"event in a burst of 200, reads of {READ_BYTES} bytes", 200, lambda: read_burst(reads))


if __name__ == "__main__":
    main()
