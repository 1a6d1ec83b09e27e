"""The benchmark's load generator: one process, epoll, N keep-alive connections with one call after the other.

    load.py WORK PORT CALLS

Prints one JSON object: how many calls and which failures, seconds, and delays in nanoseconds. While calls run it only
reads, notes the time and keeps the bytes; they are verified after the last one.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time

import messages
from works import BY_NAME, Work

READ = 1 << 18
LIMIT = 180  # seconds for a whole run: far above the slowest proxy's, far below anybody's patience


class Connection:
    """One client. ``answers`` collects (raw bytes, digest of the request body) for the verification."""

    def __init__(self, run: Run, number: int) -> None:
        self.run = run
        self.number = number
        self.sock = socket.create_connection(("127.0.0.1", run.port), timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        run.by_fd[self.sock.fileno()] = self
        run.epoll.register(self.sock, select.EPOLLIN)
        self.unsent = memoryview(b"")
        self.busy = False

    def start(self) -> None:
        """Send the next call, or leave if there is none."""
        if self.sock.fileno() < 0:  # closed while idle, which any proxy may do
            Connection(self.run, self.number).start()
            return
        number = self.run.next_call()
        if number is None:
            return
        request, self.digest = self.run.requests.make(number, self.number)
        self.busy = True
        self.pieces: list[bytes] = []
        self.tail = b""
        self.length = -1  # of the whole answer, where it is known
        self.received = 0
        self.unsent = memoryview(request)
        self.send()

    def send(self) -> None:
        try:
            sent = self.sock.send(self.unsent)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.fail(f"while sending: {error}")
            return
        self.unsent = self.unsent[sent:]
        self.run.epoll.modify(self.sock, select.EPOLLIN | select.EPOLLOUT if self.unsent else select.EPOLLIN)
        if not self.unsent:
            self.asked = time.monotonic_ns()

    def ready(self, mask: int) -> None:
        if mask & select.EPOLLOUT and self.unsent:
            self.send()
        if mask & ~select.EPOLLOUT:
            self.receive()

    def receive(self) -> None:
        try:
            data = self.sock.recv(READ)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(f"cut: {error}")
            return
        now = time.monotonic_ns()
        if not data or not self.busy:
            self.fail("closed by the proxy" if not data else "bytes nobody asked for")
            return
        if not self.pieces:
            self.run.first_bytes.append(now - self.asked)
        self.pieces.append(data)
        self.received += len(data)
        if self.run.work.events:
            self.note_stamps(data, now)
            self.tail = (self.tail + data)[-len(messages.STREAM_END) :]
            if self.tail == messages.STREAM_END:
                self.finish()
            elif len(self.pieces) == 1 and not data.startswith(b"HTTP/1.1 200 "):
                self.fail(f"answered {data[:300]!r}")
        else:
            if self.length < 0:
                self.length = whole_length(b"".join(self.pieces))
            if 0 <= self.length <= self.received:
                self.finish()

    def note_stamps(self, data: bytes, now: int) -> None:
        """Note how long each event took; one that was cut inside its stamp is only verified, not timed."""
        position = data.find(b"@")
        while position >= 0:
            stamp = data[position + 1 : position + 1 + messages.STAMP_DIGITS]
            if len(stamp) == messages.STAMP_DIGITS and stamp.isdigit():
                self.run.delays.append(now - int(stamp))
            position = data.find(b"@", position + 1)

    def finish(self) -> None:
        self.busy = False
        self.run.answers.append((b"".join(self.pieces), self.digest))
        self.start()

    def fail(self, why: str) -> None:
        if self.busy:
            self.run.failures.append(why)
        del self.run.by_fd[self.sock.fileno()]
        self.sock.close()
        if self.busy:
            Connection(self.run, self.number).start()


def whole_length(data: bytes) -> int:
    """Bytes of a whole answer that has a Content-Length; -1 while the head is not complete."""
    head, end, _ = data.partition(messages.HEAD_END)
    if not end:
        return -1
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return len(head) + len(end) + int(value)
    raise SystemExit(f"a small answer without Content-Length: {head!r}")


class Run:
    """All connections of one work."""

    def __init__(self, work: Work, port: int, calls: int) -> None:
        self.work = work
        self.port = port
        self.calls = calls
        self.begun = 0
        self.requests = messages.Requests(work, f"127.0.0.1:{port}")
        self.epoll = select.epoll()
        self.by_fd: dict[int, Connection] = {}
        self.answers: list[tuple[bytes, str]] = []
        self.failures: list[str] = []
        self.delays: list[int] = []
        self.first_bytes: list[int] = []

    def next_call(self) -> int | None:
        if self.begun == self.calls or len(self.failures) > 20:
            return None
        self.begun += 1
        return self.begun

    def go(self) -> float:
        """Run every call; returns the seconds from the first byte to the last."""
        waiting = [Connection(self, number) for number in range(min(self.work.at_once, self.calls))]
        # Streams begin over a second or two: at one moment, their ticks and their uploads would all come in lumps.
        spread = max(1.0, len(waiting) / 500) if self.work.pace else 0.0
        rng = random.Random(len(waiting))
        begin = time.monotonic()
        starts = sorted(((begin + rng.random() * spread, each) for each in waiting), key=lambda pair: -pair[0])
        while len(self.answers) + len(self.failures) < self.calls and len(self.failures) <= 20:
            now = time.monotonic()
            if now - begin > LIMIT:
                self.failures.append(f"not done after {LIMIT} s")
                break
            while starts and starts[-1][0] <= now:
                starts.pop()[1].start()
            for fd, mask in self.epoll.poll(max(0.0, starts[-1][0] - now) if starts else 1.0):
                if fd in self.by_fd:
                    self.by_fd[fd].ready(mask)
        return time.monotonic() - begin


def percentile(values: list[int], share: float) -> int | None:
    """Of a sorted list; None of an empty one."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else None


def main() -> None:
    work = BY_NAME[sys.argv[1]]
    run = Run(work, int(sys.argv[2]), int(sys.argv[3]))
    seconds = run.go()
    for raw, digest in run.answers:
        try:
            messages.check(raw, work, digest)
        except messages.Damaged as error:
            run.failures.append(str(error))
    run.delays.sort()
    run.first_bytes.sort()
    result = {
        "calls": len(run.answers),
        "failures": run.failures,
        "seconds": seconds,
        "delay_p50": percentile(run.delays, 0.5),
        "delay_p99": percentile(run.delays, 0.99),
        "first_byte_p50": percentile(run.first_bytes, 0.5),
        "first_byte_p99": percentile(run.first_bytes, 0.99),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
