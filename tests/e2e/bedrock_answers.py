"""Answers to script Bedrock's stand-in with: frames made by hand, cut anywhere, and what can go wrong in between."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from itertools import pairwise

from tests.e2e.answers import LAST_CHUNK, Answer, Block, chunk, events, head, message, pace, plain, send
from tests.event_frames import chunk as chunk_frame
from tests.event_frames import exception

EXCEPTIONS = (
    "internalServerException",
    "modelStreamErrorException",
    "modelTimeoutException",
    "serviceUnavailableException",
    "throttlingException",
    "validationException",
)
"""All that may end a stream, by the service's model."""

METRICS = {"inputTokenCount": 999, "outputTokenCount": 888, "invocationLatency": 1482, "firstByteLatency": 511}
"""None of these is what the message's own usage says."""

REQUEST_ID = ("x-amzn-RequestId", "550e8400-e29b-41d4-a716-446655440000")


STREAM_HEAD = head(
    200,
    "OK",
    [
        ("Content-Type", "application/vnd.amazon.eventstream"),
        ("X-Amzn-Bedrock-Content-Type", "application/json"),
        REQUEST_ID,
        ("Transfer-Encoding", "chunked"),
    ],
)


def documents(blocks: Sequence[Block]) -> list[bytes]:
    """One streamed message as the JSON of its events, with Bedrock's metrics in the last."""
    found = [event.split(b"\ndata: ", 1)[1].rstrip(b"\n") for event in events(blocks)]
    last = {**json.loads(found[-1]), "amazon-bedrock-invocationMetrics": METRICS}
    return [*found[:-1], json.dumps(last, separators=(",", ":")).encode()]


def frames(blocks: Sequence[Block], seed: int = 0) -> list[bytes]:
    """The same as frames, padded to lengths that tell nothing."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    return [chunk_frame(document, letters[: rng.randint(1, len(letters))]) for document in documents(blocks)]


def exception_frame(name: str, **members: object) -> bytes:
    """members: ``message`` in place of ours, and more, such as ``originalStatusCode``."""
    return exception(name, json.dumps({"message": "scripted, for account 123456789012", **members}).encode())


def pieces(stream: bytes, seed: int, most: int = 400) -> list[bytes]:
    """``stream`` cut at random places, into pieces of up to ``most`` bytes."""
    rng = random.Random(seed)
    places = [0]
    while places[-1] < len(stream):
        places.append(min(len(stream), places[-1] + rng.randint(1, most)))
    return [stream[a:b] for a, b in pairwise(places)]


def streamed(parts: Iterable[bytes], seed: int = 0, ending: str = "clean") -> Answer:
    """An event stream of these frames, whole or not, each piece of it one write and one HTTP chunk.

    ending: ``clean``, ``close`` (cut, no last chunk), ``reset`` or ``hang`` (silence).
    """
    stream = b"".join(parts)
    steps = [send(STREAM_HEAD), pace([chunk(piece) for piece in pieces(stream, seed)], 0.0)]
    steps += [send(LAST_CHUNK), ["end"]] if ending == "clean" else [[ending]]
    return Answer(tuple(steps), 200, stream)


def held(parts: Iterable[bytes], gate: str, rest: Iterable[bytes]) -> Answer:
    """An event stream that stops after ``parts`` until the gate is released, then goes on with ``rest``."""
    first, last = b"".join(parts), b"".join(rest)
    return Answer((send(STREAM_HEAD + chunk(first)), ["gate", gate], send(chunk(last) + LAST_CHUNK), ["end"]))


def conversation(blocks: Sequence[Block], seed: int = 0) -> Answer:
    """What ``invoke-with-response-stream`` answers."""
    return streamed(frames(blocks, seed), seed)


def broken_by(name: str, blocks: Sequence[Block], place: int, seed: int = 0, **members: object) -> Answer:
    """The message with an exception in place of its frame number ``place`` and of all that follow."""
    return streamed([*frames(blocks, seed)[:place], exception_frame(name, **members)], seed)


def whole(blocks: Sequence[Block]) -> Answer:
    """What ``invoke`` answers."""
    body = json.dumps(message(blocks)).encode()
    counts = [("X-Amzn-Bedrock-Input-Token-Count", "999"), ("X-Amzn-Bedrock-Output-Token-Count", "888")]
    return plain(body, headers=[("Content-Type", "application/json"), REQUEST_ID, *counts])


def counted(tokens: int) -> Answer:
    """What ``count-tokens`` answers."""
    body = json.dumps({"inputTokens": tokens}).encode()
    return plain(body, headers=[("Content-Type", "application/json"), REQUEST_ID])


def failure(
    status: int, name: str, text: str = "scripted, for account 123456789012", headers: Iterable[tuple[str, str]] = ()
) -> Answer:
    """An error as AWS sends it: its name in a header, the words in the body."""
    error_type = ("x-amzn-ErrorType", f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/")
    body = json.dumps({"message": text}).encode()
    lines = [("Content-Type", "application/json"), error_type, REQUEST_ID, *headers]
    return plain(body, status, "Scripted", lines)
