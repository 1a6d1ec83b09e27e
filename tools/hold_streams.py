#!/usr/bin/python3
"""Keep streams of a relay open and go on connecting, and tell whether each was whole and none refused.

    tools/hold_streams.py URL --streams NUMBER --text TEXT

As many streams as asked for are open all the time: one that ends is followed by another, on a connection of its own.
Beside them one client after the other connects, asks for the models and leaves. "open" is printed when every stream has
begun. On SIGTERM nothing new begins; what is open ends, and a line says what there was. Exits 0 only if every stream
brought the whole TEXT in well-formed events to its end, and every connection was accepted and answered.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

TIMEOUT = 60  # seconds of silence that nothing here needs, on a slow machine either
PAUSE = 0.01  # seconds between two connections of whoever comes and goes
APART = 0.05  # seconds between the first streams, so that they are at different places at any time
SHOWN = 5  # faults; more say nothing new


class Load:
    """What happens to the clients of one relay. expected: the text of every stream."""

    def __init__(self, url: str, expected: str) -> None:
        self._address = urlsplit(url).netloc
        self._expected = expected
        self._lock = threading.Lock()
        self.over = threading.Event()
        self.begun = threading.Semaphore(0)
        self.whole = self.answered = 0
        self.faults: list[str] = []

    def stream_on(self) -> None:
        """One stream after the other; the first one that has begun is reported to ``begun``."""
        self._try("a stream", lambda: self._stream(tell=True))
        while not self.over.is_set():
            self._try("a stream", self._stream)

    def come_and_go(self) -> None:
        while not self.over.wait(PAUSE):
            self._try("a connection", self._visit)

    def _try(self, what: str, work: Callable[[], None]) -> None:
        began = time.monotonic()
        try:
            work()
        except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
            with self._lock:
                self.faults.append(f"{what}, {time.monotonic() - began:.2f} s after its beginning: {error!r}")
            time.sleep(PAUSE)

    def _visit(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT)
        try:
            connection.request("GET", "/v1/models", headers={"Connection": "close"})
            response = connection.getresponse()
            if response.status != http.client.OK or not json.loads(response.read())["data"]:
                raise ValueError(f"answered by {response.status}")
        finally:
            connection.close()
        with self._lock:
            self.answered += 1

    def _stream(self, *, tell: bool = False) -> None:
        body = {"model": "m", "max_tokens": 1000, "stream": True, "messages": [{"role": "user", "content": "Hello?"}]}
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT)
        try:
            connection.request("POST", "/v1/messages", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            received = b""
            # Not by lines: http.client takes a chunked body that is cut between two of them for a whole one.
            while part := response.read1(65536):
                received += part
                if tell and b"event: content_block_delta" in received:
                    self.begun.release()
                    tell = False
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise ValueError(f"answered by {response.status}")
        self._check(received.decode("utf-8"))
        with self._lock:
            self.whole += 1

    def _check(self, answer: str) -> None:
        *events, rest = answer.split("\n\n")
        fields = [dict(line.split(": ", 1) for line in event.splitlines()) for event in events]
        names = [each["event"] for each in fields]
        data = [json.loads(each["data"]) for each in fields]
        text = "".join(each["delta"]["text"] for each in data if each["type"] == "content_block_delta")
        if rest or names != [each["type"] for each in data]:
            raise ValueError(f"events that are none: {answer[-200:]!r}")
        if (names[0], names[-1]) != ("message_start", "message_stop") or names.count("message_stop") != 1:
            raise ValueError(f"from {names[0]} to {names[-1]}, with {len(names)} events")
        if text != self._expected:
            raise ValueError(f"{len(text)} of {len(self._expected)} characters")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--text", required=True)
    options = parser.parse_args()
    load = Load(options.url, options.text)
    signal.signal(signal.SIGTERM, lambda *_: load.over.set())
    visitor = threading.Thread(target=load.come_and_go)
    streams = [threading.Thread(target=load.stream_on) for _ in range(options.streams)]
    for thread in (visitor, *streams):
        thread.start()
        time.sleep(APART)
    for _ in streams:
        while not load.begun.acquire(timeout=0.1) and not load.over.is_set():
            pass
    print("open", flush=True)
    for thread in (*streams, visitor):
        thread.join()
    print(
        f"{load.whole} whole streams, {options.streams} at a time, and {load.answered} connections besides;",
        f"{len(load.faults)} were cut, refused or wrong",
    )
    print("\n".join(load.faults[:SHOWN]), file=sys.stderr)
    return 1 if load.faults or not load.whole or not load.answered else 0


sys.exit(main())
