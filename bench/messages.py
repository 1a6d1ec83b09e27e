"""The bytes of the benchmark's requests and answers, and the proof that none was changed.

Both ways are under SHA-256. The upstream hashes the request body and puts the digest into the answer's message id; it
hashes the stream it writes and puts that digest into ``message_delta``, over every byte before that event. The client
compares both, counts the events, and compares what follows the digest byte for byte.

Each delta carries the upstream's monotonic clock at the moment of its write, as ``@`` and 19 digits of nanoseconds.
"""

from __future__ import annotations

import hashlib
import json
import re

from works import EVENT_BYTES, Work

API_KEY = "bench-client-key"
HEAD_END = b"\r\n\r\n"
STREAM_END = b"\r\n0\r\n\r\n"
STAMP_DIGITS = 19

# What Claude Code 2.1.330 sends with a call, so that header work is the real one.
HEADERS = f"""\
accept: application/json
content-type: application/json
user-agent: claude-cli/2.1.330 (external, sdk-cli)
x-claude-code-session-id: 8d5f2c1e-6a0b-4c39-9f4e-%012d
x-stainless-arch: x64
x-stainless-lang: js
x-stainless-os: Linux
x-stainless-package-version: 0.128.0
x-stainless-retry-count: 0
x-stainless-runtime: node
x-stainless-runtime-version: v26.12.1
x-stainless-timeout: 600
anthropic-beta: claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,effort-2025-11-24
anthropic-dangerous-direct-browser-access: true
anthropic-version: 2023-06-01
x-api-key: {API_KEY}
x-app: cli
connection: keep-alive
accept-encoding: gzip, deflate, br, zstd
""".replace("\n", "\r\n")


class Requests:
    """Makes the requests of one work: no two bodies alike; ``model`` first, ``stream`` last, as Claude Code does."""

    def __init__(self, work: Work, host: str) -> None:
        opening = f'{{"model":"{work.model}","messages":[{{"role":"user","content":"'.encode()
        closing = f'"}}],"max_tokens":1024,"stream":{"true" if work.events else "false"}}}'.encode()
        self._opening = opening
        self._closing = b"lorem ipsum " * ((work.body - len(opening) - len(closing) - 12) // 12) + closing
        self._head = (
            f"POST /v1/messages?beta=true HTTP/1.1\r\nhost: {host}\r\n{HEADERS}"
            f"content-length: {len(self._opening) + 12 + len(self._closing)}\r\n\r\n"
        )

    def make(self, number: int, session: int) -> tuple[bytes, str]:
        """The whole request, and the SHA-256 of its body in hex."""
        body = b"%b%012d%b" % (self._opening, number, self._closing)
        return (self._head % session).encode() + body, hashlib.sha256(body).hexdigest()


def small_answer(digest: str) -> bytes:
    """A whole HTTP answer with a JSON message whose id carries ``digest``."""
    body = json.dumps(_message(digest, [{"type": "text", "text": "A small answer."}])).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_bench\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"request-id: req_bench\r\ntransfer-encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _message(digest: str, content: list[object]) -> dict[str, object]:
    usage = {"input_tokens": 25000, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
    message = {"id": f"msg_{digest}", "type": "message", "role": "assistant", "model": "bench", "content": content}
    return {**message, "stop_reason": "end_turn" if content else None, "stop_sequence": None, "usage": usage}


def _event(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


def opening_events(digest: str) -> bytes:
    """``message_start``, whose id carries the digest of the request body, and ``content_block_start``."""
    start = _event("message_start", message=_message(digest, []))
    return start + _event("content_block_start", index=0, content_block={"type": "text", "text": ""})


_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"'
)
_FILL = b"x" * (EVENT_BYTES - len(_DELTA) - STAMP_DIGITS - 1 - len(b'"}}\n\n')) + b'"}}\n\n'


def delta_event(now: int) -> bytes:
    """One content event of EVENT_BYTES bytes, stamped with ``now`` in nanoseconds."""
    return b"%b@%019d%b" % (_DELTA, now, _FILL)


def closing_events(digest: str) -> bytes:
    """The rest of the stream; ``digest`` is that of every byte before the ``message_delta`` in it."""
    usage = {"output_tokens": 200}
    delta = _event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage, digest=digest)
    return delta + _event("message_stop")


BLOCK_STOP = _event("content_block_stop", index=0)


class Damaged(Exception):
    """An answer is not what the upstream wrote; says how."""


def check(raw: bytes, work: Work, digest: str) -> None:
    """Verify a whole HTTP answer as read from the socket. Raises Damaged."""
    head, _, rest = raw.partition(HEAD_END)
    if not head.startswith(b"HTTP/1.1 200 "):
        raise Damaged(f"answered {head[:40]!r} {rest[:200]!r}")
    body = _dechunked(rest) if re.search(rb"(?im)^transfer-encoding: *chunked", head) else rest
    if not work.events:
        if json.loads(body) != json.loads(small_answer(digest).partition(HEAD_END)[2]):
            raise Damaged(f"another answer: {body[:200]!r}")
        return
    sent, mark, _ = body.partition(b"event: message_delta\n")
    closing = body[len(sent) :]
    if not mark or closing != closing_events(hashlib.sha256(sent).hexdigest()):
        raise Damaged(f"the stream's digest does not hold: {body[-300:]!r}")
    if not sent.startswith(opening_events(digest)):
        raise Damaged("the request body's digest does not hold")
    if sent.count(b"event: content_block_delta\n") != work.events:
        raise Damaged("the number of events does not hold")


def _dechunked(data: bytes) -> bytes:
    pieces = []
    position = 0
    while True:
        line = data.index(b"\r\n", position)
        size = int(data[position:line], 16)
        if data[line + 2 + size : line + 4 + size] != b"\r\n":
            raise Damaged("a broken chunk")
        if not size:
            return b"".join(pieces)
        pieces.append(data[line + 2 : line + 2 + size])
        position = line + 4 + size
